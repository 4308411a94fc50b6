#include "shared/tpm/duplicate.h"

#include <fmt/format.h>

#include "shared/crypto/hash.h"
#include "shared/tpm/protected_object.h"

namespace sealift::tpm {
namespace {

constexpr std::uint16_t kAlgKeyedHash = 0x0008;
constexpr std::uint32_t kAttributes = kAttrAdminWithPolicy | kAttrNoDa;
constexpr std::size_t kMaxPublicBytes = 256;

void WriteSized(ByteWriter& to, ByteView bytes) {
  to.U16(static_cast<std::uint16_t>(bytes.size()));
  to.Raw(bytes);
}

// TPMT_PUBLIC.
Bytes PublicOf(const Sha256Digest& policy, const Sha256Digest& unique) {
  ByteWriter area(ByteWriter::Endian::kBig);
  area.U16(kAlgKeyedHash);
  area.U16(kAlgSha256);
  area.U32(kAttributes);
  WriteSized(area, policy.view());
  area.U16(kAlgNull);
  WriteSized(area, unique.view());
  return std::move(area).Finish();
}

// TPM2B_SENSITIVE (12.3.2.4): type, no password, the value that hides the secret in `unique`, the secret. In
// one piece from the start, so that no outgrown copy is left behind.
SecretBytes SensitiveOf(const SecretBytes& hiding, const SecretBytes& secret) {
  const std::size_t size = 4 * sizeof(std::uint16_t) + hiding.size() + secret.size();
  Bytes bytes;
  bytes.reserve(sizeof(std::uint16_t) + size);
  const auto u16 = [&bytes](std::size_t value) {
    bytes.push_back(static_cast<std::uint8_t>(value >> 8));
    bytes.push_back(static_cast<std::uint8_t>(value & 0xFF));
  };
  u16(size);
  u16(kAlgKeyedHash);
  u16(0);
  u16(hiding.size());
  Append(bytes, hiding.ExposeSecret());
  u16(secret.size());
  Append(bytes, secret.ExposeSecret());
  return SecretBytes(std::move(bytes));
}

Status Malformed(std::string_view cause) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                   fmt::format("read sealed TPM object: {}", cause));
}

}  // namespace

Result<DuplicatedSecret> DuplicateSecret(const PublicArea& storage_key, const SecretBytes& secret,
                                         const Sha256Digest& policy) {
  if (secret.empty() || secret.size() > kMaxSealedBytes) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("duplicate secret: it is not 1 to {} bytes long", kMaxSealedBytes));
  }
  const SecretBytes hiding(RandomBytes(sizeof(Sha256Digest::bytes)));
  Sha256Hasher hasher;
  hasher.Update(hiding.ExposeSecret());
  hasher.Update(secret.ExposeSecret());
  const Bytes area = PublicOf(policy, hasher.Finish());
  Bytes name{kAlgSha256 >> 8, kAlgSha256 & 0xFF};
  Append(name, Sha256(area).view());
  SEALIFT_ASSIGN_OR_RETURN(ProtectedObject made,
                           ProtectFor(storage_key, "DUPLICATE", name, SensitiveOf(hiding, secret)));
  return DuplicatedSecret{.public_area = SizedBytes(area),
                          .duplicate = std::move(made.blob),
                          .encrypted_seed = std::move(made.encrypted_seed)};
}

Result<SealedArea> ParseSealedArea(ByteView tpm2b_public) {
  if (tpm2b_public.size() > kMaxPublicBytes) return Malformed("its public area is too large");
  ByteReader outer(tpm2b_public, ByteReader::Endian::kBig);
  ByteReader area(outer.Take(outer.U16()), ByteReader::Endian::kBig);
  const std::uint16_t type = area.U16();
  const std::uint16_t name_algorithm = area.U16();
  SealedArea sealed{.attributes = area.U32(), .policy = {}};
  const ByteView policy = area.Take(area.U16());
  const std::uint16_t scheme = area.U16();
  const ByteView unique = area.Take(area.U16());
  if (!outer.AtEnd() || !area.AtEnd()) return Malformed("its lengths do not add up");
  if (type != kAlgKeyedHash || scheme != kAlgNull) return Malformed("it seals nothing");
  if (name_algorithm != kAlgSha256 || unique.size() != sizeof(Sha256Digest::bytes))
    return Malformed("its name is not one by SHA-256");
  const auto digest = Sha256Digest::FromBytes(policy);
  if (!digest.ok()) return Malformed("it has no policy by SHA-256");
  sealed.policy = *digest;
  return sealed;
}

Status CheckDuplicate(const DuplicatedSecret& object, const Sha256Digest& policy) {
  SEALIFT_ASSIGN_OR_RETURN(const SealedArea area, ParseSealedArea(object.public_area));
  if (area.attributes != kAttributes) return Malformed("it is to be opened otherwise than by its policy");
  if (area.policy != policy) return Malformed("its policy is another one than it is said to have");
  SEALIFT_RETURN_IF_ERROR(ParseOuterWrapper(object.duplicate).status());
  return ParseEncryptedSeed(object.encrypted_seed).status();
}

}  // namespace sealift::tpm
