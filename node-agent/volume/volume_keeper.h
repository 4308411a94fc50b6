// Makes, opens and re-keys this machine's encrypted volumes.
//
// A volume is LUKS2 (AES-256 XTS) with a token of type "sealift" that holds a secret S sealed by the TPM.
// One slot's passphrase is derived from S; so is a proof key, whose tag over name, UUID, cipher and volume
// key lies in the token. A volume that cannot show that tag is not ours, whatever its labels say, and is
// never mapped. A second slot holds a recovery key, which leaves the machine encrypted only. docs/volumes.md
// has the format.
//
// Not thread-safe. Borrows its parts. Keys come from the kernel's generator (LUKS volume keys) and OpenSSL's.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "node-agent/tpm/counters.h"
#include "node-agent/tpm/vault.h"
#include "node-agent/volume/seams.h"
#include "node-agent/volume/volume.h"
#include "shared/uki/pcr_policy.h"

namespace sealift::agent {

class LuksHeader;

struct MakeOptions {
  VolumeBinding binding;
  EscrowTo escrow;
  // Goes into the sealed payload: epoch = kEpochCounter - base.
  std::uint64_t epoch_base = 0;
};

// To what software one token of a volume is bound.
struct VolumeBound {
  PublicKey policy_key;
  std::vector<std::uint32_t> signed_pcrs;
  // PCR 7; none when it was left out.
  std::optional<Sha256Digest> secure_boot;
};

// What one volume says of itself; nothing of it is proven, but where it is said.
struct VolumeHeader {
  std::string name;
  std::string luks_uuid;
  std::vector<VolumeBound> bindings;
  // Ascending by slot: more than one while a recovery key is being replaced. Of an unsealed volume only those
  // that this machine wrote for this volume and slot.
  std::vector<escrow::EscrowedKey> recoveries;
};

// What the measured image brings: its .pcrsig and .pcrpkey (the stub leaves them in /.extra), and whether its
// node.toml lets volumes do without PCR 7.
struct RunningImage {
  uki::PcrSignatures signatures;
  PublicKey policy_key;
  bool bind_secure_boot = true;
  // Other generations of the key, which the image vouches for: volumes are bound to them beforehand, so that
  // an image of the next generation opens them.
  std::vector<PublicKey> accepted_keys = {};
};

// A volume whose TPM secret came out, before anything of it is mapped.
class UnsealedVolume {
 public:
  const VolumeHeader& header() const { return header_; }
  const std::filesystem::path& device() const { return device_; }
  std::uint64_t epoch_base() const { return epoch_base_; }
  // The slot that the TPM's secret opens.
  std::uint32_t slot() const { return slot_; }
  // Whether it has a recovery key that was made for this order.
  bool HasRecoveryFor(std::string_view order) const;

 private:
  friend class VolumeKeeper;
  UnsealedVolume() = default;
  std::filesystem::path device_;
  VolumeHeader header_;
  std::uint64_t epoch_base_ = 0;
  std::uint32_t slot_ = 0;
  Sha256Digest tag_;
  SecretBytes secret_;
  // Of its recovery keys.
  std::vector<std::string> orders_;
};

class VolumeKeeper {
 public:
  struct Parts {
    TpmVault& vault;
    Mapper& mapper;
    Mounts& mounts;
  };
  explicit VolumeKeeper(Parts parts) : parts_(parts) {}

  // Formats the device, seals, escrows, opens as /dev/mapper/<name> and makes the file system. The volume
  // stays open (closed after an error); its key is in the kernel only. A cut leaves a volume that opens for
  // nobody or is complete. That the escrow key can be used is tried before the device is touched.
  // Errors: FAILED_PRECONDITION/VOLUME_DAMAGED when the device cannot be written; those of TpmVault::Seal,
  // Escrow, Mapper, Mounts.
  Result<MadeVolume> Make(const VolumeSpec& spec, const MakeOptions& options);

  // Reads header and token; asks no TPM. Errors: NOT_FOUND/VOLUME_MISSING; FAILED_PRECONDITION with
  // VOLUME_NOT_ENCRYPTED (no LUKS2, null or weak cipher, more than one segment), VOLUME_DAMAGED (unreadable
  // header), VOLUME_FOREIGN (no token of ours, or one for another name).
  Result<VolumeHeader> ReadHeader(const std::filesystem::path& device, const std::string& name);

