// What a machine tells its controller beside its update: orders, epoch, volumes, how it was set up.
//
// Plain values. What the early boot and the installer left is read as it is; nothing of it is proven.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/order/order_seams.h"
#include "shared/base/bytes.h"
#include "shared/base/clock.h"

namespace sealift::agent {

struct EpochReport {
  // The lowest this machine accepts.
  std::uint64_t lowest = 0;
  std::uint64_t base = 0;
  // Of the running image and of what the other roles boot; 0: not known.
  std::uint64_t image = 0;
  std::uint64_t passive = 0;
  std::uint64_t recovery = 0;
};

// The numbers are those of the wire (proto VolumeStatus.State).
enum class VolumeState { kOpen = 1, kPlain = 2, kLocked = 3, kRefused = 4, kMissing = 5, kRecovered = 6 };

struct VolumeReport {
  std::string name;
  VolumeState state = VolumeState::kMissing;
  std::string luks_uuid;
  std::string reason;
  std::string message;
  // Some token of it does without: as the volume is, whatever the running image demands.
  bool without_pcr7 = false;
};

struct MachineReport {
  Bytes order_nonce;
  std::vector<OrderOutcome> order_outcomes;
  std::optional<EpochReport> epoch;
  std::vector<VolumeReport> volumes;
};

struct InstallRecord {
  Sha256Digest config_digest;
  std::string config_source;
  std::string version;
  UnixMillis installed;
};

// From what the early boot left in the runtime folder (node-agent/volume/unlock.h); at most 16. Empty where
// it left nothing.
std::vector<VolumeReport> ReadVolumeReports(const std::filesystem::path& runtime);
// The installer's record in the state folder; nothing where there is none, or it is not well formed.
std::optional<InstallRecord> ReadInstallRecord(const std::filesystem::path& file);

}  // namespace sealift::agent
