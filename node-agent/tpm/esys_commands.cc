#include "node-agent/tpm/esys_commands.h"

#include <fmt/format.h>

#include <algorithm>

namespace sealift::agent {
namespace {

constexpr std::size_t kMaxNonceBytes = 32;

Result<std::size_t> Collect(const TPML_PCR_SELECTION& selection, const TPML_DIGEST& digests,
                            tpm::PcrValues& values) {
  std::size_t next = 0;
  const TPMS_PCR_SELECTION& bank = selection.pcrSelections[0];
  for (std::uint32_t pcr = 0; selection.count == 1 && pcr < bank.sizeofSelect * 8u; ++pcr) {
    if ((bank.pcrSelect[pcr / 8] >> (pcr % 8) & 1) == 0 || next == digests.count) continue;
    const TPM2B_DIGEST& digest = digests.digests[next++];
    SEALIFT_ASSIGN_OR_RETURN(values[pcr], Sha256Digest::FromBytes(ByteView(digest.buffer, digest.size)));
  }
  return next;
}

}  // namespace

Result<Bytes> MarshalPublic(const TPM2B_PUBLIC& area) {
  return Marshal<TPM2B_PUBLIC, Tss2_MU_TPM2B_PUBLIC_Marshal>(area);
}

Result<Attestation> MarshalAttestation(const TPM2B_ATTEST& attest, const TPMT_SIGNATURE& signature) {
  Attestation made;
  made.attest = ToBytes(ByteView(attest.attestationData, attest.size));
  SEALIFT_ASSIGN_OR_RETURN(made.signature,
                           (Marshal<TPMT_SIGNATURE, Tss2_MU_TPMT_SIGNATURE_Marshal>(signature)));
  return made;
}

Result<TPM2B_DATA> QualifyingData(ByteView nonce) {
  if (nonce.size() > kMaxNonceBytes) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, "use nonce: longer than 32 bytes");
  }
  TPM2B_DATA data{};
  data.size = static_cast<UINT16>(nonce.size());
  std::ranges::copy(nonce, data.buffer);
  return data;
}

Result<TPML_PCR_SELECTION> Selection(std::span<const std::uint32_t> pcrs) {
  TPML_PCR_SELECTION selection{};
  selection.count = 1;
  selection.pcrSelections[0].hash = TPM2_ALG_SHA256;
  selection.pcrSelections[0].sizeofSelect = 3;
  for (const std::uint32_t pcr : pcrs) {
    if (pcr >= 24) {
      return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                       fmt::format("select PCR {}: a TPM has 24", pcr));
    }
    BYTE& bits = selection.pcrSelections[0].pcrSelect[pcr / 8];
    bits = static_cast<BYTE>(bits | 1u << (pcr % 8));
  }
  return selection;
}

Result<tpm::PcrValues> ReadPcrs(ESYS_CONTEXT* context, std::span<const std::uint32_t> pcrs) {
  tpm::PcrValues values;
  std::vector<std::uint32_t> missing(pcrs.begin(), pcrs.end());
  // A TPM gives at most eight registers per command.
  while (!missing.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(const TPML_PCR_SELECTION selection, Selection(missing));
    UINT32 update_counter = 0;
    TPML_PCR_SELECTION* raw_selection = nullptr;
    TPML_DIGEST* raw_digests = nullptr;
    SEALIFT_RETURN_IF_ERROR(CheckRc(Esys_PCR_Read(context, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                                  &selection, &update_counter, &raw_selection, &raw_digests),
                                    "read PCRs", "Esys_PCR_Read"));
    const EsysPtr<TPML_PCR_SELECTION> got(raw_selection);
    const EsysPtr<TPML_DIGEST> digests(raw_digests);
    SEALIFT_ASSIGN_OR_RETURN(const std::size_t added, Collect(*got, *digests, values));
    if (added == 0) {
      return MakeError(Code::kFailedPrecondition, Reason::kTpmCommandFailed,
                       "read PCRs: the TPM's SHA-256 bank is not allocated");
    }
    std::erase_if(missing, [&](std::uint32_t pcr) { return values.contains(pcr); });
  }
  return values;
}

