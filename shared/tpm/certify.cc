#include "shared/tpm/certify.h"

#include <fmt/format.h>

#include <algorithm>

namespace sealift::tpm {

Result<CertifiedKey> VerifyCertify(ByteView attest, ByteView signature, const PublicArea& attestation_key,
                                   ByteView nonce, const PublicArea& subject) {
  const auto refuse = [](Reason reason, std::string_view cause) {
    return MakeError(Code::kInvalidArgument, reason, fmt::format("verify key certification: {}", cause));
  };
  SEALIFT_ASSIGN_OR_RETURN(const Attest parsed, ParseAttest(attest, kStAttestCertify, kCertifyReasons));
  SEALIFT_ASSIGN_OR_RETURN(const Signature parsed_signature,
                           ParseSignature(signature, Reason::kCertifyMalformed));
  if (!std::ranges::equal(parsed.extra_data, nonce)) {
    return refuse(Reason::kCertifyNonceStale, "it answers another nonce");
  }
  if (std::get<CertifyInfo>(parsed.info).name != subject.name) {
    return refuse(Reason::kCertifyNameMismatch, "it names another key than the one offered");
  }
  SEALIFT_RETURN_IF_ERROR(
      VerifySignature(attestation_key.key, attest, parsed_signature, Reason::kCertifySignatureInvalid));
  return CertifiedKey(subject);
}

}  // namespace sealift::tpm
