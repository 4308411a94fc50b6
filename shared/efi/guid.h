// EFI GUIDs: 16 bytes as firmware stores them (first three groups little-endian), and their text form.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "shared/base/bytes.h"

namespace sealift::efi {

// A plain value; thread-safe like any.
struct Guid {
  // As in memory and on disk.
  std::array<std::uint8_t, 16> bytes{};

  auto operator<=>(const Guid&) const = default;
  ByteView view() const { return bytes; }
  // "8be4df61-93ca-11d2-aa0d-00e098032b8c".
  std::string text() const;
  // Either case, with hyphens. Errors: INVALID_ARGUMENT/MALFORMED.
  static Result<Guid> Parse(std::string_view text);
  // Errors: INVALID_ARGUMENT/MALFORMED unless 16 bytes.
  static Result<Guid> FromBytes(ByteView bytes);
  // For constants: the groups as they are written.
  static constexpr Guid Make(std::uint32_t a, std::uint16_t b, std::uint16_t c,
                             std::array<std::uint8_t, 8> rest) {
    const auto byte = [](std::uint32_t value, int shift) {
      return static_cast<std::uint8_t>((value >> shift) & 0xff);
    };
    Guid guid{
        {byte(a, 0), byte(a, 8), byte(a, 16), byte(a, 24), byte(b, 0), byte(b, 8), byte(c, 0), byte(c, 8)}};
    for (std::size_t i = 0; i < rest.size(); ++i) guid.bytes[8 + i] = rest[i];
    return guid;
  }
};

// Vendor of PK, KEK, SecureBoot, SetupMode, BootOrder (UEFI 2.10 section 3.3).
inline constexpr Guid kGlobalVariable =
    Guid::Make(0x8be4df61, 0x93ca, 0x11d2, {0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c});
// Vendor of db, dbx, dbt (section 32.6.1).
inline constexpr Guid kImageSecurityDatabase =
    Guid::Make(0xd719b2cb, 0x3d3a, 0x4596, {0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f});
// Vendor of systemd-boot's Loader* variables (UAPI Boot Loader Interface).
inline constexpr Guid kLoaderVendor =
    Guid::Make(0x4a67b082, 0x0a4c, 0x41cf, {0xb6, 0xc7, 0x44, 0x0b, 0x29, 0xbb, 0x8c, 0x4f});
// EFI_SIGNATURE_LIST types (section 32.4.1).
inline constexpr Guid kCertX509 =
    Guid::Make(0xa5c059a1, 0x94e4, 0x4aa7, {0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72});
inline constexpr Guid kCertSha256 =
    Guid::Make(0xc1c41626, 0x504c, 0x4092, {0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28});
inline constexpr Guid kCertSha1 =
    Guid::Make(0x826ca512, 0xcf10, 0x4ac9, {0xb1, 0x87, 0xbe, 0x01, 0x49, 0x66, 0x31, 0xbd});
inline constexpr Guid kCertSha384 =
    Guid::Make(0xff3e5307, 0x9fd0, 0x48c9, {0x85, 0xf1, 0x8a, 0xd5, 0x6c, 0x70, 0x1e, 0x01});
inline constexpr Guid kCertSha512 =
    Guid::Make(0x093e0fae, 0xa6c4, 0x4f50, {0x9f, 0x1b, 0xd4, 0x1e, 0x2b, 0x89, 0xc1, 0x9a});
inline constexpr Guid kCertRsa2048 =
    Guid::Make(0x3c5766e8, 0x269c, 0x4e34, {0xaa, 0x14, 0xed, 0x77, 0x6e, 0x85, 0xb3, 0xb6});
inline constexpr Guid kCertX509Sha256 =
    Guid::Make(0x3bd2a492, 0x96c0, 0x4079, {0xb4, 0x20, 0xfc, 0xf9, 0x8e, 0xf1, 0x03, 0xed});
// WIN_CERTIFICATE_UEFI_GUID holding PKCS#7 (section 32.2.4).
inline constexpr Guid kCertTypePkcs7 =
    Guid::Make(0x4aafd29d, 0x68df, 0x49ee, {0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7});

}  // namespace sealift::efi
