#include "node-agent/tpm/esys_tpm.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>

#include "node-agent/tpm/esys_commands.h"
#include "node-agent/tpm/esys_endorsement.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "shared/tpm/credential.h"
#include "shared/tpm/structures.h"

namespace sealift::agent {
namespace {

constexpr std::size_t kNvChunkBytes = 512;
constexpr std::size_t kMaxCertificateBytes = 16384;
constexpr std::size_t kMaxCertificates = 16;
constexpr int kQuoteAttempts = 5;
constexpr TPM2_HANDLE kChainFirstIndex = 0x01C00100;
constexpr TPM2_HANDLE kChainLastIndex = 0x01C001FF;

// The size of the DER certificate that `bytes` start with; none when they start with something else. Indexes
// are often larger than what lies in them.
std::optional<std::size_t> CertificateSize(ByteView bytes) {
  if (bytes.size() < 4 || bytes[0] != 0x30) return std::nullopt;
  std::size_t header = 2;
  std::size_t size = bytes[1];
  if (size >= 0x80) {
    const std::size_t length_bytes = size & 0x7F;
    if (length_bytes == 0 || length_bytes > 2) return std::nullopt;
    header += length_bytes;
    size = length_bytes == 1 ? bytes[2] : static_cast<std::size_t>(bytes[2] << 8 | bytes[3]);
  }
  if (header + size > bytes.size()) return std::nullopt;
  return header + size;
}

void AppendCertificates(ByteView bytes, std::vector<Bytes>& to) {
  while (to.size() < kMaxCertificates) {
    const auto size = CertificateSize(bytes);
    if (!size.has_value()) return;
    to.push_back(ToBytes(bytes.first(*size)));
    bytes = bytes.subspan(*size);
  }
}

class EsysTpm final : public Tpm {
 public:
  EsysTpm(std::shared_ptr<TpmDevice> device, SecretBytes tls_guard)
      : device_(std::move(device)), tls_guard_(std::move(tls_guard)) {}

  Result<tpm::PcrValues> ReadPcrs(std::span<const std::uint32_t> pcrs) override {
    const std::lock_guard lock(device_->mutex);
    return agent::ReadPcrs(context(), pcrs);
  }

  Result<TpmKeys> EnsureKeys() override {
    const std::lock_guard lock(device_->mutex);
    TpmKeys keys;
    SEALIFT_ASSIGN_OR_RETURN(keys.attestation, EnsureKey(attestation_));
    SEALIFT_ASSIGN_OR_RETURN(keys.tls, EnsureTlsKey());
    return keys;
  }

  Status EnsureAttestationKey() {
    const std::lock_guard lock(device_->mutex);
    return EnsureKey(attestation_).status();
  }

  Result<EndorsementKey> ReadEndorsementKey() override {
    const std::lock_guard lock(device_->mutex);
    SEALIFT_ASSIGN_OR_RETURN(EndorsementHandle opened, OpenEndorsementKey(context()));
    EndorsementKey key{.public_area = std::move(opened.public_area), .certificates = {}};
    SEALIFT_ASSIGN_OR_RETURN(key.certificates, ReadCertificates(opened.kind->certificate));
    return key;
  }

  Result<SecretBytes> ActivateCredential(ByteView blob, ByteView encrypted_secret) override {
    SEALIFT_RETURN_IF_ERROR(tpm::CheckCredential(blob, encrypted_secret));
    SEALIFT_ASSIGN_OR_RETURN(const auto id_object,
                             (Unmarshal<TPM2B_ID_OBJECT, Tss2_MU_TPM2B_ID_OBJECT_Unmarshal>(
                                 blob, Reason::kMalformed, "read credential blob")));
    SEALIFT_ASSIGN_OR_RETURN(const auto secret,
                             (Unmarshal<TPM2B_ENCRYPTED_SECRET, Tss2_MU_TPM2B_ENCRYPTED_SECRET_Unmarshal>(
                                 encrypted_secret, Reason::kMalformed, "read credential secret")));
    const std::lock_guard lock(device_->mutex);
    SEALIFT_RETURN_IF_ERROR(EnsureKey(attestation_).status());
    SEALIFT_ASSIGN_OR_RETURN(const EndorsementHandle endorsement, OpenEndorsementKey(context()));
    SEALIFT_ASSIGN_OR_RETURN(const Transient session, EndorsementPolicySession(context(), *endorsement.kind));
    TPM2B_DIGEST* raw = nullptr;
    SEALIFT_RETURN_IF_ERROR(CheckRc(
        Esys_ActivateCredential(context(), attestation_.object, endorsement.object.get(), ESYS_TR_PASSWORD,
                                session.get(), ESYS_TR_NONE, &id_object, &secret, &raw),
        "activate credential", "Esys_ActivateCredential"));
    const EsysPtr<TPM2B_DIGEST> activated(raw);
    SecretBytes result(ByteView(activated->buffer, activated->size));
    WipeMemory(activated->buffer, activated->size);
    return result;
  }

