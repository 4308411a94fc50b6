#include "node-agent/tpm/esys_endorsement.h"

#include <array>

#include "node-agent/tpm/esys_commands.h"

namespace sealift::agent {
namespace {

// In the order in which they are looked for.
constexpr std::array<EndorsementKind, 4> kEndorsementKinds{{
    {0x01C00002, RsaEndorsementTemplate, false},
    {0x01C0000A, EccEndorsementTemplate, false},
    {0x01C00012, RsaHighRangeEndorsementTemplate, true},
    {0x01C00014, EccHighRangeEndorsementTemplate, true},
}};
// Of a TPM without a certificate.
constexpr const EndorsementKind& kBareKind = kEndorsementKinds[1];

}  // namespace

Result<EndorsementHandle> OpenEndorsementKey(ESYS_CONTEXT* context) {
  const EndorsementKind* kind = &kBareKind;
  for (const EndorsementKind& one : kEndorsementKinds) {
    SEALIFT_ASSIGN_OR_RETURN(const bool certified, Exists(context, one.certificate));
    if (!certified) continue;
    kind = &one;
    break;
  }
  TPM2B_PUBLIC area{};
  SEALIFT_ASSIGN_OR_RETURN(Transient object,
                           CreatePrimary(context, ESYS_TR_RH_ENDORSEMENT, kind->make_template(), area));
  SEALIFT_ASSIGN_OR_RETURN(Bytes public_area, MarshalPublic(area));
  return EndorsementHandle{.object = std::move(object), .public_area = std::move(public_area), .kind = kind};
}

Result<Transient> EndorsementPolicySession(ESYS_CONTEXT* context, const EndorsementKind& kind) {
  SEALIFT_ASSIGN_OR_RETURN(Transient session, StartSession(context, ESYS_TR_NONE, TPM2_SE_POLICY, 0));
  SEALIFT_RETURN_IF_ERROR(
      CheckRc(Esys_PolicySecret(context, ESYS_TR_RH_ENDORSEMENT, session.get(), ESYS_TR_PASSWORD,
                                ESYS_TR_NONE, ESYS_TR_NONE, nullptr, nullptr, nullptr, 0, nullptr, nullptr),
              "satisfy the endorsement key's policy", "Esys_PolicySecret"));
  if (!kind.high_range) return session;
  const TPML_DIGEST branches = HighRangePolicyBranches();
  SEALIFT_RETURN_IF_ERROR(
      CheckRc(Esys_PolicyOR(context, session.get(), ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &branches),
              "satisfy the endorsement key's policy", "Esys_PolicyOR"));
  return session;
}

}  // namespace sealift::agent