  // Asks the TPM for the secret. Only a token for this name, the image's own policy key, PCRs 11, 12 and 13
  // signed and (unless the image lets go of it) PCR 7 literal counts. Errors: as ReadHeader; those of
  // TpmVault::Unseal; FAILED_PRECONDITION/VOLUME_LOCKED when the volume is bound to another key, or the image
  // has no signature for the registers of now; VOLUME_FOREIGN when the token's policy is weaker, or it was
  // made while PCR 7 was another.
  Result<UnsealedVolume> Unseal(const std::filesystem::path& device, const std::string& name,
                                const RunningImage& image);
  // Proves the volume by its tag and maps it. Errors: FAILED_PRECONDITION/VOLUME_FOREIGN; Mapper's.
  Result<VolumeFacts> Open(const UnsealedVolume& volume);
  // Removes tokens that are none of ours for this volume, which anybody could have written; and, for an image
  // that demands PCR 7, ours that do without it. Returns how many. Only for a volume that Open has proven.
  // Errors: as ReadHeader.
  Result<std::size_t> RemoveForeignTokens(const UnsealedVolume& volume, const RunningImage& image);
  // Binds the volume to every key of the image that it is not bound to in this Secure Boot state, never less
  // strictly than it is bound now. Returns how many were added. At most five tokens are kept: those of keys
  // that the image does not name make room, then those of other Secure Boot states. Errors: as Make;
  // FAILED_PRECONDITION/VOLUME_LOCKED without room.
  Result<std::size_t> AddBindings(const UnsealedVolume& volume, const RunningImage& image);
  // By recovery key (its text). The tag cannot be checked. Errors: UNAUTHENTICATED/RECOVERY_KEY_WRONG; as
  // ReadHeader.
  Result<VolumeFacts> OpenByRecoveryKey(const std::filesystem::path& device, const std::string& name,
                                        const SecretBytes& recovery_key);

  // A new recovery key in a free slot, escrowed; the old slot stays until DropRecovery, so that the new one
  // can be acknowledged first. `order`: who asked for it (IsOrderId). Errors: as Make.
  Result<escrow::EscrowedKey> AddRecovery(const UnsealedVolume& volume, const EscrowTo& escrow,
                                          const std::string& order);

  // What the early boot knew of a volume when it opened.
  struct OpenSlots {
    std::string luks_uuid;
    // The TPM's, and the recovery slot that stays.
    std::uint32_t tpm = 0;
    std::uint32_t recovery = 0;
  };
  // Removes every slot but these, and the other recovery tokens. Needs no key, and believes no token. Errors:
  // FAILED_PRECONDITION with VOLUME_DAMAGED, VOLUME_FOREIGN (another UUID); NOT_FOUND/RECOVERY_KEY_UNKNOWN
  // when the recovery slot is not in use.
  Status DropRecovery(const std::filesystem::path& device, const OpenSlots& keep);

 private:
  Status AddBinding(LuksHeader& header, const std::string& name, const VolumeBinding& binding,
                    std::uint32_t slot, const SecretBytes& payload, const Sha256Digest& tag);
  // What a recovery slot and its token are made with, beside the escrow key.
  struct Inside {
    const std::string& name;
    // S.
    ByteView secret;
    const SecretBytes& volume_key;
  };
  Result<escrow::EscrowedKey> AddRecoverySlot(LuksHeader& header, const Inside& inside, const EscrowTo& to,
                                              const std::string& order);
  // The volume key, once the volume has shown its tag.
  Result<SecretBytes> ProvenKey(const UnsealedVolume& volume);
  Parts parts_;
};

// A machine counts that far to begin with, and by no larger step later: each step is a write of the TPM's
// memory.
inline constexpr std::uint64_t kMaxEpochSteps = 1000;

// The lowest acceptable epoch is counter - base: defines the counter where it is missing, counts a young one
// up to `epoch`, and gives the base with which the machine accepts `epoch` and what is above; never more than
// the counter. Errors: those of DefineCounter; FAILED_PRECONDITION/EPOCH_UNUSABLE for more than
// kMaxEpochSteps.
Result<std::uint64_t> NewEpochBase(TpmCounters& counters, std::uint64_t epoch);

}  // namespace sealift::agent