  Result<Attestation> CertifyTlsKey(ByteView nonce) override {
    SEALIFT_ASSIGN_OR_RETURN(const TPM2B_DATA data, QualifyingData(nonce));
    const std::lock_guard lock(device_->mutex);
    SEALIFT_RETURN_IF_ERROR(EnsureKey(attestation_).status());
    SEALIFT_RETURN_IF_ERROR(EnsureTlsKey().status());
    SEALIFT_ASSIGN_OR_RETURN(const Transient session, TlsKeySession());
    const TPMT_SIG_SCHEME scheme{.scheme = TPM2_ALG_NULL, .details = {}};
    TPM2B_ATTEST* attest = nullptr;
    TPMT_SIGNATURE* signature = nullptr;
    SEALIFT_RETURN_IF_ERROR(
        CheckRc(Esys_Certify(context(), tls_.object, attestation_.object, SessionOf(session),
                             ESYS_TR_PASSWORD, ESYS_TR_NONE, &data, &scheme, &attest, &signature),
                "certify TLS key", "Esys_Certify"));
    const EsysPtr<TPM2B_ATTEST> owned_attest(attest);
    const EsysPtr<TPMT_SIGNATURE> owned_signature(signature);
    return MarshalAttestation(*attest, *signature);
  }

  Result<tpm::QuoteEvidence> Quote(ByteView nonce, std::span<const std::uint32_t> pcrs) override {
    SEALIFT_ASSIGN_OR_RETURN(const TPM2B_DATA data, QualifyingData(nonce));
    SEALIFT_ASSIGN_OR_RETURN(const TPML_PCR_SELECTION selection, Selection(pcrs));
    const std::lock_guard lock(device_->mutex);
    SEALIFT_RETURN_IF_ERROR(EnsureKey(attestation_).status());
    for (int attempt = 0; attempt < kQuoteAttempts; ++attempt) {
      SEALIFT_ASSIGN_OR_RETURN(tpm::PcrValues values, agent::ReadPcrs(context(), pcrs));
      SEALIFT_ASSIGN_OR_RETURN(Attestation made, QuoteLocked(data, selection));
      SEALIFT_ASSIGN_OR_RETURN(const bool fits, QuoteFits(made.attest, values));
      if (!fits) continue;
      return tpm::QuoteEvidence{.attest = std::move(made.attest),
                                .signature = std::move(made.signature),
                                .pcrs = std::move(values)};
    }
    return MakeError(Code::kUnavailable, Reason::kTpmCommandFailed,
                     "quote registers: they kept changing meanwhile");
  }

  Result<Bytes> SignWithTlsKey(const Sha256Digest& digest) override {
    TPMT_SIGNATURE* raw = nullptr;
    Bytes encoded;
    {
      const std::lock_guard lock(device_->mutex);
      if (tls_.object == ESYS_TR_NONE) SEALIFT_RETURN_IF_ERROR(EnsureTlsKey().status());
      SEALIFT_ASSIGN_OR_RETURN(const TSS2_RC rc, SignLocked(digest, raw));
      SEALIFT_RETURN_IF_ERROR(CheckRc(rc, "sign with TLS key", "Esys_Sign"));
    }
    const EsysPtr<TPMT_SIGNATURE> signature(raw);
    SEALIFT_ASSIGN_OR_RETURN(encoded, (Marshal<TPMT_SIGNATURE, Tss2_MU_TPMT_SIGNATURE_Marshal>(*signature)));
    SEALIFT_ASSIGN_OR_RETURN(tpm::Signature parsed, tpm::ParseSignature(encoded, Reason::kTpmCommandFailed));
    return std::move(parsed.bytes);
  }

 private:
  // A persistent key of ours.
  struct OwnKey {
    std::string_view role;
    TPM2_HANDLE handle;
    ESYS_TR hierarchy;
    TPM2B_PUBLIC (*make_template)();
    // Of the device.
    ESYS_TR& object;
  };

  ESYS_CONTEXT* context() const { return device_->connection.context(); }

