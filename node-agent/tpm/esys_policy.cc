#include "node-agent/tpm/esys_policy.h"

#include "shared/crypto/hash.h"
#include "shared/tpm/release_policy.h"

namespace sealift::agent {
namespace {

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
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PolicyKeyArea made, tpm::PolicyKeyAreaOf(key));
  TPM2B_PUBLIC area{};
  size_t read = 0;
  if (Tss2_MU_TPMT_PUBLIC_Unmarshal(made.area.data(), made.area.size(), &read, &area.publicArea) !=
      TSS2_RC_SUCCESS) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     "use PCR policy key: it is no RSA key that a TPM takes");
  }
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
