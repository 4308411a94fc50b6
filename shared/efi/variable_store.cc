#include "shared/efi/variable_store.h"

#include <fmt/format.h>

#include <algorithm>

namespace sealift::efi {
namespace {

constexpr Guid kNvDataVolume =
    Guid::Make(0xfff12b8d, 0x7696, 0x4c8b, {0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50});
constexpr Guid kAuthenticatedStore =
    Guid::Make(0xaaf32c78, 0x947b, 0x439a, {0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92});

constexpr std::uint32_t kVolumeSignature = 0x4856465f;  // "_FVH"
constexpr std::size_t kStoreHeaderBytes = 28;
constexpr std::uint8_t kFormatted = 0x5a;
constexpr std::uint8_t kHealthy = 0xfe;
constexpr std::uint16_t kVariableStart = 0x55aa;
// Bits are cleared as a variable goes through its life.
constexpr std::uint8_t kAdded = 0x3f;
constexpr std::uint8_t kAddedBeingReplaced = 0x3e;
constexpr std::size_t kMaxVariables = 4096;
constexpr std::uint32_t kMaxNameBytes = 1024;

Status Malformed(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed, fmt::format("read variable store: {}", what));
}

Result<ByteView> FindStore(ByteView file) {
  ByteReader volume(file, ByteReader::Endian::kLittle);
  volume.Skip(16);
  const ByteView type = volume.Take(16);
  const std::uint64_t volume_bytes = volume.U64();
  const std::uint32_t signature = volume.U32();
  volume.Skip(4);
  const std::uint16_t header_bytes = volume.U16();
  if (!volume.ok() || signature != kVolumeSignature || Guid::FromBytes(type).value() != kNvDataVolume)
    return Malformed("it does not begin with a firmware volume of variables");
  if (volume_bytes > file.size() || header_bytes >= volume_bytes)
    return Malformed("its volume does not fit the file");
  const ByteView body = file.first(static_cast<std::size_t>(volume_bytes)).subspan(header_bytes);
  ByteReader store(body, ByteReader::Endian::kLittle);
  const ByteView store_type = store.Take(16);
  const std::uint32_t store_bytes = store.U32();
  const std::uint8_t format = store.U8();
  const std::uint8_t state = store.U8();
  if (!store.ok() || Guid::FromBytes(store_type).value() != kAuthenticatedStore)
    return Malformed("it does not hold authenticated variables");
  if (format != kFormatted || state != kHealthy) return Malformed("it is not formatted");
  if (store_bytes < kStoreHeaderBytes || store_bytes > body.size())
    return Malformed("its store does not fit the volume");
  return body.first(store_bytes).subspan(kStoreHeaderBytes);
}

struct Found {
  StoredVariable variable;
  std::uint8_t state = 0;
};

Result<Found> ReadVariable(ByteReader& reader) {
  Found found;
  found.state = reader.U8();
  reader.Skip(1);
  found.variable.attributes = reader.U32();
  reader.Skip(8 + 16 + 4);  // monotonic count, time stamp, index of a public key
  const std::uint32_t name_bytes = reader.U32();
  const std::uint32_t data_bytes = reader.U32();
  const ByteView vendor = reader.Take(16);
  if (!reader.ok()) return Malformed("it ends inside a variable's header");
  if (name_bytes > kMaxNameBytes || name_bytes > reader.remaining())
    return Malformed(fmt::format("a variable's name of {} bytes", name_bytes));
  const ByteView name = reader.Take(name_bytes);
  if (data_bytes > reader.remaining())
    return Malformed(fmt::format("a variable of {} bytes, more than there are", data_bytes));
  SEALIFT_ASSIGN_OR_RETURN(found.variable.vendor, Guid::FromBytes(vendor));
  found.variable.name = Utf8FromUtf16Le(name);
  found.variable.name.resize(std::min(found.variable.name.size(), found.variable.name.find('\0')));
  found.variable.data = ToBytes(reader.Take(data_bytes));
  return found;
}

}  // namespace

Result<std::vector<StoredVariable>> ParseVariableStore(ByteView file) {
  if (file.size() > kMaxVariableStoreBytes) return Malformed(fmt::format("{} bytes", file.size()));
  SEALIFT_ASSIGN_OR_RETURN(const ByteView store, FindStore(file));
  ByteReader reader(store, ByteReader::Endian::kLittle);
  std::vector<Found> all;
  while (reader.remaining() >= 4) {
    if (reader.U16() != kVariableStart) break;  // free space
    if (all.size() == kMaxVariables) return Malformed(fmt::format("more than {} variables", kMaxVariables));
    SEALIFT_ASSIGN_OR_RETURN(Found found, ReadVariable(reader));
    all.push_back(std::move(found));
    reader.Skip((4 - reader.offset() % 4) % 4);
  }
  std::vector<StoredVariable> variables;
  for (const Found& one : all) {
    // A power cut during a write leaves the old one being replaced and the new one not yet added.
    const bool replaced = std::any_of(all.begin(), all.end(), [&](const Found& other) {
      return other.state == kAdded && other.variable.name == one.variable.name &&
             other.variable.vendor == one.variable.vendor;
    });
    if (one.state == kAdded || (one.state == kAddedBeingReplaced && !replaced))
      variables.push_back(one.variable);
  }
  return variables;
}

}  // namespace sealift::efi
