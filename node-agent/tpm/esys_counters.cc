#include <fmt/format.h>

#include "node-agent/tpm/esys_commands.h"
#include "node-agent/tpm/esys_tpm.h"
#include "shared/tpm/counter.h"

namespace sealift::agent {
namespace {

constexpr UINT16 kCounterBytes = 8;

Status Unusable(std::uint32_t handle, std::string_view why) {
  return MakeError(Code::kFailedPrecondition, Reason::kEpochUnusable,
                   fmt::format("use TPM counter {:#x}: {}", handle, why));
}

// An open NV index; forgotten on scope end.
class OpenIndex {
 public:
  OpenIndex(ESYS_CONTEXT* context, ESYS_TR index) : context_(context), index_(index) {}
  OpenIndex(OpenIndex&& other) noexcept
      : context_(other.context_), index_(std::exchange(other.index_, ESYS_TR_NONE)) {}
  OpenIndex& operator=(OpenIndex&&) = delete;
  ~OpenIndex() {
    if (index_ != ESYS_TR_NONE) Esys_TR_Close(context_, &index_);
  }
  ESYS_TR get() const { return index_; }

 private:
  ESYS_CONTEXT* context_;
  ESYS_TR index_;
};

class EsysCounters final : public TpmCounters {
 public:
  explicit EsysCounters(std::shared_ptr<TpmDevice> device) : device_(std::move(device)) {}

  Result<std::uint64_t> DefineCounter(std::uint32_t handle) override {
    const std::lock_guard lock(device_->mutex);
    SEALIFT_ASSIGN_OR_RETURN(const bool exists, Exists(context(), handle));
    if (!exists) SEALIFT_RETURN_IF_ERROR(Define(handle));
    SEALIFT_ASSIGN_OR_RETURN(const OpenIndex index, Open(handle));
    SEALIFT_ASSIGN_OR_RETURN(const bool counted, Check(index, handle));
    // A cut may have come between the two steps.
    if (!counted) SEALIFT_RETURN_IF_ERROR(Increment(index, handle));
    return Read(index, handle);
  }

  Result<std::uint64_t> ReadCounter(std::uint32_t handle) override {
    const std::lock_guard lock(device_->mutex);
    SEALIFT_ASSIGN_OR_RETURN(const OpenIndex index, OpenCounted(handle));
    return Read(index, handle);
  }

  Result<std::uint64_t> IncrementCounter(std::uint32_t handle) override {
    const std::lock_guard lock(device_->mutex);
    SEALIFT_ASSIGN_OR_RETURN(const OpenIndex index, OpenCounted(handle));
    SEALIFT_RETURN_IF_ERROR(Increment(index, handle));
    return Read(index, handle);
  }

  Result<Attestation> CertifyCounter(std::uint32_t handle, ByteView nonce) override {
    SEALIFT_ASSIGN_OR_RETURN(const TPM2B_DATA data, QualifyingData(nonce));
    SEALIFT_RETURN_IF_ERROR(EnsureAttestationKey(device_));
    const std::lock_guard lock(device_->mutex);
    SEALIFT_ASSIGN_OR_RETURN(const OpenIndex index, OpenCounted(handle));
    const TPMT_SIG_SCHEME scheme{.scheme = TPM2_ALG_NULL, .details = {}};
    TPM2B_ATTEST* raw_attest = nullptr;
    TPMT_SIGNATURE* raw_signature = nullptr;
    SEALIFT_RETURN_IF_ERROR(
        CheckRc(Esys_NV_Certify(context(), device_->keys.at(kAttestationKeyHandle), index.get(), index.get(),
                                ESYS_TR_PASSWORD, ESYS_TR_PASSWORD, ESYS_TR_NONE, &data, &scheme,
                                kCounterBytes, 0, &raw_attest, &raw_signature),
                fmt::format("certify TPM counter {:#x}", handle), "Esys_NV_Certify"));
    const EsysPtr<TPM2B_ATTEST> attest(raw_attest);
    const EsysPtr<TPMT_SIGNATURE> signature(raw_signature);
    return MarshalAttestation(*attest, *signature);
  }

 private:
  ESYS_CONTEXT* context() const { return device_->connection.context(); }

