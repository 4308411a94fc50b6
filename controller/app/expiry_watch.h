// Tells in the log, at start and once a day, which certificates of the key set end soon or have ended.
#pragma once

#include <optional>
#include <vector>

#include "hsm/expiry.h"
#include "hsm/inventory.h"
#include "shared/base/clock.h"

namespace sealift::controller {

// Not thread-safe; one task calls it. Borrows the clock.
class ExpiryWatch {
 public:
  ExpiryWatch(hsm::Inventory inventory, const Clock& clock)
      : inventory_(std::move(inventory)), clock_(clock) {}

  // Looks when nothing was looked at for a day; nothing otherwise. Returns what was logged: a warning for
  // each certificate with 90 days or less, an error for each that has ended.
  std::optional<std::vector<hsm::ExpiringCertificate>> CheckIfDue();

 private:
  const hsm::Inventory inventory_;
  const Clock& clock_;
  std::optional<UnixMillis> last_;
};

}  // namespace sealift::controller
