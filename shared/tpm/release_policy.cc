#include "shared/tpm/release_policy.h"

#include <openssl/core_names.h>

#include <array>
#include <initializer_list>

#include "shared/crypto/hash.h"
#include "shared/crypto/openssl.h"

namespace sealift::tpm {
namespace {

// TPM_CC (part 2, 6.5.2).
constexpr std::uint32_t kCcPolicyAuthorize = 0x0000016A;
constexpr std::uint32_t kCcPolicyOr = 0x00000171;
constexpr std::uint32_t kCcPolicyPcr = 0x0000017F;
constexpr std::uint32_t kDefaultExponent = 65537;
// What tpm2-tss writes, and so what sessions hash: 24 registers.
constexpr std::size_t kSelectBytes = 3;

Sha256Digest Extend(const Sha256Digest& policy, std::uint32_t command, std::initializer_list<ByteView> more) {
  ByteWriter out(ByteWriter::Endian::kBig);
  out.Raw(policy.view());
  out.U32(command);
  for (const ByteView part : more) out.Raw(part);
  return Sha256(out.bytes());
}

}  // namespace

Sha256Digest ExtendByPcrs(const Sha256Digest& policy, const PcrValues& values) {
  std::array<std::uint8_t, kSelectBytes> select{};
  Sha256Hasher hasher;
  for (const auto& [index, value] : values) {
    SEALIFT_CHECK(index < 8 * kSelectBytes);
    select[index / 8] = static_cast<std::uint8_t>(select[index / 8] | (1u << (index % 8)));
    hasher.Update(value.view());
  }
  // TPML_PCR_SELECTION of one bank.
  ByteWriter selection(ByteWriter::Endian::kBig);
  selection.U32(1);
  selection.U16(kAlgSha256);
  selection.U8(kSelectBytes);
  selection.Raw(select);
  return Extend(policy, kCcPolicyPcr, {selection.bytes(), hasher.Finish().view()});
}

Result<PolicyKeyArea> PolicyKeyAreaOf(const PublicKey& key) {
  BIGNUM* raw_modulus = nullptr;
  BIGNUM* raw_exponent = nullptr;
  const bool read = key.type() == KeyType::kRsa &&
                    EVP_PKEY_get_bn_param(key.evp(), OSSL_PKEY_PARAM_RSA_N, &raw_modulus) == 1 &&
                    EVP_PKEY_get_bn_param(key.evp(), OSSL_PKEY_PARAM_RSA_E, &raw_exponent) == 1;
  const BigNumPtr modulus(raw_modulus);
  const BigNumPtr exponent(raw_exponent);
  if (!read || BN_num_bits(exponent.get()) > 32) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     "use PCR policy key: it is no RSA key that a TPM takes");
  }
  Bytes number(static_cast<std::size_t>(BN_num_bytes(modulus.get())));
  BN_bn2bin(modulus.get(), number.data());
  const auto word = static_cast<std::uint32_t>(BN_get_word(exponent.get()));
  ByteWriter area(ByteWriter::Endian::kBig);
  area.U16(kAlgRsa);
  area.U16(kAlgSha256);
  area.U32(kAttrSign | kAttrUserWithAuth);
  for (const std::uint16_t part : {std::uint16_t{0}, kAlgNull, kAlgNull}) area.U16(part);
  area.U16(static_cast<std::uint16_t>(key.bits()));
  area.U32(word == kDefaultExponent ? 0 : word);
  area.U16(static_cast<std::uint16_t>(number.size()));
  area.Raw(number);
  PolicyKeyArea made{.area = std::move(area).Finish(), .name = {kAlgSha256 >> 8, kAlgSha256 & 0xFF}};
  Append(made.name, Sha256(made.area).view());
  return made;
}

Result<ReleasePolicyDigests> DigestReleasePolicy(const ReleasePolicy& policy) {
  SEALIFT_ASSIGN_OR_RETURN(const PolicyKeyArea key, PolicyKeyAreaOf(policy.policy_key));
  // Part 3, 23.16: the digest starts anew; the empty reference is hashed in a step of its own.
  const Sha256Digest authorised = Sha256(Extend({}, kCcPolicyAuthorize, {key.name}).view());
  ReleasePolicyDigests digests{
      .signed_branch = ExtendByPcrs(authorised, policy.fixed), .running_branch = std::nullopt, .whole = {}};
  digests.whole = digests.signed_branch;
  if (!policy.running) return digests;
  digests.running_branch = ExtendByPcrs({}, *policy.running);
  digests.whole = Extend({}, kCcPolicyOr, {digests.signed_branch.view(), digests.running_branch->view()});
  return digests;
}

}  // namespace sealift::tpm
