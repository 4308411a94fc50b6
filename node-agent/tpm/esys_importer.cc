#include <fmt/format.h>

#include "node-agent/tpm/esys_endorsement.h"
#include "node-agent/tpm/esys_policy.h"
#include "node-agent/tpm/esys_tpm.h"

namespace sealift::agent {
namespace {

Status Malformed(std::string_view cause) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                   fmt::format("open imported secret: {}", cause));
}

class EsysImporter final : public TpmImporter {
 public:
  explicit EsysImporter(std::shared_ptr<TpmDevice> device) : device_(std::move(device)) {}

  Result<ImportedObject> Import(const tpm::DuplicatedSecret& object,
                                const tpm::ReleasePolicy& policy) override {
    SEALIFT_ASSIGN_OR_RETURN(const auto digests, tpm::DigestReleasePolicy(policy));
    SEALIFT_RETURN_IF_ERROR(tpm::CheckDuplicate(object, digests.whole));
    SEALIFT_ASSIGN_OR_RETURN(const auto area,
                             (Unmarshal<TPM2B_PUBLIC, Tss2_MU_TPM2B_PUBLIC_Unmarshal>(
                                 object.public_area, Reason::kMalformed, "read secret's public area")));
    SEALIFT_ASSIGN_OR_RETURN(const auto duplicate,
                             (Unmarshal<TPM2B_PRIVATE, Tss2_MU_TPM2B_PRIVATE_Unmarshal>(
                                 object.duplicate, Reason::kMalformed, "read secret's private area")));
    SEALIFT_ASSIGN_OR_RETURN(const auto seed,
                             (Unmarshal<TPM2B_ENCRYPTED_SECRET, Tss2_MU_TPM2B_ENCRYPTED_SECRET_Unmarshal>(
                                 object.encrypted_seed, Reason::kMalformed, "read secret's seed")));
    const std::lock_guard lock(device_->mutex);
    SEALIFT_ASSIGN_OR_RETURN(const EndorsementHandle endorsement, OpenEndorsementKey(context()));
    SEALIFT_ASSIGN_OR_RETURN(const Transient session, EndorsementPolicySession(context(), *endorsement.kind));
    const TPM2B_DATA no_inner_key{};
    const TPMT_SYM_DEF_OBJECT no_inner_wrapper{.algorithm = TPM2_ALG_NULL, .keyBits = {}, .mode = {}};
    TPM2B_PRIVATE* raw = nullptr;
    SEALIFT_RETURN_IF_ERROR(
        CheckRc(Esys_Import(context(), endorsement.object.get(), session.get(), ESYS_TR_NONE, ESYS_TR_NONE,
                            &no_inner_key, &area, &duplicate, &seed, &no_inner_wrapper, &raw),
                "import secret", "Esys_Import"));
    const EsysPtr<TPM2B_PRIVATE> made(raw);
    ImportedObject imported{.public_area = object.public_area, .private_area = {}};
    SEALIFT_ASSIGN_OR_RETURN(imported.private_area,
                             (Marshal<TPM2B_PRIVATE, Tss2_MU_TPM2B_PRIVATE_Marshal>(*made)));
    return imported;
  }

  Result<SecretBytes> Unseal(const ImportedObject& object, const tpm::ReleasePolicy& policy,
                             const std::optional<SignedPcrs>& approval) override {
    SEALIFT_ASSIGN_OR_RETURN(const auto digests, tpm::DigestReleasePolicy(policy));
    SEALIFT_ASSIGN_OR_RETURN(const tpm::SealedArea sealed, tpm::ParseSealedArea(object.public_area));
    if (sealed.policy != digests.whole) return Malformed("its policy is another one than it is said to have");
    SEALIFT_ASSIGN_OR_RETURN(const auto area,
                             (Unmarshal<TPM2B_PUBLIC, Tss2_MU_TPM2B_PUBLIC_Unmarshal>(
                                 object.public_area, Reason::kMalformed, "read secret's public area")));
    SEALIFT_ASSIGN_OR_RETURN(const auto blob,
                             (Unmarshal<TPM2B_PRIVATE, Tss2_MU_TPM2B_PRIVATE_Unmarshal>(
                                 object.private_area, Reason::kMalformed, "read secret's private area")));
    const std::lock_guard lock(device_->mutex);
    SEALIFT_ASSIGN_OR_RETURN(const EndorsementHandle endorsement, OpenEndorsementKey(context()));
    Transient loaded(context());
    {
      SEALIFT_ASSIGN_OR_RETURN(const Transient session,
                               EndorsementPolicySession(context(), *endorsement.kind));
      const TSS2_RC rc = Esys_Load(context(), endorsement.object.get(), session.get(), ESYS_TR_NONE,
                                   ESYS_TR_NONE, &blob, &area, loaded.Receive());
      const Status load = CheckRc(rc, "open imported secret", "Esys_Load");
      if (IsAboutParameters(rc)) return Malformed("this TPM did not import it: " + MessageOf(load));
      SEALIFT_RETURN_IF_ERROR(load);
    }
    Result<SecretBytes> secret =
        WhileRegistersMove([&] { return Attempt(loaded, endorsement.object, policy, digests, approval); });
    return secret.ok() ? std::move(secret) : Result<SecretBytes>(Explain(secret.status(), policy, approval));
  }

