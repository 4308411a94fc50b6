// The early-boot unlock: before PCR 11 carries `sysinit`, and before anything of a disk is read as data.
//
// Order: the epoch's counter is read and compared with the image's epoch; a pending reset order is carried
// out; each volume is unsealed, proven, mapped and mounted. Not thread-safe; borrows its parts.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "node-agent/volume/volume_keeper.h"
#include "shared/base/clock.h"

namespace sealift::agent {

inline constexpr std::string_view kEpochFile = "/usr/lib/sealift/epoch";
// What the running agent is told, under its runtime folder: {"base": N, "value": N, "image": N}.
inline constexpr std::string_view kEpochStateName = "epoch";

// A signed order to re-create `persistent`, left on the ESP by the running agent of the boot before. Whoever
// implements it verifies it again: the ESP is foreign.
class ResetOrders {
 public:
  virtual ~ResetOrders() = default;
  // The verified order's id; empty when there is none, or it is not good (which is logged).
  virtual Result<std::string> Pending() = 0;
  // Called when the volume was made anew: the order is never good again (kOrderCounter).
  virtual Status Consume(const std::string& id) = 0;
};

struct MountRule {
  std::string volume;
  std::filesystem::path target;
  std::string fs_type = "ext4";
};

struct UnlockOptions {
  // Opened and mounted, or the boot has failed: oem to /oem, persistent to /usr/local.
  std::vector<MountRule> required;
  std::uint64_t image_epoch = 0;
  std::chrono::milliseconds device_timeout = std::chrono::seconds(30);
  // For a reset, which makes a volume anew.
  EscrowTo escrow;
};

struct VolumeOutcome {
  std::string name;
  std::filesystem::path device;
  // OK: mapped, and mounted where a rule says so.
  Status status;
};

struct UnlockReport {
  std::uint64_t epoch_base = 0;
  // The lowest epoch this machine accepts.
  std::uint64_t epoch = 0;
  // Id of the order that was carried out.
  std::string reset;
  std::vector<VolumeOutcome> volumes;
};

}  // namespace sealift::agent