  Result<TPM2B_PUBLIC> ReadPublic(ESYS_TR object) {
    TPM2B_PUBLIC* area = nullptr;
    TPM2B_NAME* name = nullptr;
    TPM2B_NAME* qualified_name = nullptr;
    SEALIFT_RETURN_IF_ERROR(CheckRc(Esys_ReadPublic(context(), object, ESYS_TR_NONE, ESYS_TR_NONE,
                                                    ESYS_TR_NONE, &area, &name, &qualified_name),
                                    "read public area of a TPM key", "Esys_ReadPublic"));
    const EsysPtr<TPM2B_PUBLIC> owned(area);
    const EsysPtr<TPM2B_NAME> owned_name(name);
    const EsysPtr<TPM2B_NAME> owned_qualified_name(qualified_name);
    return *area;
  }

  // The key's TPM2B_PUBLIC; makes and persists it where the handle is vacant.
  Result<Bytes> EnsureKey(OwnKey& key) {
    const TPM2B_PUBLIC wanted = key.make_template();
    SEALIFT_ASSIGN_OR_RETURN(const bool exists, Exists(context(), key.handle));
    if (!exists) return MakeKey(key, wanted);
    if (key.object == ESYS_TR_NONE) {
      SEALIFT_ASSIGN_OR_RETURN(key.object, OpenHandle(context(), key.handle));
    }
    SEALIFT_ASSIGN_OR_RETURN(const TPM2B_PUBLIC area, ReadPublic(key.object));
    if (!MadeFrom(wanted, area)) {
      return MakeError(Code::kFailedPrecondition, Reason::kTpmHandleOccupied,
                       fmt::format("use {} key: another key lies at TPM handle {:#x}", key.role, key.handle));
    }
    return MarshalPublic(area);
  }

  // Two values that follow from the guard: one for the making of the key, one for its use.
  Sha256Digest FromGuard(std::string_view label) const {
    Bytes text = ToBytes(AsBytes(label));
    Append(text, tls_guard_.ExposeSecret());
    const Sha256Digest digest = Sha256(text);
    WipeMemory(text.data(), text.size());
    return digest;
  }
  TPM2B_AUTH TlsAuth() const {
    TPM2B_AUTH auth{};
    const Sha256Digest value = FromGuard("sealift tls key auth");
    auth.size = static_cast<UINT16>(value.bytes.size());
    std::ranges::copy(value.bytes, auth.buffer);
    return auth;
  }

  // With a guard the key at the handle may be of another one: of a guard that was lost, or of one boot. Then
  // it is made anew.
  Result<Bytes> EnsureTlsKey() {
    if (tls_guard_.empty()) return EnsureKey(tls_);
    SEALIFT_ASSIGN_OR_RETURN(const bool exists, Exists(context(), tls_.handle));
    if (!exists) return MakeGuardedKey();
    SEALIFT_ASSIGN_OR_RETURN(Bytes area, EnsureKey(tls_));
    if (guard_fits_) return area;
    SEALIFT_RETURN_IF_ERROR(SetTlsAuth());
    TPMT_SIGNATURE* raw = nullptr;
    SEALIFT_ASSIGN_OR_RETURN(const TSS2_RC rc, SignLocked(Sha256Digest{}, raw));
    const EsysPtr<TPMT_SIGNATURE> signature(raw);
    if (!IsWrongAuth(rc)) {
      SEALIFT_RETURN_IF_ERROR(CheckRc(rc, "try the TLS key", "Esys_Sign"));
      guard_fits_ = true;
      return area;
    }
    log::Warning("the TLS key is of another guard; making it anew");
    ESYS_TR gone = ESYS_TR_NONE;
    SEALIFT_RETURN_IF_ERROR(
        CheckRc(Esys_EvictControl(context(), ESYS_TR_RH_OWNER, tls_.object, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                  ESYS_TR_NONE, tls_.handle, &gone),
                "remove the TLS key of another guard", "Esys_EvictControl"));
    tls_.object = ESYS_TR_NONE;
    return MakeGuardedKey();
  }

  Result<Bytes> MakeGuardedKey() {
    const Sha256Digest x = FromGuard("sealift tls key x");
    const Sha256Digest y = FromGuard("sealift tls key y");
    TPM2B_AUTH auth = TlsAuth();
    auto made = MakeKey(tls_, GuardedTlsTemplate(x.view(), y.view()), auth);
    WipeMemory(&auth, sizeof auth);
    if (!made.ok()) return made;
    SEALIFT_RETURN_IF_ERROR(SetTlsAuth());
    guard_fits_ = true;
    return made;
  }

