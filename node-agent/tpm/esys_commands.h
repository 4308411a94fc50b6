// Commands that every user of the TPM's connection needs. Included by esys_*.cc only. All of them are called
// with the device's mutex held.
#pragma once

#include <tss2/tss2_mu.h>

#include <span>
#include <vector>

#include "node-agent/tpm/esys_support.h"
#include "node-agent/tpm/tpm.h"

namespace sealift::agent {

template <typename T, auto marshal>
Result<Bytes> Marshal(const T& value) {
  Bytes bytes(sizeof(T) + 64);
  std::size_t size = 0;
  SEALIFT_RETURN_IF_ERROR(
      CheckRc(marshal(&value, bytes.data(), bytes.size(), &size), "encode TPM structure", "Tss2_MU"));
  bytes.resize(size);
  return bytes;
}

// The whole of `bytes`. Errors: INVALID_ARGUMENT/`malformed`, also for bytes that follow.
template <typename T, auto unmarshal>
Result<T> Unmarshal(ByteView bytes, Reason malformed, std::string_view what) {
  T value{};
  std::size_t offset = 0;
  if (unmarshal(bytes.data(), bytes.size(), &offset, &value) != TSS2_RC_SUCCESS || offset != bytes.size())
    return MakeError(Code::kInvalidArgument, malformed, std::string(what) + ": it is no such TPM structure");
  return value;
}

Result<Bytes> MarshalPublic(const TPM2B_PUBLIC& area);
Result<Attestation> MarshalAttestation(const TPM2B_ATTEST& attest, const TPMT_SIGNATURE& signature);
// Errors: INVALID_ARGUMENT for more than 32 bytes.
Result<TPM2B_DATA> QualifyingData(ByteView nonce);
// SHA-256 bank. Errors: INVALID_ARGUMENT above 23.
Result<TPML_PCR_SELECTION> Selection(std::span<const std::uint32_t> pcrs);

Result<tpm::PcrValues> ReadPcrs(ESYS_CONTEXT* context, std::span<const std::uint32_t> pcrs);
Result<std::vector<TPM2_HANDLE>> Handles(ESYS_CONTEXT* context, TPM2_HANDLE first, UINT32 count);
Result<bool> Exists(ESYS_CONTEXT* context, TPM2_HANDLE handle);
// Of a persistent key or an NV index; close with Esys_TR_Close, or CloseHandle.
Result<ESYS_TR> OpenHandle(ESYS_CONTEXT* context, TPM2_HANDLE handle);
// `auth`: what the key is used with; empty for nothing.
Result<Transient> CreatePrimary(ESYS_CONTEXT* context, ESYS_TR hierarchy, const TPM2B_PUBLIC& wanted,
                                TPM2B_PUBLIC& made, const TPM2B_AUTH& auth = {});
// A session that outlives its use, so that it is flushed in one place. With `salt_key` (a storage key) it can
// encrypt: the first answer (TPMA_SESSION_ENCRYPT) or the first parameter (TPMA_SESSION_DECRYPT).
Result<Transient> StartSession(ESYS_CONTEXT* context, ESYS_TR salt_key, TPM2_SE type,
                               TPMA_SESSION attributes);

}  // namespace sealift::agent
