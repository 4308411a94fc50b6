#include "shared/efi/signature_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace sealift::efi {
namespace {

constexpr std::size_t kListHeaderBytes = 28;
constexpr std::size_t kOwnerBytes = 16;

struct KnownType {
  Guid type;
  std::string_view name;
  // Of one entry without its owner; 0: any.
  std::size_t data_bytes;
  // The leading part that is a hash; 0: none.
  std::size_t hash_bytes;
};
// UEFI 2.10 section 32.4.1. An x509_sha256 entry is the hash and the time of revocation.
constexpr std::array<KnownType, 7> kKnownTypes = {{{kCertX509, "x509", 0, 0},
                                                   {kCertSha1, "sha1", 20, 20},
                                                   {kCertSha256, "sha256", 32, 32},
                                                   {kCertSha384, "sha384", 48, 48},
                                                   {kCertSha512, "sha512", 64, 64},
                                                   {kCertRsa2048, "rsa2048", 256, 0},
                                                   {kCertX509Sha256, "x509_sha256", 48, 32}}};

const KnownType* FindType(const Guid& type) {
  const auto* const found = std::find_if(kKnownTypes.begin(), kKnownTypes.end(),
                                         [&](const KnownType& known) { return known.type == type; });
  return found == kKnownTypes.end() ? nullptr : found;
}

Status Malformed(std::size_t offset, std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                   fmt::format("read signature list at byte {}: {}", offset, what));
}

Result<SignatureList> ParseOne(ByteReader& reader) {
  const std::size_t start = reader.offset();
  const ByteView type = reader.Take(kOwnerBytes);
  const std::uint32_t list_size = reader.U32();
  const std::uint32_t header_size = reader.U32();
  const std::uint32_t entry_size = reader.U32();
  if (!reader.ok()) return Malformed(start, "the bytes end inside its header");
  SignatureList list;
  SEALIFT_ASSIGN_OR_RETURN(list.type, Guid::FromBytes(type));
  if (list_size < kListHeaderBytes || list_size - kListHeaderBytes > reader.remaining())
    return Malformed(start, fmt::format("its size {} does not fit the {} bytes that are there", list_size,
                                        reader.remaining() + kListHeaderBytes));
  const std::uint32_t body = list_size - static_cast<std::uint32_t>(kListHeaderBytes);
  if (header_size > body) return Malformed(start, "its header is larger than the list");
  const KnownType* known = FindType(list.type);
  if (known != nullptr && header_size != 0) return Malformed(start, "a header where none belongs");
  if (entry_size <= kOwnerBytes) return Malformed(start, fmt::format("entries of {} bytes", entry_size));
  if (known != nullptr && known->data_bytes != 0 && entry_size != kOwnerBytes + known->data_bytes) {
    return Malformed(start, fmt::format("{} entries of {} bytes instead of {}", known->name,
                                        entry_size - kOwnerBytes, known->data_bytes));
  }
  if ((body - header_size) % entry_size != 0) return Malformed(start, "entries do not fill it");
  list.header = ToBytes(reader.Take(header_size));
  const std::size_t count = (body - header_size) / entry_size;
  list.entries.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    SignatureEntry entry;
    SEALIFT_ASSIGN_OR_RETURN(entry.owner, Guid::FromBytes(reader.Take(kOwnerBytes)));
    entry.data = ToBytes(reader.Take(entry_size - kOwnerBytes));
    list.entries.push_back(std::move(entry));
  }
  return list;
}

}  // namespace

Bytes SignatureEntry::Serialize() const {
  Bytes bytes = ToBytes(owner.view());
  Append(bytes, data);
  return bytes;
}

std::string_view SignatureTypeName(const Guid& type) {
  const KnownType* known = FindType(type);
  return known == nullptr ? "unknown" : known->name;
}

ByteView HashOfEntry(const Guid& type, ByteView data) {
  const KnownType* known = FindType(type);
  return known == nullptr ? ByteView{} : data.first(std::min(known->hash_bytes, data.size()));
}

SignatureList X509SignatureList(const Guid& owner, ByteView certificate_der) {
  return {.type = kCertX509, .entries = {{.owner = owner, .data = ToBytes(certificate_der)}}};
}

SignatureList Sha256SignatureList(const Guid& owner, std::span<const Sha256Digest> digests) {
  SignatureList list{.type = kCertSha256};
  for (const Sha256Digest& digest : digests)
    list.entries.push_back({.owner = owner, .data = ToBytes(digest.view())});
  return list;
}

Result<SignatureLists> ParseSignatureLists(ByteView bytes) {
  if (bytes.size() > kMaxSignatureListBytes) return Malformed(0, fmt::format("{} bytes", bytes.size()));
  SignatureLists lists;
  ByteReader reader(bytes, ByteReader::Endian::kLittle);
  while (!reader.AtEnd()) {
    SEALIFT_ASSIGN_OR_RETURN(SignatureList list, ParseOne(reader));
    if (!list.entries.empty()) lists.push_back(std::move(list));
  }
  return lists;
}

Bytes SerializeSignatureLists(std::span<const SignatureList> lists) {
  ByteWriter writer(ByteWriter::Endian::kLittle);
  for (const SignatureList& list : lists) {
    if (list.entries.empty()) continue;
    const std::size_t entry_size = kOwnerBytes + list.entries[0].data.size();
    for (const SignatureEntry& entry : list.entries)
      SEALIFT_CHECK(entry.data.size() + kOwnerBytes == entry_size);
    const std::size_t size = kListHeaderBytes + list.header.size() + entry_size * list.entries.size();
    writer.Raw(list.type.view());
    writer.U32(static_cast<std::uint32_t>(size));
    writer.U32(static_cast<std::uint32_t>(list.header.size()));
    writer.U32(static_cast<std::uint32_t>(entry_size));
    writer.Raw(list.header);
    for (const SignatureEntry& entry : list.entries) writer.Raw(entry.Serialize());
  }
  return std::move(writer).Finish();
}

std::vector<const SignatureEntry*> EntriesOfType(std::span<const SignatureList> lists, const Guid& type) {
  std::vector<const SignatureEntry*> found;
  for (const SignatureList& list : lists) {
    if (list.type != type) continue;
    for (const SignatureEntry& entry : list.entries) found.push_back(&entry);
  }
  return found;
}

}  // namespace sealift::efi
