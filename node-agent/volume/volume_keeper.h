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

// What one volume says of itself; nothing of it is proven.
struct VolumeHeader {
  std::string name;
  std::string luks_uuid;
  std::vector<VolumeBound> bindings;
  // Ascending by slot: more than one while a recovery key is being replaced.
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

 private:
  friend class VolumeKeeper;
  UnsealedVolume() = default;
  std::filesystem::path device_;
  VolumeHeader header_;
  std::uint64_t epoch_base_ = 0;
  std::uint32_t slot_ = 0;
  Sha256Digest tag_;
  SecretBytes secret_;
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
  // stays open; its key is in the kernel only. A cut leaves a volume that opens for nobody or is complete.
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
  // Binds the volume to every key of the image that it is not bound to in this Secure Boot state. Returns how
  // many were added; at most five tokens are kept. Errors: as Make.
  Result<std::size_t> AddBindings(const UnsealedVolume& volume, const RunningImage& image);
  // By recovery key (its text). The tag cannot be checked. Errors: UNAUTHENTICATED/RECOVERY_KEY_WRONG; as
  // ReadHeader.
  Result<VolumeFacts> OpenByRecoveryKey(const std::filesystem::path& device, const std::string& name,
                                        const SecretBytes& recovery_key);

  // A new recovery key in a free slot, escrowed; the old slot stays until DropRecovery, so that the new one
  // can be acknowledged first. Errors: as Make.
  Result<escrow::EscrowedKey> AddRecovery(const UnsealedVolume& volume, const EscrowTo& escrow);
  // Removes every slot but the TPM's and `keep_slot`, with its token. Needs no key. Errors:
  // FAILED_PRECONDITION/VOLUME_DAMAGED; NOT_FOUND/RECOVERY_KEY_UNKNOWN when `keep_slot` is no recovery slot.
  Status DropRecovery(const std::filesystem::path& device, const std::string& name, std::uint32_t keep_slot);

 private:
  Status AddBinding(LuksHeader& header, const std::string& name, const VolumeBinding& binding,
                    std::uint32_t slot, const SecretBytes& payload, const Sha256Digest& tag);
  Result<escrow::EscrowedKey> AddRecoverySlot(LuksHeader& header, const std::string& name,
                                              const SecretBytes& volume_key, const EscrowTo& to);
  // The volume key, once the volume has shown its tag.
  Result<SecretBytes> ProvenKey(const UnsealedVolume& volume);
  Parts parts_;
};

// The lowest acceptable epoch is counter - base: defines the counter where it is missing, and gives the base
// with which the machine accepts `epoch` and what is above. Errors: those of DefineCounter.
Result<std::uint64_t> NewEpochBase(TpmCounters& counters, std::uint64_t epoch);

}  // namespace sealift::agent
