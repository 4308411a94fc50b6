#include <fmt/format.h>
#include <openssl/core_names.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "node-agent/tpm/esys_commands.h"
#include "node-agent/tpm/esys_tpm.h"
#include "shared/crypto/hash.h"

namespace sealift::agent {
namespace {

constexpr std::size_t kMaxPurposeBytes = 32;
constexpr std::size_t kMaxObjectPartBytes = 1024;
constexpr std::uint32_t kDefaultRsaExponent = 65537;

constexpr TPMA_OBJECT kSealedAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_NODA;

Status Foreign(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kVolumeForeign, fmt::format("unseal secret: {}", what));
}

// The TPM's answer "a parameter, handle or session is not right" (TPM 2.0 part 2, 6.6.2: format one), as
// against being busy, full or locked out.
bool IsAboutParameters(TSS2_RC rc) {
  return ((rc & TSS2_RC_LAYER_MASK) == TSS2_TPM_RC_LAYER ||
          (rc & TSS2_RC_LAYER_MASK) == TSS2_RESMGR_TPM_RC_LAYER) &&
         (rc & TPM2_RC_FMT1) != 0;
}

// The owner's storage key: TCG TPM v2.0 Provisioning Guidance 7.5.1, ECC. The same key as long as nobody
// clears the TPM.
TPM2B_PUBLIC StorageTemplate() {
  TPM2B_PUBLIC area = EccEndorsementTemplate();
  area.publicArea.objectAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |
                                     TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_USERWITHAUTH |
                                     TPMA_OBJECT_NODA | TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT;
  area.publicArea.authPolicy = {};
  return area;
}

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

// Part 1, 16: nameAlg || H(TPMT_PUBLIC).
Result<Bytes> NameOf(const TPM2B_PUBLIC& area) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes sized, MarshalPublic(area));
  Bytes name{TPM2_ALG_SHA256 >> 8, TPM2_ALG_SHA256 & 0xFF};
  Append(name, Sha256(ByteView(sized).subspan(sizeof(UINT16))).view());
  return name;
}

Sha256Digest Extend(const Sha256Digest& policy, TPM2_CC command, std::initializer_list<ByteView> more) {
  ByteWriter out(ByteWriter::Endian::kBig);
  out.Raw(policy.view());
  out.U32(command);
  for (const ByteView part : more) out.Raw(part);
  return Sha256(out.bytes());
}

std::vector<std::uint32_t> IndexesOf(const tpm::PcrValues& values) {
  std::vector<std::uint32_t> indexes;
  for (const auto& [index, value] : values) indexes.push_back(index);
  return indexes;
}

Sha256Digest DigestOf(const tpm::PcrValues& values) {
  Sha256Hasher hasher;
  for (const auto& [index, value] : values) hasher.Update(value.view());
  return hasher.Finish();
}

Result<Sha256Digest> ExtendByPcrs(const Sha256Digest& policy, const tpm::PcrValues& values) {
  SEALIFT_ASSIGN_OR_RETURN(const TPML_PCR_SELECTION selection, Selection(IndexesOf(values)));
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes,
                           (Marshal<TPML_PCR_SELECTION, Tss2_MU_TPML_PCR_SELECTION_Marshal>(selection)));
  return Extend(policy, TPM2_CC_PolicyPCR, {bytes, DigestOf(values).view()});
}

template <typename T>
Status Fill(T& to, ByteView bytes, std::string_view what) {
  if (bytes.size() > sizeof to.buffer) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("use {}: {} bytes", what, bytes.size()));
  }
  to.size = static_cast<UINT16>(bytes.size());
  std::ranges::copy(bytes, to.buffer);
  return OkStatus();
}

class EsysVault final : public TpmVault {
 public:
  explicit EsysVault(std::shared_ptr<TpmDevice> device) : device_(std::move(device)) {}

  Result<tpm::PcrValues> ReadPcrs(std::span<const std::uint32_t> pcrs) override {
    const std::lock_guard lock(device_->mutex);
    return agent::ReadPcrs(context(), pcrs);
  }

