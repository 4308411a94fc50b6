#include "node-agent/tpm/esys_policy.h"

#include <openssl/core_names.h>

#include "shared/crypto/hash.h"

namespace sealift::agent {
namespace {

constexpr std::uint32_t kDefaultRsaExponent = 65537;

Status VerifyApproval(ESYS_CONTEXT* context, const TPM2B_PUBLIC& key_area, const SignedPcrs& approval,
                      TPMT_TK_VERIFIED& ticket) {
  Transient key(context);
  // Under a hierarchy: a key of none gives no ticket that PolicyAuthorize takes.
  SEALIFT_RETURN_IF_ERROR(CheckRc(Esys_LoadExternal(context, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                                    nullptr, &key_area, ESYS_TR_RH_OWNER, key.Receive()),
                                  "unseal secret", "Esys_LoadExternal"));
  TPM2B_DIGEST digest{};
  SEALIFT_RETURN_IF_ERROR(Fill(digest, Sha256(approval.policy.view()).view(), "policy digest"));
  TPMT_SIGNATURE signature{};
  signature.sigAlg = TPM2_ALG_RSASSA;
  signature.signature.rsassa.hash = TPM2_ALG_SHA256;
  SEALIFT_RETURN_IF_ERROR(Fill(signature.signature.rsassa.sig, approval.signature, "signature"));
  TPMT_TK_VERIFIED* raw = nullptr;
  SEALIFT_RETURN_IF_ERROR(CheckRc(Esys_VerifySignature(context, key.get(), ESYS_TR_NONE, ESYS_TR_NONE,
                                                       ESYS_TR_NONE, &digest, &signature, &raw),
                                  "unseal secret", "Esys_VerifySignature"));
  const EsysPtr<TPMT_TK_VERIFIED> verified(raw);
  ticket = *verified;
  return OkStatus();
}

}  // namespace

Result<TPM2B_PUBLIC> PolicyKeyArea(const PublicKey& key) {
  BIGNUM* raw_modulus = nullptr;
  BIGNUM* raw_exponent = nullptr;
  const bool read = key.type() == KeyType::kRsa &&
                    EVP_PKEY_get_bn_param(key.evp(), OSSL_PKEY_PARAM_RSA_N, &raw_modulus) == 1 &&
                    EVP_PKEY_get_bn_param(key.evp(), OSSL_PKEY_PARAM_RSA_E, &raw_exponent) == 1;
  const BigNumPtr modulus(raw_modulus);
  const BigNumPtr exponent(raw_exponent);
  TPM2B_PUBLIC area{};
  auto& unique = area.publicArea.unique.rsa;
  if (!read || BN_num_bytes(modulus.get()) > static_cast<int>(sizeof unique.buffer) ||
      BN_get_word(exponent.get()) > UINT32_MAX) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     "use PCR policy key: it is no RSA key that a TPM takes");
  }
  area.publicArea.type = TPM2_ALG_RSA;
  area.publicArea.nameAlg = TPM2_ALG_SHA256;
  area.publicArea.objectAttributes = TPMA_OBJECT_SIGN_ENCRYPT | TPMA_OBJECT_USERWITHAUTH;
  auto& rsa = area.publicArea.parameters.rsaDetail;
  rsa.symmetric.algorithm = TPM2_ALG_NULL;
  rsa.scheme.scheme = TPM2_ALG_NULL;
  rsa.keyBits = static_cast<TPMI_RSA_KEY_BITS>(key.bits());
  const auto word = static_cast<UINT32>(BN_get_word(exponent.get()));
  rsa.exponent = word == kDefaultRsaExponent ? 0 : word;
  unique.size = static_cast<UINT16>(BN_bn2bin(modulus.get(), unique.buffer));
  return area;
}

Result<Bytes> NameOf(const TPM2B_PUBLIC& area) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes sized, MarshalPublic(area));
  Bytes name{TPM2_ALG_SHA256 >> 8, TPM2_ALG_SHA256 & 0xFF};
  Append(name, Sha256(ByteView(sized).subspan(sizeof(UINT16))).view());
  return name;
}

std::vector<std::uint32_t> IndexesOf(const tpm::PcrValues& values) {
  std::vector<std::uint32_t> indexes;
  for (const auto& [index, value] : values) indexes.push_back(index);
  return indexes;
}

Status SatisfySigned(ESYS_CONTEXT* context, const Transient& session, const SealPolicy& policy,
                     const SignedPcrs& approval) {
  SEALIFT_ASSIGN_OR_RETURN(const TPM2B_PUBLIC key_area, PolicyKeyArea(policy.policy_key));
  SEALIFT_ASSIGN_OR_RETURN(const Bytes key_name, NameOf(key_area));
  TPMT_TK_VERIFIED ticket{};
  SEALIFT_RETURN_IF_ERROR(VerifyApproval(context, key_area, approval, ticket));
  const TPM2B_DIGEST none{};
  SEALIFT_ASSIGN_OR_RETURN(const TPML_PCR_SELECTION moving, Selection(policy.signed_pcrs));
  SEALIFT_RETURN_IF_ERROR(CheckRc(
      Esys_PolicyPCR(context, session.get(), ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &none, &moving),
      "unseal secret", "Esys_PolicyPCR"));
  TPM2B_DIGEST approved{};
  TPM2B_NAME name{};
  SEALIFT_RETURN_IF_ERROR(Fill(approved, approval.policy.view(), "approved policy"));
  name.size = static_cast<UINT16>(key_name.size());
  std::ranges::copy(key_name, name.name);
  const TPM2B_NONCE reference{};
  SEALIFT_RETURN_IF_ERROR(CheckRc(Esys_PolicyAuthorize(context, session.get(), ESYS_TR_NONE, ESYS_TR_NONE,
                                                       ESYS_TR_NONE, &approved, &reference, &name, &ticket),
                                  "unseal secret", "Esys_PolicyAuthorize"));
  if (policy.literal.empty()) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(const TPML_PCR_SELECTION fixed, Selection(IndexesOf(policy.literal)));
  return CheckRc(
      Esys_PolicyPCR(context, session.get(), ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &none, &fixed),
      "unseal secret", "Esys_PolicyPCR");
}

Result<SecretBytes> UnsealWith(ESYS_CONTEXT* context, const Transient& loaded, const Transient& session) {
  TPM2B_SENSITIVE_DATA* raw = nullptr;
  SEALIFT_RETURN_IF_ERROR(
      CheckRc(Esys_Unseal(context, loaded.get(), session.get(), ESYS_TR_NONE, ESYS_TR_NONE, &raw),
              "unseal secret", "Esys_Unseal"));
  const EsysPtr<TPM2B_SENSITIVE_DATA> data(raw);
  SecretBytes secret(ByteView(data->buffer, data->size));
  WipeMemory(data->buffer, data->size);
  return secret;
}

bool RegistersMoved(const Status& status) {
  return !status.ok() && MessageOf(status).ends_with(fmt::format("{:#x})", TPM2_RC_PCR_CHANGED));
}

}  // namespace sealift::agent
