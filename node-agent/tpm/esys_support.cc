#include "node-agent/tpm/esys_support.h"

#include <fmt/format.h>
#include <tss2/tss2_mu.h>
#include <tss2/tss2_rc.h>
#include <tss2/tss2_tcti_device.h>
#include <tss2/tss2_tctildr.h>

#include <algorithm>
#include <array>

#include "shared/base/log.h"

namespace sealift::agent {
namespace {

constexpr std::string_view kDevicePrefix = "device:";

// PolicySecret(endorsement): TCG EK Credential Profile 2.5, B.3.3 and B.3.4.
constexpr std::array<BYTE, 32> kEndorsementPolicy{
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xB3, 0xF8, 0x1A, 0x90, 0xCC, 0x8D, 0x46, 0xA5, 0xD7, 0x24,
    0xFD, 0x52, 0xD7, 0x6E, 0x06, 0x52, 0x0B, 0x64, 0xF2, 0xA1, 0xDA, 0x1B, 0x33, 0x14, 0x69, 0xAA};

// PolicyAuthorizeNV and PolicyOR of both: the same, B.6.4 and B.6.5 ("PolicyC" and "PolicyB").
constexpr std::array<BYTE, 32> kAuthorizeNvPolicy{
    0x37, 0x67, 0xE2, 0xED, 0xD4, 0x3F, 0xF4, 0x5A, 0x3A, 0x7E, 0x1E, 0xAE, 0xFC, 0xEF, 0x78, 0x64,
    0x3D, 0xCA, 0x96, 0x46, 0x32, 0xE7, 0xAA, 0xD8, 0x2C, 0x67, 0x3A, 0x30, 0xD8, 0x63, 0x3F, 0xDE};
constexpr std::array<BYTE, 32> kHighRangePolicy{
    0xCA, 0x3D, 0x0A, 0x99, 0xA2, 0xB9, 0x39, 0x06, 0xF7, 0xA3, 0x34, 0x24, 0x14, 0xEF, 0xCF, 0xB3,
    0xA3, 0x85, 0xD4, 0x4C, 0xD1, 0xFD, 0x45, 0x90, 0x89, 0xD1, 0x9B, 0x50, 0x71, 0xC0, 0xB7, 0xA0};

TPM2B_PUBLIC HighRange(TPM2B_PUBLIC area) {
  area.publicArea.objectAttributes |= TPMA_OBJECT_USERWITHAUTH;
  std::ranges::copy(kHighRangePolicy, area.publicArea.authPolicy.buffer);
  // Also of the low range's zeros.
  area.publicArea.unique = TPMU_PUBLIC_ID{};
  return area;
}

bool NeverArrived(TSS2_RC rc) { return (rc & TSS2_RC_LAYER_MASK) == TSS2_TCTI_RC_LAYER; }

TPM2B_PUBLIC EndorsementTemplate(TPMI_ALG_PUBLIC type) {
  TPM2B_PUBLIC area{};
  area.publicArea.type = type;
  area.publicArea.nameAlg = TPM2_ALG_SHA256;
  area.publicArea.objectAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |
                                     TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_ADMINWITHPOLICY |
                                     TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT;
  area.publicArea.authPolicy.size = kEndorsementPolicy.size();
  std::ranges::copy(kEndorsementPolicy, area.publicArea.authPolicy.buffer);
  auto& symmetric = area.publicArea.parameters.asymDetail.symmetric;
  symmetric.algorithm = TPM2_ALG_AES;
  symmetric.keyBits.aes = 128;
  symmetric.mode.aes = TPM2_ALG_CFB;
  return area;
}

TPM2B_PUBLIC EccSigningTemplate(TPMA_OBJECT more_attributes) {
  TPM2B_PUBLIC area{};
  area.publicArea.type = TPM2_ALG_ECC;
  area.publicArea.nameAlg = TPM2_ALG_SHA256;
  area.publicArea.objectAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |
                                     TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_USERWITHAUTH |
                                     TPMA_OBJECT_NODA | TPMA_OBJECT_SIGN_ENCRYPT | more_attributes;
  auto& ecc = area.publicArea.parameters.eccDetail;
  ecc.symmetric.algorithm = TPM2_ALG_NULL;
  ecc.scheme.scheme = TPM2_ALG_ECDSA;
  ecc.scheme.details.ecdsa.hashAlg = TPM2_ALG_SHA256;
  ecc.curveID = TPM2_ECC_NIST_P256;
  ecc.kdf.scheme = TPM2_ALG_NULL;
  return area;
}

}  // namespace

Status CheckRc(TSS2_RC rc, std::string_view what, std::string_view call) {
  if (rc == TSS2_RC_SUCCESS) return OkStatus();
  const NativeError native{.call = std::string(call), .code = rc, .name = Tss2_RC_Decode(rc)};
  if (NeverArrived(rc)) return MakeError(Code::kUnavailable, Reason::kTpmUnavailable, what, native);
  return MakeError(Code::kFailedPrecondition, Reason::kTpmCommandFailed, what, native);
}

Result<EsysConnection> EsysConnection::Open(const std::string& tcti) {
  EsysConnection connection;
  const auto check = [&](TSS2_RC rc, std::string_view call) -> Status {
    if (rc == TSS2_RC_SUCCESS) return OkStatus();
    return MakeError(Code::kUnavailable, Reason::kTpmUnavailable, fmt::format("open TPM '{}'", tcti),
                     NativeError{.call = std::string(call), .code = rc, .name = Tss2_RC_Decode(rc)});
  };
  if (tcti.starts_with(kDevicePrefix)) {
    const std::string path = tcti.substr(kDevicePrefix.size());
    std::size_t size = 0;
    SEALIFT_RETURN_IF_ERROR(check(Tss2_Tcti_Device_Init(nullptr, &size, nullptr), "Tss2_Tcti_Device_Init"));
    connection.device_ = std::make_unique<std::byte[]>(size);
    auto* const device = reinterpret_cast<TSS2_TCTI_CONTEXT*>(connection.device_.get());
    SEALIFT_RETURN_IF_ERROR(
        check(Tss2_Tcti_Device_Init(device, &size, path.c_str()), "Tss2_Tcti_Device_Init"));
    connection.tcti_ = device;
  } else {
    SEALIFT_RETURN_IF_ERROR(
        check(Tss2_TctiLdr_Initialize(tcti.c_str(), &connection.tcti_), "Tss2_TctiLdr_Initialize"));
  }
  SEALIFT_RETURN_IF_ERROR(
      check(Esys_Initialize(&connection.context_, connection.tcti_, nullptr), "Esys_Initialize"));
  return connection;
}

EsysConnection::EsysConnection(EsysConnection&& other) noexcept
    : tcti_(std::exchange(other.tcti_, nullptr)),
      device_(std::move(other.device_)),
      context_(std::exchange(other.context_, nullptr)) {}

EsysConnection::~EsysConnection() {
  if (context_ != nullptr) Esys_Finalize(&context_);
  if (tcti_ == nullptr) return;
  if (device_ != nullptr) {
    reinterpret_cast<TSS2_TCTI_CONTEXT_COMMON_V1*>(tcti_)->finalize(tcti_);
  } else {
    Tss2_TctiLdr_Finalize(&tcti_);
  }
}

Transient::~Transient() {
  if (handle_ == ESYS_TR_NONE) return;
  const Status flushed =
      CheckRc(Esys_FlushContext(context_, handle_), "flush transient TPM object", "Esys_FlushContext");
  if (!flushed.ok()) log::Warning("tpm object was not flushed", {{"error", Describe(flushed)}});
}

TPM2B_PUBLIC RsaEndorsementTemplate() {
  TPM2B_PUBLIC area = EndorsementTemplate(TPM2_ALG_RSA);
  auto& rsa = area.publicArea.parameters.rsaDetail;
  rsa.scheme.scheme = TPM2_ALG_NULL;
  rsa.keyBits = 2048;
  rsa.exponent = 0;
  area.publicArea.unique.rsa.size = 256;
  return area;
}

TPM2B_PUBLIC EccEndorsementTemplate() {
  TPM2B_PUBLIC area = EndorsementTemplate(TPM2_ALG_ECC);
  auto& ecc = area.publicArea.parameters.eccDetail;
  ecc.scheme.scheme = TPM2_ALG_NULL;
  ecc.curveID = TPM2_ECC_NIST_P256;
  ecc.kdf.scheme = TPM2_ALG_NULL;
  area.publicArea.unique.ecc.x.size = 32;
  area.publicArea.unique.ecc.y.size = 32;
  return area;
}

TPM2B_PUBLIC RsaHighRangeEndorsementTemplate() { return HighRange(RsaEndorsementTemplate()); }

TPM2B_PUBLIC EccHighRangeEndorsementTemplate() { return HighRange(EccEndorsementTemplate()); }

TPML_DIGEST HighRangePolicyBranches() {
  TPML_DIGEST branches{};
  branches.count = 2;
  branches.digests[0].size = kEndorsementPolicy.size();
  std::ranges::copy(kEndorsementPolicy, branches.digests[0].buffer);
  branches.digests[1].size = kAuthorizeNvPolicy.size();
  std::ranges::copy(kAuthorizeNvPolicy, branches.digests[1].buffer);
  return branches;
}

TPM2B_PUBLIC AttestationTemplate() { return EccSigningTemplate(TPMA_OBJECT_RESTRICTED); }

TPM2B_PUBLIC TlsTemplate() { return EccSigningTemplate(0); }

TPM2B_PUBLIC GuardedTlsTemplate(ByteView unique_x, ByteView unique_y) {
  TPM2B_PUBLIC area = TlsTemplate();
  auto& unique = area.publicArea.unique.ecc;
  unique.x.size = static_cast<UINT16>(unique_x.size());
  unique.y.size = static_cast<UINT16>(unique_y.size());
  std::ranges::copy(unique_x, unique.x.buffer);
  std::ranges::copy(unique_y, unique.y.buffer);
  return area;
}

bool IsWrongAuth(TSS2_RC rc) {
  constexpr TSS2_RC kErrorOfFormatOne = TPM2_RC_FMT1 | 0x3F;
  const TSS2_RC error = rc & kErrorOfFormatOne;
  return error == TPM2_RC_BAD_AUTH || error == TPM2_RC_AUTH_FAIL;
}

bool MadeFrom(const TPM2B_PUBLIC& wanted, const TPM2B_PUBLIC& key) {
  const auto marshal = [](TPM2B_PUBLIC area, std::array<std::uint8_t, sizeof(TPM2B_PUBLIC)>& out) {
    area.publicArea.unique = TPMU_PUBLIC_ID{};
    std::size_t size = 0;
    const TSS2_RC rc = Tss2_MU_TPMT_PUBLIC_Marshal(&area.publicArea, out.data(), out.size(), &size);
    return rc == TSS2_RC_SUCCESS ? size : 0;
  };
  std::array<std::uint8_t, sizeof(TPM2B_PUBLIC)> a{};
  std::array<std::uint8_t, sizeof(TPM2B_PUBLIC)> b{};
  const std::size_t size = marshal(wanted, a);
  return size != 0 && size == marshal(key, b) && a == b;
}

}  // namespace sealift::agent
