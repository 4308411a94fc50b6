// A system extension as a discoverable disk image: a file system, its verity hashes, and a signature over
// their root hash by the fleet's `extensions` key (UAPI.2, UAPI.3; systemd-sysext(8), org.systemd verity.d).
//
//   SEALIFT_ASSIGN_OR_RETURN(ExtensionImage image, ExtensionImage::Open(path));
//   SEALIFT_RETURN_IF_ERROR(image.Verify(certificates));     // before anything of it is mounted
//
// Verified in user space, to the last byte of data: the file is in memory or immutable afterwards. Reads are
// bounded; thread-safe.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "shared/base/files.h"
#include "shared/ddi/gpt.h"
#include "shared/ddi/verity.h"

namespace sealift::ddi {

// Partition types of x86-64 (UAPI.2). Where an extension's tree lies in "root" or in "usr" is the maker's
// choice; ours lies in root.
inline constexpr efi::Guid kRootX86 =
    efi::Guid::Make(0x4f68bce3, 0xe8cd, 0x4db1, {0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09});
inline constexpr efi::Guid kRootX86Verity =
    efi::Guid::Make(0x2c7357ed, 0xebd2, 0x46d9, {0xae, 0xc1, 0x23, 0xd4, 0x37, 0xec, 0x2b, 0xf5});
inline constexpr efi::Guid kRootX86VeritySignature =
    efi::Guid::Make(0x41092b05, 0x9fc8, 0x4523, {0x99, 0x4f, 0x2d, 0xef, 0x04, 0x08, 0xb1, 0x76});

inline constexpr std::uint64_t kMaxExtensionBytes = 1ull << 30;
// Of the signature partition's JSON.
inline constexpr std::size_t kMaxSignatureBytes = 64u << 10;

// The GUIDs that a root hash gives to its data and hash partitions: its first and its last 16 bytes.
struct PartitionIds {
  efi::Guid data;
  efi::Guid hashes;
};
PartitionIds IdsOf(const Sha256Digest& root_hash);

// The signature partition's content, up to its padding.
std::string FormatVeritySignature(const Sha256Digest& root_hash, ByteView certificate_der, ByteView pkcs7);

class ExtensionImage {
 public:
  // Finds the three partitions and what they claim. Errors: NOT_FOUND/FILE_UNREADABLE; FILE_TOO_LARGE;
  // INVALID_ARGUMENT/EXTENSION_INVALID for anything that is no such image.
  static Result<ExtensionImage> Open(const std::filesystem::path& path);

  // The signature is by one of `certificates` (DER), over a root hash that the data have.
  // Errors: UNAUTHENTICATED/EXTENSION_SIGNATURE_INVALID; FILE_UNREADABLE.
  Status Verify(std::span<const Bytes> certificates) const;

  // As signed; proven by Verify alone.
  const Sha256Digest& root_hash() const { return root_hash_; }
  // Where the file system lies. No more than this is verified.
  std::uint64_t data_offset() const { return data_.offset; }
  std::uint64_t data_bytes() const { return superblock_.data_blocks * kVerityBlockBytes; }
  const std::filesystem::path& path() const { return path_; }
  std::uint64_t file_size() const { return file_size_; }
  int fd() const { return fd_.get(); }

 private:
  ExtensionImage() = default;
  UniqueFd fd_;
  std::filesystem::path path_;
  std::uint64_t file_size_ = 0;
  Partition data_;
  VeritySuperblock superblock_;
  Sha256Digest root_hash_;
  Bytes pkcs7_;
};

}  // namespace sealift::ddi
