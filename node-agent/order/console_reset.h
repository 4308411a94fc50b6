// Lets whoever stands at the machine make `persistent` anew, where the image allows it (node.toml,
// volumes.console_reset) and the recovery entry was chosen in the boot menu.
//
// The entry's name is nobody's word and only leads to a question. What it asks for is a word made for this
// boot, typed at the system's console: no keyboard macro, line noise or name on the ESP answers it. Used by
// the early boot's one thread.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>

#include "node-agent/volume/unlock.h"
#include "shared/base/status.h"

namespace sealift::agent {

// In the place of an order's id, in the report of the early boot.
inline constexpr std::string_view kConsoleResetId = "console";

// Whether an entry that the boot loader started asks for the question: "recovery.conf", "statereset.conf",
// with a counter or without.
bool LeadsToConsoleReset(std::string_view entry);

class ConsoleReset final : public ResetOrders {
 public:
  struct Parts {
    // A signed order goes before the question. May be null.
    ResetOrders* orders = nullptr;
    std::filesystem::path console = "/dev/console";
    // How long it waits for an answer.
    std::chrono::milliseconds patience = std::chrono::seconds(60);
    // What is to be typed after "reset ".
    std::string word;
  };
  explicit ConsoleReset(Parts parts) : parts_(std::move(parts)) {}

  // The order's id, or kConsoleResetId when the answer came, or empty. Errors: those of `orders`;
  // UNAVAILABLE/FILE_UNREADABLE where there is no console.
  Result<std::string> Pending() override;
  Status Consume(const std::string& id) override;

 private:
  Result<bool> Confirmed() const;

  const Parts parts_;
};

// Four letters, by chance.
std::string NewConsoleWord();

}  // namespace sealift::agent
