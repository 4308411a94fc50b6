#include "controller/attest/ek_trust.h"

#include <fmt/format.h>

#include "shared/tpm/key_policy.h"

namespace sealift::controller {
namespace {

Status Refuse(std::string_view cause) {
  return MakeError(Code::kUnauthenticated, Reason::kEkCertificateInvalid,
                   fmt::format("verify EK certificate: {}", cause));
}

}  // namespace

Result<TpmMakers> LoadTpmMakers(const std::filesystem::path& folder) {
  SEALIFT_ASSIGN_OR_RETURN(std::vector<MakerCertificate> anchors, LoadMakerCertificates(folder));
  return TpmMakers{.anchors = std::move(anchors)};
}

Result<EndorsementIdentity> IdentifyEndorsementKey(ByteView ek_public, std::span<const Bytes> chain,
                                                   const TpmMakers& makers, UnixMillis now) {
  SEALIFT_ASSIGN_OR_RETURN(tpm::PublicArea key, tpm::ParsePublic(ek_public));
  SEALIFT_RETURN_IF_ERROR(tpm::CheckEndorsementKey(key));
  const Sha256Digest ek_digest = key.key.key_id();
  EndorsementIdentity identity{
      .key = std::move(key), .ek_digest = ek_digest, .certified = false, .issuer = ""};
  if (chain.empty()) return identity;
  if (chain.size() > kMaxChainLength) return Refuse("its chain is too long");
  std::vector<MakerCertificate> certificates;
  for (const Bytes& der : chain) {
    auto certificate = MakerCertificate::FromDer(der);
    if (!certificate.ok()) return Refuse(MessageOf(certificate.status()));
    certificates.push_back(*std::move(certificate));
  }
  const MakerCertificate leaf = certificates.front();
  if (leaf.key() == nullptr || EVP_PKEY_eq(leaf.key(), identity.key.key.evp()) != 1) {
    return MakeError(Code::kInvalidArgument, Reason::kEkCertificateMismatch,
                     "verify EK certificate: it is that of another key");
  }
  // Without makers to trust a certificate says no more than its key: only a listing admits it.
  if (makers.anchors.empty()) return identity;
  certificates.erase(certificates.begin());
  SEALIFT_RETURN_IF_ERROR(
      VerifyMakerChain(leaf, certificates, makers.anchors, now, MakerRole::kEndorsementKey).status());
  identity.certified = true;
  identity.issuer = leaf.IssuerText();
  return identity;
}

}  // namespace sealift::controller
