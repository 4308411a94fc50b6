#include "shared/ddi/verity.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "shared/crypto/hash.h"
#include "shared/ddi/pread.h"

namespace sealift::ddi {
namespace {

constexpr std::array<std::uint8_t, 8> kSignature = {'v', 'e', 'r', 'i', 't', 'y', 0, 0};
constexpr std::string_view kAlgorithm = "sha256";
constexpr std::size_t kAlgorithmBytes = 32;
constexpr std::size_t kReadBlocks = 64;
// 4 GiB.
constexpr std::uint64_t kMaxBlocks = 1ull << 20;

Status Bad(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kExtensionInvalid,
                   fmt::format("read verity superblock: {}", what));
}

Sha256Digest HashBlock(Sha256Hasher& hasher, const Bytes& salt, ByteView block) {
  hasher.Update(salt);
  hasher.Update(block);
  return hasher.Finish();
}

// The level above: hashes of blocks full of hashes, the last one padded with zeros.
Bytes NextLevel(Sha256Hasher& hasher, const Bytes& salt, Bytes level) {
  level.resize((level.size() + kVerityBlockBytes - 1) / kVerityBlockBytes * kVerityBlockBytes);
  Bytes above;
  for (std::size_t at = 0; at < level.size(); at += kVerityBlockBytes)
    Append(above, HashBlock(hasher, salt, ByteView(level).subspan(at, kVerityBlockBytes)).view());
  return above;
}

}  // namespace

Result<VeritySuperblock> ParseVeritySuperblock(ByteView bytes) {
  ByteReader reader(bytes, ByteReader::Endian::kLittle);
  const ByteView signature = reader.Take(kSignature.size());
  if (!std::ranges::equal(signature, kSignature)) return Bad("there is none");
  const std::uint32_t version = reader.U32();
  const std::uint32_t hash_type = reader.U32();
  reader.Skip(16);
  std::string algorithm = ToText(reader.Take(kAlgorithmBytes));
  algorithm.resize(std::min(algorithm.size(), algorithm.find('\0')));
  const std::uint32_t data_block = reader.U32();
  const std::uint32_t hash_block = reader.U32();
  VeritySuperblock superblock;
  superblock.data_blocks = reader.U64();
  const std::uint16_t salt_size = reader.U16();
  reader.Skip(6);
  const ByteView salt = reader.Take(kMaxSaltBytes);
  if (!reader.ok()) return Bad("it is cut off");
  if (version != 1 || hash_type != 1) return Bad("another version than 1");
  if (algorithm != kAlgorithm) return Bad("another hash than sha256");
  if (data_block != kVerityBlockBytes || hash_block != kVerityBlockBytes)
    return Bad("blocks of another size than 4096 bytes");
  if (superblock.data_blocks == 0 || superblock.data_blocks > kMaxBlocks) return Bad("no data, or too much");
  if (salt_size > kMaxSaltBytes) return Bad("a salt above 256 bytes");
  superblock.salt = ToBytes(salt.first(salt_size));
  return superblock;
}

Result<Sha256Digest> ComputeVerityRoot(int fd, std::uint64_t offset, const VeritySuperblock& superblock) {
  Sha256Hasher hasher;
  Bytes level;
  Bytes buffer(kReadBlocks * kVerityBlockBytes);
  for (std::uint64_t done = 0; done < superblock.data_blocks;) {
    const auto blocks =
        static_cast<std::size_t>(std::min<std::uint64_t>(kReadBlocks, superblock.data_blocks - done));
    const auto piece = std::span(buffer).first(blocks * kVerityBlockBytes);
    SEALIFT_RETURN_IF_ERROR(ReadInto(fd, offset + done * kVerityBlockBytes, piece));
    for (std::size_t i = 0; i < blocks; ++i) {
      const ByteView block = ByteView(piece).subspan(i * kVerityBlockBytes, kVerityBlockBytes);
      Append(level, HashBlock(hasher, superblock.salt, block).view());
    }
    done += blocks;
  }
  while (level.size() > Sha256Digest().bytes.size())
    level = NextLevel(hasher, superblock.salt, std::move(level));
  return Sha256Digest::FromBytes(level);
}

}  // namespace sealift::ddi
