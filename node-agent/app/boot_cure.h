// One clean reboot after firmware tried other boot options around ours, because the controller asked for it.
//
// Once: a mark on the state partition says that it was made, and stays until a boot was trusted that needs no
// cure. Without that partition there is none, since it could not be remembered. Not thread-safe.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "node-agent/update/seams.h"
#include "shared/base/status.h"

namespace sealift::agent {

inline constexpr std::string_view kBootCureName = "boot-cure";

class BootCure {
 public:
  struct Parts {
    Rebooter& rebooter;
    // Whether the state partition is there.
    std::function<bool()> mounted;
    std::filesystem::path mark;
    std::string boot_id;
  };
  explicit BootCure(Parts parts) : parts_(std::move(parts)) {}

  // The answer to a check-in. `wanted`: the controller wants the reboot. `trusted`: it trusts this boot.
  // `quiet`: no update is under way or on trial, no order in hand. The mark is durable before the reboot is
  // asked for. Errors: those of WriteFileAtomically, of the rebooter; tried again with the next answer.
  Status OnAnswer(bool wanted, bool trusted, bool quiet);

 private:
  const Parts parts_;
  // Told of in this process.
  bool in_vain_told_ = false;
};

}  // namespace sealift::agent