  Status SetTlsAuth() {
    TPM2B_AUTH auth = TlsAuth();
    const Status set =
        CheckRc(Esys_TR_SetAuth(context(), tls_.object, &auth), "use the TLS key", "Esys_TR_SetAuth");
    WipeMemory(&auth, sizeof auth);
    return set;
  }

  // Proves the guard without showing it on the bus; nothing without a guard.
  Result<Transient> TlsKeySession() {
    if (tls_guard_.empty()) return Transient(context());
    return StartSession(context(), ESYS_TR_NONE, TPM2_SE_HMAC, 0);
  }
  static ESYS_TR SessionOf(const Transient& session) {
    return session.get() == ESYS_TR_NONE ? ESYS_TR_PASSWORD : session.get();
  }

  Result<TSS2_RC> SignLocked(const Sha256Digest& digest, TPMT_SIGNATURE*& signature) {
    TPM2B_DIGEST input{};
    input.size = static_cast<UINT16>(digest.bytes.size());
    std::ranges::copy(digest.bytes, input.buffer);
    const TPMT_SIG_SCHEME scheme{.scheme = TPM2_ALG_NULL, .details = {}};
    TPMT_TK_HASHCHECK ticket{};
    ticket.tag = TPM2_ST_HASHCHECK;
    ticket.hierarchy = TPM2_RH_NULL;
    SEALIFT_ASSIGN_OR_RETURN(const Transient session, TlsKeySession());
    return Esys_Sign(context(), tls_.object, SessionOf(session), ESYS_TR_NONE, ESYS_TR_NONE, &input, &scheme,
                     &ticket, &signature);
  }

  Result<Bytes> MakeKey(OwnKey& key, const TPM2B_PUBLIC& wanted, const TPM2B_AUTH& auth = {}) {
    if (key.object != ESYS_TR_NONE) {
      SEALIFT_RETURN_IF_ERROR(
          CheckRc(Esys_TR_Close(context(), &key.object), "forget lost TPM key", "Esys_TR_Close"));
    }
    TPM2B_PUBLIC area{};
    auto object = CreatePrimary(context(), key.hierarchy, wanted, area, auth);
    if (!object.ok()) return Annotate(object.status(), fmt::format("make {} key", key.role));
    SEALIFT_RETURN_IF_ERROR(
        CheckRc(Esys_EvictControl(context(), ESYS_TR_RH_OWNER, object->get(), ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                  ESYS_TR_NONE, key.handle, &key.object),
                fmt::format("keep {} key at TPM handle {:#x}", key.role, key.handle), "Esys_EvictControl"));
    return MarshalPublic(area);
  }

  Result<Bytes> ReadNv(TPM2_HANDLE handle) {
    SEALIFT_ASSIGN_OR_RETURN(ESYS_TR index, OpenHandle(context(), handle));
    auto bytes = ReadNvIndex(index, handle);
    SEALIFT_RETURN_IF_ERROR(CheckRc(Esys_TR_Close(context(), &index), "close NV index", "Esys_TR_Close"));
    return bytes;
  }

  Result<Bytes> ReadNvIndex(ESYS_TR index, TPM2_HANDLE handle) {
    const std::string what = fmt::format("read NV index {:#x}", handle);
    TPM2B_NV_PUBLIC* raw = nullptr;
    TPM2B_NAME* raw_name = nullptr;
    SEALIFT_RETURN_IF_ERROR(CheckRc(
        Esys_NV_ReadPublic(context(), index, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &raw, &raw_name), what,
        "Esys_NV_ReadPublic"));
    const EsysPtr<TPM2B_NV_PUBLIC> area(raw);
    const EsysPtr<TPM2B_NAME> name(raw_name);
    const std::size_t size = std::min<std::size_t>(area->nvPublic.dataSize, kMaxCertificateBytes);
    const bool owner = (area->nvPublic.attributes & TPMA_NV_OWNERREAD) != 0;
    Bytes bytes;
    while (bytes.size() < size) {
      const auto step = static_cast<UINT16>(std::min(size - bytes.size(), kNvChunkBytes));
      TPM2B_MAX_NV_BUFFER* raw_chunk = nullptr;
      SEALIFT_RETURN_IF_ERROR(CheckRc(
          Esys_NV_Read(context(), owner ? ESYS_TR_RH_OWNER : index, index, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                       ESYS_TR_NONE, step, static_cast<UINT16>(bytes.size()), &raw_chunk),
          what, "Esys_NV_Read"));
      const EsysPtr<TPM2B_MAX_NV_BUFFER> chunk(raw_chunk);
      if (chunk->size == 0) break;
      Append(bytes, ByteView(chunk->buffer, chunk->size));
    }
    return bytes;
  }