 private:
  ESYS_CONTEXT* context() const { return device_->connection.context(); }

  Result<bool> HoldsNow(const tpm::PcrValues& values) const {
    SEALIFT_ASSIGN_OR_RETURN(const auto now, agent::ReadPcrs(context(), IndexesOf(values)));
    return now == values;
  }

  Result<SecretBytes> Attempt(const Transient& loaded, const Transient& endorsement,
                              const tpm::ReleasePolicy& policy, const tpm::ReleasePolicyDigests& digests,
                              const std::optional<SignedPcrs>& approval) const {
    SEALIFT_ASSIGN_OR_RETURN(const Transient session, StartSession(context(), endorsement.get(),
                                                                   TPM2_SE_POLICY, TPMA_SESSION_ENCRYPT));
    bool as_proven = false;
    if (policy.running) {
      SEALIFT_ASSIGN_OR_RETURN(as_proven, HoldsNow(*policy.running));
    }
    if (as_proven || !approval) {
      // Without either the TPM is asked all the same: the refusal is its own.
      SEALIFT_ASSIGN_OR_RETURN(const TPML_PCR_SELECTION registers,
                               Selection(IndexesOf(policy.running ? *policy.running : policy.fixed)));
      const TPM2B_DIGEST none{};
      SEALIFT_RETURN_IF_ERROR(CheckRc(Esys_PolicyPCR(context(), session.get(), ESYS_TR_NONE, ESYS_TR_NONE,
                                                     ESYS_TR_NONE, &none, &registers),
                                      "open imported secret", "Esys_PolicyPCR"));
    } else {
      const SealPolicy sealed{.policy_key = policy.policy_key,
                              .signed_pcrs = {kSecretSignedPcrs.begin(), kSecretSignedPcrs.end()},
                              .literal = policy.fixed};
      SEALIFT_RETURN_IF_ERROR(SatisfySigned(context(), session, sealed, *approval));
    }
    if (digests.running_branch) {
      TPML_DIGEST branches{};
      branches.count = 2;
      SEALIFT_RETURN_IF_ERROR(Fill(branches.digests[0], digests.signed_branch.view(), "policy branch"));
      SEALIFT_RETURN_IF_ERROR(Fill(branches.digests[1], digests.running_branch->view(), "policy branch"));
      SEALIFT_RETURN_IF_ERROR(CheckRc(
          Esys_PolicyOR(context(), session.get(), ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &branches),
          "open imported secret", "Esys_PolicyOR"));
    }
    return UnsealWith(context(), loaded, session);
  }

  // The TPM refused; says which register is why, where that can be told from outside.
  Status Explain(const Status& refusal, const tpm::ReleasePolicy& policy,
                 const std::optional<SignedPcrs>& approval) const {
    if (ReasonOf(refusal) != Reason::kTpmCommandFailed) return refusal;
    std::string why = approval ? "the registers are not those that were signed for"
                               : "the image has no signature for the registers of now";
    const tpm::PcrValues& wanted = policy.running && !approval ? *policy.running : policy.fixed;
    const auto now = agent::ReadPcrs(context(), IndexesOf(wanted));
    for (const auto& [index, value] : wanted) {
      if (!now.ok() || now->at(index) == value) continue;
      why = fmt::format("PCR {} is {} and not {}", index, now->at(index).hex(), value.hex());
      break;
    }
    return MakeError(Code::kFailedPrecondition, Reason::kSecretWithheld,
                     fmt::format("open imported secret: {}: {}", why, MessageOf(refusal)));
  }

  const std::shared_ptr<TpmDevice> device_;
};

}  // namespace

std::unique_ptr<TpmImporter> MakeEsysImporter(std::shared_ptr<TpmDevice> device) {
  return std::make_unique<EsysImporter>(std::move(device));
}

}  // namespace sealift::agent
