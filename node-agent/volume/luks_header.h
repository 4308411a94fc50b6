// One LUKS2 header, through libcryptsetup. Included inside this folder only.
//
// Move-only, not thread-safe. Slots use PBKDF2 with the library's least iterations: every passphrase here is
// 256 random bits, so stretching it would add time at each boot and nothing else.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "shared/base/secret.h"
#include "shared/base/status.h"

struct crypt_device;

namespace sealift::agent {

// AES-256 in XTS mode: two keys.
inline constexpr std::size_t kVolumeKeyBytes = 64;
inline constexpr std::string_view kVolumeCipher = "aes-xts-plain64";

class LuksHeader {
 public:
  // Writes a new header with a random UUID and a volume key from the kernel's generator, and no slot yet.
  // Sectors of 512 bytes: a torn write then tears no more than it would without encryption.
  // Errors: FAILED_PRECONDITION/VOLUME_DAMAGED when the device cannot be written or is too small.
  static Result<LuksHeader> Format(const std::filesystem::path& device, const std::string& label);
  // Reads a header, and refuses all but what Format writes: one segment from the data offset to the end, of
  // that cipher, without integrity or a re-encryption under way (whose second segment may be plaintext).
  // Errors: NOT_FOUND/VOLUME_MISSING; FAILED_PRECONDITION with VOLUME_NOT_ENCRYPTED, VOLUME_DAMAGED or
  // VOLUME_FOREIGN (another kind of LUKS).
  static Result<LuksHeader> Load(const std::filesystem::path& device);

  LuksHeader(LuksHeader&&) noexcept = default;
  LuksHeader& operator=(LuksHeader&&) noexcept = default;

  std::string uuid() const;
  const std::filesystem::path& device() const { return device_; }

  // Adds a slot; returns its number. The first slot of a new header takes the key that Format made.
  Result<std::uint32_t> AddSlot(const SecretBytes& passphrase, const SecretBytes* volume_key);
  // Errors: UNAUTHENTICATED/VOLUME_FOREIGN when the passphrase opens no such slot; `slot`: -1 for any.
  Result<SecretBytes> VolumeKey(const SecretBytes& passphrase, int slot) const;
  Status RemoveSlot(std::uint32_t slot);
  // Those in use, ascending.
  std::vector<std::uint32_t> Slots() const;
  // Random, of the slot's PBKDF2; another whenever a slot is made. Empty for a slot that is not in use.
  std::string SlotSalt(std::uint32_t slot) const;

  struct Token {
    int number = 0;
    // With "type" and "keyslots".
    std::string json;
  };
  // Tokens whose type is `type`.
  std::vector<Token> Tokens(std::string_view type) const;
  // `number`: an existing token, or -1 for a new one.
  Status SetToken(int number, const std::string& json);
  Status RemoveToken(int number);

  // Maps the volume as /dev/mapper/<name> with exactly this header's segment.
  Status Activate(const std::string& name, const SecretBytes& volume_key);

 private:
  struct Free {
    void operator()(crypt_device* device) const;
  };
  LuksHeader(std::unique_ptr<crypt_device, Free> handle, std::filesystem::path device)
      : handle_(std::move(handle)), device_(std::move(device)) {}
  static Result<LuksHeader> Open(const std::filesystem::path& device);
  Status CheckMetadata() const;

  std::unique_ptr<crypt_device, Free> handle_;
  std::filesystem::path device_;
};

// Takes a mapped device away; waits up to five seconds for others to let go of it. Success where it is not
// mapped.
Status DeactivateMapped(const std::string& name);

}  // namespace sealift::agent
