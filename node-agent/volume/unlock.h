// The early-boot unlock: before PCR 11 carries `sysinit`, and before anything of a disk is read as data.
//
// Order: every volume is unsealed, which opens nothing; the epoch of this machine is read from the TPM's
// counter and compared with the image's; a signed reset order is carried out; each volume is proven, mapped
// and mounted. Not thread-safe; borrows its parts.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/volume/volume_keeper.h"
#include "shared/base/clock.h"

namespace sealift::agent {

inline constexpr std::string_view kEpochFile = "/usr/lib/sealift/epoch";
// Under the runtime folder, for the running agent: {"base": N, "value": N, "epoch": N, "image": N}; `value`
// is the counter's, `epoch` the lowest this machine accepts.
inline constexpr std::string_view kEpochStateName = "epoch";
// Beside it: what became of each volume, and its escrowed recovery keys.
inline constexpr std::string_view kVolumesStateName = "volumes.json";
// In the agent's state folder: present while recovery keys are to be replaced. The early boot adds new ones,
// since only it can open the volumes' secrets; the running agent uploads them and drops the old ones.
inline constexpr std::string_view kReplaceRecoveryName = "replace-recovery";

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
  // For a reset, which makes it anew.
  std::string fs_label;
};

struct UnlockOptions {
  // Opened and mounted, or the boot has failed. The first is `persistent` or `oem`, as CosVolumes has them.
  std::vector<MountRule> required;
  std::uint64_t image_epoch = 0;
  std::chrono::milliseconds device_timeout = std::chrono::seconds(30);
  // For a reset and for new recovery keys, asked only then: a TPM may take seconds to name itself. Empty:
  // neither is done.
  std::function<Result<EscrowTo>()> escrow;
  // Its presence asks for new recovery keys; looked at when everything is mounted.
  std::filesystem::path replace_recovery;
};

// oem to /oem, persistent to /usr/local.
std::vector<MountRule> CosVolumes();

struct VolumeOutcome {
  std::string name;
  std::filesystem::path device;
  // OK: proven and mapped.
  Status status;
  // OK: mounted, or no rule says where.
  Status mount = OkStatus();
  std::string luks_uuid;
  // The TPM's key slot.
  std::uint32_t slot = 0;
  std::vector<VolumeBound> bindings;
  std::vector<escrow::EscrowedKey> recoveries;
  // Opened by its recovery key, unproven.
  bool recovered = false;
};

struct UnlockReport {
  std::uint64_t epoch_base = 0;
  std::uint64_t counter = 0;
  // The lowest epoch this machine accepts.
  std::uint64_t epoch = 0;
  std::uint64_t image_epoch = 0;
  // Id of the order that was carried out.
  std::string reset;
  // Every candidate: a refused one with a required volume's name is reported beside the one that opened.
  std::vector<VolumeOutcome> volumes;
  // Required ones that did not open or mount, with the reason that explains it best.
  std::map<std::string, Status> missing;
};

struct UnlockParts {
  VolumeKeeper& keeper;
  TpmCounters& counters;
  Mounts& mounts;
  Clock& clock;
  // Null: no reset is ever carried out.
  ResetOrders* resets = nullptr;
  // PartitionsByLabel.
  std::function<std::multimap<std::string, std::filesystem::path>()> partitions;
  // Called when volumes were opened and nothing is mounted yet, which may take long (fsck): what is known by
  // then should not be lost when somebody loses patience. May be empty.
  std::function<void(const UnlockReport&)> opened = nullptr;
};

// Opens all that proves itself. Errors, with nothing opened: FAILED_PRECONDITION/EPOCH_TOO_LOW,
// EPOCH_UNUSABLE; those of TpmCounters. A volume's own error is in the report.
Result<UnlockReport> UnlockVolumes(const UnlockOptions& options, const RunningImage& image,
                                   UnlockParts parts);

// "<runtime>/epoch" and "<runtime>/volumes.json". Errors: those of WriteFileAtomically.
Status WriteUnlockState(const std::filesystem::path& runtime, const UnlockReport& report);
// What was opened later in the same boot: takes the place of what was told of these devices; the epoch stays.
// Errors: those of WriteFileAtomically.
Status AddUnlockState(const std::filesystem::path& runtime, const UnlockReport& report);

// What the early boot left for the running agent. Errors: FAILED_PRECONDITION/EPOCH_UNUSABLE when it left
// nothing (no encrypted volume) or something else.
struct EpochState {
  std::uint64_t base = 0;
  std::uint64_t counter = 0;
  std::uint64_t epoch = 0;
  std::uint64_t image = 0;
};
Result<EpochState> ReadEpochState(const std::filesystem::path& runtime);
// The volumes that the TPM opened in this boot, and what they are bound to: what the next image must open.
// Errors: FAILED_PRECONDITION/EPOCH_UNUSABLE when it left nothing or something else.
struct OpenVolume {
  std::filesystem::path device;
  // The TPM's key slot.
  std::uint32_t slot = 0;
  // With the bindings, but no recovery keys.
  VolumeHeader header;
};
Result<std::vector<OpenVolume>> ReadOpenVolumes(const std::filesystem::path& runtime);
// The recovery keys of the volumes that the TPM opened, to be escrowed. Errors: as ReadOpenVolumes.
Result<std::vector<escrow::EscrowedKey>> ReadEscrowedKeys(const std::filesystem::path& runtime);

// The image's epoch. Errors: FAILED_PRECONDITION/EPOCH_UNUSABLE when there is none or it is no number.
Result<std::uint64_t> ReadImageEpoch(const std::filesystem::path& file = kEpochFile);

inline constexpr std::string_view kPolicyKeysFile = "/usr/lib/sealift/pcr-keys.pem";
// .pcrsig and .pcrpkey as the stub leaves them, and the other key generations that the image names, if any.
// Errors: those of ReadFile, ParsePcrSignatures and PublicKey.
Result<RunningImage> ReadRunningImage(bool bind_secure_boot, const std::filesystem::path& extra = "/.extra",
                                      const std::filesystem::path& keys = kPolicyKeysFile);

}  // namespace sealift::agent