Result<std::vector<TPM2_HANDLE>> Handles(ESYS_CONTEXT* context, TPM2_HANDLE first, UINT32 count) {
  TPMI_YES_NO more = 0;
  TPMS_CAPABILITY_DATA* raw = nullptr;
  SEALIFT_RETURN_IF_ERROR(CheckRc(Esys_GetCapability(context, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                                     TPM2_CAP_HANDLES, first, count, &more, &raw),
                                  fmt::format("list TPM handles from {:#x}", first), "Esys_GetCapability"));
  const EsysPtr<TPMS_CAPABILITY_DATA> data(raw);
  const TPML_HANDLE& handles = data->data.handles;
  return std::vector<TPM2_HANDLE>(handles.handle, handles.handle + handles.count);
}

Result<bool> Exists(ESYS_CONTEXT* context, TPM2_HANDLE handle) {
  SEALIFT_ASSIGN_OR_RETURN(const auto handles, Handles(context, handle, 1));
  return !handles.empty() && handles.front() == handle;
}

Result<ESYS_TR> OpenHandle(ESYS_CONTEXT* context, TPM2_HANDLE handle) {
  ESYS_TR object = ESYS_TR_NONE;
  SEALIFT_RETURN_IF_ERROR(
      CheckRc(Esys_TR_FromTPMPublic(context, handle, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &object),
              fmt::format("open TPM handle {:#x}", handle), "Esys_TR_FromTPMPublic"));
  return object;
}

Result<Transient> CreatePrimary(ESYS_CONTEXT* context, ESYS_TR hierarchy, const TPM2B_PUBLIC& wanted,
                                TPM2B_PUBLIC& made, const TPM2B_AUTH& auth) {
  TPM2B_SENSITIVE_CREATE sensitive{};
  sensitive.sensitive.userAuth = auth;
  const TPM2B_DATA outside{};
  const TPML_PCR_SELECTION pcrs{};
  TPM2B_PUBLIC* area = nullptr;
  TPM2B_CREATION_DATA* data = nullptr;
  TPM2B_DIGEST* hash = nullptr;
  TPMT_TK_CREATION* ticket = nullptr;
  Transient object(context);
  const TSS2_RC rc =
      Esys_CreatePrimary(context, hierarchy, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &sensitive,
                         &wanted, &outside, &pcrs, object.Receive(), &area, &data, &hash, &ticket);
  WipeMemory(&sensitive, sizeof sensitive);
  SEALIFT_RETURN_IF_ERROR(CheckRc(rc, "make primary TPM key", "Esys_CreatePrimary"));
  const EsysPtr<TPM2B_PUBLIC> owned(area);
  const EsysPtr<TPM2B_CREATION_DATA> owned_data(data);
  const EsysPtr<TPM2B_DIGEST> owned_hash(hash);
  const EsysPtr<TPMT_TK_CREATION> owned_ticket(ticket);
  made = *area;
  return object;
}

Result<Transient> StartSession(ESYS_CONTEXT* context, ESYS_TR salt_key, TPM2_SE type,
                               TPMA_SESSION attributes) {
  const bool salted = salt_key != ESYS_TR_NONE;
  TPMT_SYM_DEF symmetric{.algorithm = TPM2_ALG_NULL, .keyBits = {}, .mode = {}};
  if (salted) {
    symmetric.algorithm = TPM2_ALG_AES;
    symmetric.keyBits.aes = 128;
    symmetric.mode.aes = TPM2_ALG_CFB;
  }
  Transient session(context);
  SEALIFT_RETURN_IF_ERROR(
      CheckRc(Esys_StartAuthSession(context, salt_key, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                    nullptr, type, &symmetric, TPM2_ALG_SHA256, session.Receive()),
              "start TPM session", "Esys_StartAuthSession"));
  SEALIFT_RETURN_IF_ERROR(CheckRc(
      Esys_TRSess_SetAttributes(context, session.get(),
                                static_cast<TPMA_SESSION>(attributes | TPMA_SESSION_CONTINUESESSION), 0xFF),
      "start TPM session", "Esys_TRSess_SetAttributes"));
  return session;
}

}  // namespace sealift::agent