  Status Define(std::uint32_t handle) {
    TPM2B_NV_PUBLIC area{};
    area.nvPublic.nvIndex = handle;
    area.nvPublic.nameAlg = TPM2_ALG_SHA256;
    area.nvPublic.attributes = tpm::kCounterAttributes & ~TPMA_NV_WRITTEN;
    area.nvPublic.dataSize = kCounterBytes;
    const TPM2B_AUTH no_password{};
    ESYS_TR index = ESYS_TR_NONE;
    SEALIFT_RETURN_IF_ERROR(
        CheckRc(Esys_NV_DefineSpace(context(), ESYS_TR_RH_OWNER, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE,
                                    &no_password, &area, &index),
                fmt::format("define TPM counter {:#x}", handle), "Esys_NV_DefineSpace"));
    const OpenIndex made(context(), index);
    return OkStatus();
  }

  Result<OpenIndex> Open(TPM2_HANDLE handle) {
    SEALIFT_ASSIGN_OR_RETURN(const ESYS_TR index, OpenHandle(context(), handle));
    return OpenIndex(context(), index);
  }

  Result<OpenIndex> OpenCounted(std::uint32_t handle) {
    SEALIFT_ASSIGN_OR_RETURN(const bool exists, Exists(context(), handle));
    if (!exists) return Unusable(handle, "it is missing");
    SEALIFT_ASSIGN_OR_RETURN(OpenIndex index, Open(handle));
    SEALIFT_ASSIGN_OR_RETURN(const bool counted, Check(index, handle));
    if (!counted) return Unusable(handle, "it never counted");
    return index;
  }

  // That it is a counter as Define makes them; whether it has counted.
  Result<bool> Check(const OpenIndex& index, std::uint32_t handle) {
    TPM2B_NV_PUBLIC* raw = nullptr;
    TPM2B_NAME* raw_name = nullptr;
    SEALIFT_RETURN_IF_ERROR(CheckRc(
        Esys_NV_ReadPublic(context(), index.get(), ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &raw, &raw_name),
        fmt::format("read TPM counter {:#x}", handle), "Esys_NV_ReadPublic"));
    const EsysPtr<TPM2B_NV_PUBLIC> area(raw);
    const EsysPtr<TPM2B_NAME> name(raw_name);
    const TPMS_NV_PUBLIC& found = area->nvPublic;
    if (found.nvIndex != handle || found.nameAlg != TPM2_ALG_SHA256 || found.dataSize != kCounterBytes ||
        found.authPolicy.size != 0 || (found.attributes | TPMA_NV_WRITTEN) != tpm::kCounterAttributes)
      return Unusable(handle, "something else lies at its index");
    return (found.attributes & TPMA_NV_WRITTEN) != 0;
  }

  Status Increment(const OpenIndex& index, std::uint32_t handle) {
    return CheckRc(
        Esys_NV_Increment(context(), index.get(), index.get(), ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE),
        fmt::format("raise TPM counter {:#x}", handle), "Esys_NV_Increment");
  }

  Result<std::uint64_t> Read(const OpenIndex& index, std::uint32_t handle) {
    TPM2B_MAX_NV_BUFFER* raw = nullptr;
    SEALIFT_RETURN_IF_ERROR(CheckRc(Esys_NV_Read(context(), index.get(), index.get(), ESYS_TR_PASSWORD,
                                                 ESYS_TR_NONE, ESYS_TR_NONE, kCounterBytes, 0, &raw),
                                    fmt::format("read TPM counter {:#x}", handle), "Esys_NV_Read"));
    const EsysPtr<TPM2B_MAX_NV_BUFFER> data(raw);
    if (data->size != kCounterBytes) return Unusable(handle, "it is short");
    ByteReader reader(ByteView(data->buffer, data->size), ByteReader::Endian::kBig);
    return reader.U64();
  }

  const std::shared_ptr<TpmDevice> device_;
};

}  // namespace

std::unique_ptr<TpmCounters> MakeEsysCounters(std::shared_ptr<TpmDevice> device) {
  return std::make_unique<EsysCounters>(std::move(device));
}

}  // namespace sealift::agent