  Result<std::vector<Bytes>> ReadCertificates(TPM2_HANDLE leaf) {
    std::vector<Bytes> certificates;
    SEALIFT_ASSIGN_OR_RETURN(const bool exists, Exists(context(), leaf));
    if (!exists) return certificates;
    SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadNv(leaf));
    const auto size = CertificateSize(bytes);
    if (!size.has_value()) {
      return MakeError(Code::kFailedPrecondition, Reason::kMalformed,
                       fmt::format("read EK certificate: NV index {:#x} holds no DER", leaf));
    }
    certificates.push_back(ToBytes(ByteView(bytes).first(*size)));
    SEALIFT_ASSIGN_OR_RETURN(const auto handles, Handles(context(), kChainFirstIndex, kMaxCertificates));
    for (const TPM2_HANDLE handle : handles) {
      if (handle > kChainLastIndex) break;
      SEALIFT_ASSIGN_OR_RETURN(const Bytes chain, ReadNv(handle));
      AppendCertificates(chain, certificates);
    }
    return certificates;
  }

  Result<Attestation> QuoteLocked(const TPM2B_DATA& data, const TPML_PCR_SELECTION& selection) {
    const TPMT_SIG_SCHEME scheme{.scheme = TPM2_ALG_NULL, .details = {}};
    TPM2B_ATTEST* attest = nullptr;
    TPMT_SIGNATURE* signature = nullptr;
    SEALIFT_RETURN_IF_ERROR(CheckRc(Esys_Quote(context(), attestation_.object, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                               ESYS_TR_NONE, &data, &scheme, &selection, &attest, &signature),
                                    "quote registers", "Esys_Quote"));
    const EsysPtr<TPM2B_ATTEST> owned_attest(attest);
    const EsysPtr<TPMT_SIGNATURE> owned_signature(signature);
    return MarshalAttestation(*attest, *signature);
  }

  static Result<bool> QuoteFits(ByteView attest, const tpm::PcrValues& values) {
    SEALIFT_ASSIGN_OR_RETURN(const tpm::Attest parsed,
                             tpm::ParseAttest(attest, tpm::kStAttestQuote, tpm::kQuoteReasons));
    Sha256Hasher hasher;
    for (const auto& [pcr, value] : values) hasher.Update(value.view());
    return std::ranges::equal(std::get<tpm::QuoteInfo>(parsed.info).pcr_digest, hasher.Finish().view());
  }

  const std::shared_ptr<TpmDevice> device_;
  const SecretBytes tls_guard_;
  // The key at the handle was seen to sign with it.
  bool guard_fits_ = false;
  // The AK lies under the endorsement hierarchy: the TPM blurs its counters for keys of the owner.
  OwnKey attestation_{.role = "attestation",
                      .handle = kAttestationKeyHandle,
                      .hierarchy = ESYS_TR_RH_ENDORSEMENT,
                      .make_template = AttestationTemplate,
                      .object = device_->keys.at(kAttestationKeyHandle)};
  OwnKey tls_{.role = "TLS",
              .handle = tls_guard_.empty() ? kTlsKeyHandle : kGuardedTlsKeyHandle,
              .hierarchy = ESYS_TR_RH_OWNER,
              .make_template = TlsTemplate,
              .object = device_->keys.at(tls_.handle)};
};

}  // namespace

Result<std::shared_ptr<TpmDevice>> OpenTpmDevice(const EsysTpmOptions& options) {
  SEALIFT_ASSIGN_OR_RETURN(EsysConnection connection, EsysConnection::Open(options.tcti));
  return std::make_shared<TpmDevice>(std::move(connection));
}

Status EnsureAttestationKey(std::shared_ptr<TpmDevice> device) {
  return EsysTpm(std::move(device), {}).EnsureAttestationKey();
}

std::unique_ptr<Tpm> MakeEsysTpm(std::shared_ptr<TpmDevice> device, SecretBytes tls_guard) {
  return std::make_unique<EsysTpm>(std::move(device), std::move(tls_guard));
}

Result<std::unique_ptr<Tpm>> OpenEsysTpm(const EsysTpmOptions& options) {
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<TpmDevice> device, OpenTpmDevice(options));
  return MakeEsysTpm(std::move(device));
}

}  // namespace sealift::agent