  Result<SealedObject> Seal(const SecretBytes& secret, const SealPolicy& policy,
                            std::string_view purpose) override {
    if (secret.empty() || secret.size() > kMaxSealedBytes || purpose.size() > kMaxPurposeBytes) {
      return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                       fmt::format("seal secret: {} bytes for '{}'", secret.size(), purpose));
    }
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, SealPolicyDigest(policy));
    const std::lock_guard lock(device_->mutex);
    TPM2B_PUBLIC parent_area{};
    SEALIFT_ASSIGN_OR_RETURN(const Transient parent, Parent(parent_area));
    SEALIFT_ASSIGN_OR_RETURN(const Transient cipher,
                             StartSession(context(), parent.get(), TPM2_SE_HMAC, TPMA_SESSION_DECRYPT));
    SEALIFT_ASSIGN_OR_RETURN(const TPM2B_PUBLIC wanted, SealedTemplate(digest));
    TPM2B_DATA outside{};
    SEALIFT_RETURN_IF_ERROR(Fill(outside, AsBytes(purpose), "purpose"));
    SEALIFT_ASSIGN_OR_RETURN(const TPML_PCR_SELECTION recorded, Selection(std::array{kSecureBootPcr}));
    TPM2B_SENSITIVE_CREATE sensitive{};
    SEALIFT_RETURN_IF_ERROR(Fill(sensitive.sensitive.data, secret.ExposeSecret(), "secret"));
    TPM2B_PRIVATE* raw_private = nullptr;
    TPM2B_PUBLIC* raw_public = nullptr;
    TPM2B_CREATION_DATA* raw_data = nullptr;
    TPM2B_DIGEST* raw_hash = nullptr;
    TPMT_TK_CREATION* raw_ticket = nullptr;
    const TSS2_RC rc = Esys_Create(context(), parent.get(), ESYS_TR_PASSWORD, cipher.get(), ESYS_TR_NONE,
                                   &sensitive, &wanted, &outside, &recorded, &raw_private, &raw_public,
                                   &raw_data, &raw_hash, &raw_ticket);
    WipeMemory(&sensitive, sizeof sensitive);
    SEALIFT_RETURN_IF_ERROR(CheckRc(rc, "seal secret", "Esys_Create"));
    const EsysPtr<TPM2B_PRIVATE> made_private(raw_private);
    const EsysPtr<TPM2B_PUBLIC> made_public(raw_public);
    const EsysPtr<TPM2B_CREATION_DATA> made_data(raw_data);
    const EsysPtr<TPM2B_DIGEST> made_hash(raw_hash);
    const EsysPtr<TPMT_TK_CREATION> made_ticket(raw_ticket);
    SealedObject object;
    SEALIFT_ASSIGN_OR_RETURN(object.public_area, MarshalPublic(*made_public));
    SEALIFT_ASSIGN_OR_RETURN(object.private_area,
                             (Marshal<TPM2B_PRIVATE, Tss2_MU_TPM2B_PRIVATE_Marshal>(*made_private)));
    SEALIFT_ASSIGN_OR_RETURN(
        object.creation_data,
        (Marshal<TPMS_CREATION_DATA, Tss2_MU_TPMS_CREATION_DATA_Marshal>(made_data->creationData)));
    SEALIFT_ASSIGN_OR_RETURN(object.creation_ticket,
                             (Marshal<TPMT_TK_CREATION, Tss2_MU_TPMT_TK_CREATION_Marshal>(*made_ticket)));
    return object;
  }

  Result<Unsealed> Unseal(const SealedObject& object, const SealPolicy& policy, const SignedPcrs& approval,
                          std::string_view purpose) override {
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, SealPolicyDigest(policy));
    for (const Bytes* part :
         {&object.public_area, &object.private_area, &object.creation_data, &object.creation_ticket})
      if (part->size() > kMaxObjectPartBytes) return Foreign("its sealed object is too large");
    SEALIFT_ASSIGN_OR_RETURN(const TPM2B_PUBLIC wanted, SealedTemplate(digest));
    SEALIFT_ASSIGN_OR_RETURN(const auto area, (Unmarshal<TPM2B_PUBLIC, Tss2_MU_TPM2B_PUBLIC_Unmarshal>(
                                                  object.public_area, Reason::kVolumeForeign,
                                                  "read sealed object's public area")));
    SEALIFT_ASSIGN_OR_RETURN(const auto blob, (Unmarshal<TPM2B_PRIVATE, Tss2_MU_TPM2B_PRIVATE_Unmarshal>(
                                                  object.private_area, Reason::kVolumeForeign,
                                                  "read sealed object's private area")));
    if (!MadeFrom(wanted, area)) return Foreign("it is sealed to another policy");
    const std::lock_guard lock(device_->mutex);
    TPM2B_PUBLIC parent_area{};
    SEALIFT_ASSIGN_OR_RETURN(const Transient parent, Parent(parent_area));
    Transient loaded(context());
    const TSS2_RC rc = Esys_Load(context(), parent.get(), ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &blob,
                                 &area, loaded.Receive());
    const Status load = CheckRc(rc, "unseal secret", "Esys_Load");
    if (IsAboutParameters(rc)) return Foreign("this TPM did not make it: " + MessageOf(load));
    SEALIFT_RETURN_IF_ERROR(load);
    Unsealed result;
    SEALIFT_ASSIGN_OR_RETURN(result.made_at, CheckCreation(object, loaded, parent_area, purpose));
    Result<SecretBytes> secret = UnsealLoaded(loaded, parent, policy, approval);
    for (int attempt = 0; attempt < kMaxAttempts && PcrMoved(secret.status()); ++attempt) {
      std::this_thread::sleep_for(kPause);
      secret = UnsealLoaded(loaded, parent, policy, approval);
    }
    if (!secret.ok()) return Explain(secret.status(), policy, approval);
    result.secret = *std::move(secret);
    return result;
  }

 private:
  ESYS_CONTEXT* context() const { return device_->connection.context(); }

  Result<Transient> Parent(TPM2B_PUBLIC& made) {
    return CreatePrimary(context(), ESYS_TR_RH_OWNER, StorageTemplate(), made);
  }

  static Result<TPM2B_PUBLIC> SealedTemplate(const Sha256Digest& policy) {
    TPM2B_PUBLIC area{};
    area.publicArea.type = TPM2_ALG_KEYEDHASH;
    area.publicArea.nameAlg = TPM2_ALG_SHA256;
    area.publicArea.objectAttributes = kSealedAttributes;
    area.publicArea.parameters.keyedHashDetail.scheme.scheme = TPM2_ALG_NULL;
    SEALIFT_RETURN_IF_ERROR(Fill(area.publicArea.authPolicy, policy.view(), "policy"));
    return area;
  }

  // Any register moved, also one that the policy does not name, between the session's look at them and its
  // use. Under Secure Boot the kernel measures each module it loads into PCR 10 (IMA), and in early boot it
  // loads many.
  static constexpr int kMaxAttempts = 100;
  static constexpr std::chrono::milliseconds kPause{50};
  static bool PcrMoved(const Status& status) {
    return !status.ok() && MessageOf(status).ends_with(fmt::format("{:#x})", TPM2_RC_PCR_CHANGED));
  }

  // The TPM says that it made the object, and when: PCR 7 of then, as a digest.
  Result<Sha256Digest> CheckCreation(const SealedObject& object, const Transient& loaded,
                                     const TPM2B_PUBLIC& parent, std::string_view purpose) {
    SEALIFT_ASSIGN_OR_RETURN(
        const auto data,
        (Unmarshal<TPMS_CREATION_DATA, Tss2_MU_TPMS_CREATION_DATA_Unmarshal>(
            object.creation_data, Reason::kVolumeForeign, "read sealed object's creation data")));
    SEALIFT_ASSIGN_OR_RETURN(
        const auto ticket,
        (Unmarshal<TPMT_TK_CREATION, Tss2_MU_TPMT_TK_CREATION_Unmarshal>(
            object.creation_ticket, Reason::kVolumeForeign, "read sealed object's creation ticket")));
    TPM2B_DIGEST hash{};
    SEALIFT_RETURN_IF_ERROR(Fill(hash, Sha256(object.creation_data).view(), "creation hash"));
    const TPMT_SIG_SCHEME scheme{.scheme = TPM2_ALG_NULL, .details = {}};
    TPM2B_ATTEST* raw_attest = nullptr;
    TPMT_SIGNATURE* raw_signature = nullptr;
    const TPM2B_DATA no_nonce{};
    const TSS2_RC rc =
        Esys_CertifyCreation(context(), ESYS_TR_RH_NULL, loaded.get(), ESYS_TR_PASSWORD, ESYS_TR_NONE,
                             ESYS_TR_NONE, &no_nonce, &hash, &scheme, &ticket, &raw_attest, &raw_signature);
    const Status certified = CheckRc(rc, "unseal secret", "Esys_CertifyCreation");
    const EsysPtr<TPM2B_ATTEST> attest(raw_attest);
    const EsysPtr<TPMT_SIGNATURE> signature(raw_signature);
    if (IsAboutParameters(rc))
      return Foreign("this TPM does not vouch for its creation data: " + MessageOf(certified));
    SEALIFT_RETURN_IF_ERROR(certified);
    SEALIFT_ASSIGN_OR_RETURN(const Bytes parent_name, NameOf(parent));
    SEALIFT_ASSIGN_OR_RETURN(const TPML_PCR_SELECTION wanted, Selection(std::array{kSecureBootPcr}));
    SEALIFT_ASSIGN_OR_RETURN(const Bytes wanted_bytes,
                             (Marshal<TPML_PCR_SELECTION, Tss2_MU_TPML_PCR_SELECTION_Marshal>(wanted)));
    SEALIFT_ASSIGN_OR_RETURN(
        const Bytes recorded_bytes,
        (Marshal<TPML_PCR_SELECTION, Tss2_MU_TPML_PCR_SELECTION_Marshal>(data.pcrSelect)));
    if (wanted_bytes != recorded_bytes ||
        !std::ranges::equal(parent_name, ByteView(data.parentName.name, data.parentName.size)))
      return Foreign("it was made in another way than this agent makes them");
    if (AsText(ByteView(data.outsideInfo.buffer, data.outsideInfo.size)) != purpose)
      return Foreign("it was made for another purpose");
    const auto made_at = Sha256Digest::FromBytes(ByteView(data.pcrDigest.buffer, data.pcrDigest.size));
    if (!made_at.ok()) return Foreign("its creation data name no PCR 7");
    return *made_at;
  }

  Result<SecretBytes> UnsealLoaded(const Transient& loaded, const Transient& parent, const SealPolicy& policy,
                                   const SignedPcrs& approval) {
    SEALIFT_ASSIGN_OR_RETURN(const Transient session,
                             StartSession(context(), parent.get(), TPM2_SE_POLICY, TPMA_SESSION_ENCRYPT));
    SEALIFT_RETURN_IF_ERROR(SatisfyPolicy(session, policy, approval));
    TPM2B_SENSITIVE_DATA* raw = nullptr;
    SEALIFT_RETURN_IF_ERROR(
        CheckRc(Esys_Unseal(context(), loaded.get(), session.get(), ESYS_TR_NONE, ESYS_TR_NONE, &raw),
                "unseal secret", "Esys_Unseal"));
    const EsysPtr<TPM2B_SENSITIVE_DATA> data(raw);
    SecretBytes secret(ByteView(data->buffer, data->size));
    WipeMemory(data->buffer, data->size);
    return secret;
  }

  Status SatisfyPolicy(const Transient& session, const SealPolicy& policy, const SignedPcrs& approval) {
    SEALIFT_ASSIGN_OR_RETURN(const TPM2B_PUBLIC key_area, PolicyKeyArea(policy.policy_key));
    SEALIFT_ASSIGN_OR_RETURN(const Bytes key_name, NameOf(key_area));
    TPMT_TK_VERIFIED ticket{};
    SEALIFT_RETURN_IF_ERROR(VerifyApproval(key_area, approval, ticket));
    const TPM2B_DIGEST none{};
    SEALIFT_ASSIGN_OR_RETURN(const TPML_PCR_SELECTION moving, Selection(policy.signed_pcrs));
    SEALIFT_RETURN_IF_ERROR(CheckRc(
        Esys_PolicyPCR(context(), session.get(), ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &none, &moving),
        "unseal secret", "Esys_PolicyPCR"));
    TPM2B_DIGEST approved{};
    TPM2B_NAME name{};
    SEALIFT_RETURN_IF_ERROR(Fill(approved, approval.policy.view(), "approved policy"));
    name.size = static_cast<UINT16>(key_name.size());
    std::ranges::copy(key_name, name.name);
    const TPM2B_NONCE reference{};
    SEALIFT_RETURN_IF_ERROR(CheckRc(Esys_PolicyAuthorize(context(), session.get(), ESYS_TR_NONE, ESYS_TR_NONE,
                                                         ESYS_TR_NONE, &approved, &reference, &name, &ticket),
                                    "unseal secret", "Esys_PolicyAuthorize"));
    if (policy.literal.empty()) return OkStatus();
    SEALIFT_ASSIGN_OR_RETURN(const TPML_PCR_SELECTION fixed, Selection(IndexesOf(policy.literal)));
    return CheckRc(
        Esys_PolicyPCR(context(), session.get(), ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &none, &fixed),
        "unseal secret", "Esys_PolicyPCR");
  }

  Status VerifyApproval(const TPM2B_PUBLIC& key_area, const SignedPcrs& approval, TPMT_TK_VERIFIED& ticket) {
    Transient key(context());
    // Under a hierarchy: a key of none gives no ticket that PolicyAuthorize takes.
    SEALIFT_RETURN_IF_ERROR(CheckRc(Esys_LoadExternal(context(), ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                                      nullptr, &key_area, ESYS_TR_RH_OWNER, key.Receive()),
                                    "unseal secret", "Esys_LoadExternal"));
    TPM2B_DIGEST digest{};
    SEALIFT_RETURN_IF_ERROR(Fill(digest, Sha256(approval.policy.view()).view(), "policy digest"));
    TPMT_SIGNATURE signature{};
    signature.sigAlg = TPM2_ALG_RSASSA;
    signature.signature.rsassa.hash = TPM2_ALG_SHA256;
    SEALIFT_RETURN_IF_ERROR(Fill(signature.signature.rsassa.sig, approval.signature, "signature"));
    TPMT_TK_VERIFIED* raw = nullptr;
    SEALIFT_RETURN_IF_ERROR(CheckRc(Esys_VerifySignature(context(), key.get(), ESYS_TR_NONE, ESYS_TR_NONE,
                                                         ESYS_TR_NONE, &digest, &signature, &raw),
                                    "unseal secret", "Esys_VerifySignature"));
    const EsysPtr<TPMT_TK_VERIFIED> verified(raw);
    ticket = *verified;
    return OkStatus();
  }

  // The TPM refused; says which register is why, where that can be told from outside.
  Status Explain(const Status& refusal, const SealPolicy& policy, const SignedPcrs& approval) {
    if (ReasonOf(refusal) != Reason::kTpmCommandFailed) return refusal;
    std::string why = "the TPM refused";
    const auto fixed = agent::ReadPcrs(context(), IndexesOf(policy.literal));
    const auto moving = agent::ReadPcrs(context(), policy.signed_pcrs);
    bool told = false;
    for (const auto& [index, value] : policy.literal) {
      if (told || !fixed.ok() || fixed->at(index) == value) continue;
      why = fmt::format("PCR {} is {} and not {}", index, fixed->at(index).hex(), value.hex());
      told = true;
    }
    if (!told && moving.ok()) {
      const auto now = ExtendByPcrs({}, *moving);
      if (now.ok() && *now != approval.policy) why = "the registers are not those that were signed for";
    }
    return MakeError(Code::kFailedPrecondition, Reason::kVolumeLocked,
                     fmt::format("unseal secret: {}: {}", why, MessageOf(refusal)));
  }

  const std::shared_ptr<TpmDevice> device_;
};

}  // namespace

Result<Sha256Digest> SealPolicyDigest(const SealPolicy& policy) {
  SEALIFT_ASSIGN_OR_RETURN(const TPM2B_PUBLIC area, PolicyKeyArea(policy.policy_key));
  SEALIFT_ASSIGN_OR_RETURN(const Bytes name, NameOf(area));
  // Part 3, 23.16: the digest starts anew; the empty reference is hashed in a step of its own.
  const Sha256Digest authorised = Sha256(Extend({}, TPM2_CC_PolicyAuthorize, {name}).view());
  if (policy.literal.empty()) return authorised;
  return ExtendByPcrs(authorised, policy.literal);
}

std::unique_ptr<TpmVault> MakeEsysVault(std::shared_ptr<TpmDevice> device) {
  return std::make_unique<EsysVault>(std::move(device));
}

}  // namespace sealift::agent
