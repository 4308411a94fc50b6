// RAII and error translation around tpm2-tss. Included by esys_*.cc only: no tss2 type leaves this folder.
#pragma once

#include <tss2/tss2_esys.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "node-agent/tpm/tpm.h"
#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/crypto/openssl.h"

namespace sealift::agent {

// What ESAPI allocates for its caller.
template <typename T>
using EsysPtr = CPtr<T, Esys_Free>;

// OkStatus for TSS2_RC_SUCCESS; otherwise FAILED_PRECONDITION/TPM_COMMAND_FAILED, or
// UNAVAILABLE/TPM_UNAVAILABLE when the command did not reach the TPM. "<what> (<call>: <decoded> 0x...)".
Status CheckRc(TSS2_RC rc, std::string_view what, std::string_view call);

// The connection and the ESAPI context on it. Move-only; closes both.
class EsysConnection {
 public:
  // Errors: UNAVAILABLE/TPM_UNAVAILABLE.
  static Result<EsysConnection> Open(const std::string& tcti);
  EsysConnection(EsysConnection&& other) noexcept;
  EsysConnection& operator=(EsysConnection&&) = delete;
  ~EsysConnection();
  ESYS_CONTEXT* context() const { return context_; }

 private:
  EsysConnection() = default;
  TSS2_TCTI_CONTEXT* tcti_ = nullptr;
  // Set when the device TCTI was used directly; then it owns the memory of `tcti_`.
  std::unique_ptr<std::byte[]> device_;
  ESYS_CONTEXT* context_ = nullptr;
};

// The connection and who may use it now; shared by all that speak to one TPM.
struct TpmDevice {
  explicit TpmDevice(EsysConnection opened) : connection(std::move(opened)) {}
  std::mutex mutex;
  const EsysConnection connection;
  // Our persistent keys that were opened; guarded by the mutex. ESAPI knows one object a persistent handle,
  // however often it is opened, and the first close takes it from everybody: all share these.
  std::map<TPM2_HANDLE, ESYS_TR> keys = {{kAttestationKeyHandle, ESYS_TR_NONE},
                                         {kTlsKeyHandle, ESYS_TR_NONE},
                                         {kGuardedTlsKeyHandle, ESYS_TR_NONE}};
};

// Makes the attestation key where there is none, and opens it in TpmDevice::keys. Takes the mutex.
Status EnsureAttestationKey(std::shared_ptr<TpmDevice> device);

// A transient object or session; flushed on scope end. A TPM has room for three.
class Transient {
 public:
  explicit Transient(ESYS_CONTEXT* context, ESYS_TR handle = ESYS_TR_NONE)
      : context_(context), handle_(handle) {}
  Transient(Transient&& other) noexcept
      : context_(other.context_), handle_(std::exchange(other.handle_, ESYS_TR_NONE)) {}
  Transient& operator=(Transient&&) = delete;
  ~Transient();
  ESYS_TR get() const { return handle_; }
  // For the C functions that return a handle.
  ESYS_TR* Receive() { return &handle_; }

 private:
  ESYS_CONTEXT* context_;
  ESYS_TR handle_;
};

// Key templates, TPM2B_PUBLIC with an empty or zero `unique` part.
TPM2B_PUBLIC RsaEndorsementTemplate();
TPM2B_PUBLIC EccEndorsementTemplate();
// Of the high range (H-1, H-2): their policy also takes what the maker's NV index authorizes.
TPM2B_PUBLIC RsaHighRangeEndorsementTemplate();
TPM2B_PUBLIC EccHighRangeEndorsementTemplate();
// The branches of that policy, for TPM2_PolicyOR: PolicySecret(endorsement), then PolicyAuthorizeNV.
TPML_DIGEST HighRangePolicyBranches();
TPM2B_PUBLIC AttestationTemplate();
TPM2B_PUBLIC TlsTemplate();
// Of a key that only whoever knows `unique` (32 bytes each) can make again.
TPM2B_PUBLIC GuardedTlsTemplate(ByteView unique_x, ByteView unique_y);
// Whether `rc` says that an object's authorisation is another one.
bool IsWrongAuth(TSS2_RC rc);
// Whether `key` was made from `wanted`: equal but for the key itself.
bool MadeFrom(const TPM2B_PUBLIC& wanted, const TPM2B_PUBLIC& key);

}  // namespace sealift::agent
