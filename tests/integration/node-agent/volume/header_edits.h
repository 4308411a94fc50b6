// What whoever holds a disk can do to its LUKS2 header.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "shared/base/bytes.h"
#include "shared/crypto/hash.h"

namespace sealift::test {

// Rewrites the metadata of both copies of a LUKS2 header with right checksums, as whoever holds the disk can:
// nothing in the header is authenticated (LUKS2 format 1.1.2, section 2).
inline void EditMetadata(const std::filesystem::path& device,
                         const std::function<void(nlohmann::ordered_json&)>& edit) {
  constexpr std::size_t kSizeAt = 8;
  constexpr std::size_t kChecksumAt = 0x1C0;
  constexpr std::size_t kJsonAt = 4096;
  std::fstream file(device, std::ios::binary | std::ios::in | std::ios::out);
  std::string head(16384, '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  ByteReader reader(AsBytes(head).subspan(kSizeAt), ByteReader::Endian::kBig);
  ASSERT_EQ(reader.U64(), head.size());
  for (const std::size_t copy : {std::size_t{0}, head.size()}) {
    std::string bytes(head.size(), '\0');
    file.seekg(static_cast<std::streamoff>(copy));
    file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    auto json = nlohmann::ordered_json::parse(bytes.substr(kJsonAt, bytes.find('\0', kJsonAt) - kJsonAt));
    edit(json);
    const std::string text = json.dump();
    bytes.replace(kJsonAt, std::string::npos, bytes.size() - kJsonAt, '\0');
    bytes.replace(kJsonAt, text.size(), text);
    bytes.replace(kChecksumAt, 64, 64, '\0');
    const Sha256Digest checksum = Sha256(AsBytes(bytes));
    bytes.replace(kChecksumAt, 32, ToText(checksum.view()));
    file.seekp(static_cast<std::streamoff>(copy));
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
}

// In both copies; bytes 168 to 207 of a binary header (LUKS2 format 1.1.2, 2.1).
inline void EditUuid(const std::filesystem::path& device, std::string_view uuid) {
  constexpr std::size_t kUuidAt = 168;
  constexpr std::size_t kUuidBytes = 40;
  {
    std::fstream file(device, std::ios::binary | std::ios::in | std::ios::out);
    for (const std::size_t copy : {std::size_t{0}, std::size_t{16384}}) {
      std::string bytes(kUuidBytes, '\0');
      bytes.replace(0, uuid.size(), uuid);
      file.seekp(static_cast<std::streamoff>(copy + kUuidAt));
      file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    }
  }
  // For the checksums.
  EditMetadata(device, [](auto&) {});
}

}  // namespace sealift::test
