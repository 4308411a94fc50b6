#include <fmt/format.h>

#include <algorithm>

#include "node-agent/tpm/esys_commands.h"
#include "node-agent/tpm/esys_policy.h"
#include "node-agent/tpm/esys_tpm.h"
#include "shared/crypto/hash.h"

namespace sealift::agent {
namespace {

constexpr std::size_t kMaxPurposeBytes = 32;
constexpr std::size_t kMaxObjectPartBytes = 1024;

constexpr TPMA_OBJECT kSealedAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_NODA;

Status Foreign(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kVolumeForeign, fmt::format("unseal secret: {}", what));
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

Sha256Digest Extend(const Sha256Digest& policy, TPM2_CC command, std::initializer_list<ByteView> more) {
  ByteWriter out(ByteWriter::Endian::kBig);
  out.Raw(policy.view());
  out.U32(command);
  for (const ByteView part : more) out.Raw(part);
  return Sha256(out.bytes());
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
    Result<SecretBytes> secret =
        WhileRegistersMove([&] { return UnsealLoaded(loaded, parent, policy, approval); });
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
    SEALIFT_RETURN_IF_ERROR(SatisfySigned(context(), session, policy, approval));
    return UnsealWith(context(), loaded, session);
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
