// Whether a TPM maker's certificate leads to an anchor: the one path search for enrolment and `inspect`.
//
// Thread-safe, pure. Candidates are tried until one path holds: several issuers of one name, cross
// certificates, an expired one beside a valid one. OpenSSL judges each path (signatures, constraints,
// critical extensions), but on its own it would try only one. Bounded whatever the certificates are: see the
// limits.
#pragma once

#include <span>
#include <vector>

#include "controller/attest/maker_certificate.h"

namespace sealift::controller {

// What the certificate at the path's beginning is: that of an endorsement key is no CA and, where it limits
// its use, names tcg-kp-EKCertificate (TCG EK Credential Profile 2.5, 3.2); that of a CA is one.
enum class MakerRole { kEndorsementKey, kCa };

// The path, `leaf` first and its anchor last; of one element where `leaf` is an anchor itself. Among several
// a shortest one. `anchors` count as they stand, self-signed or not; `helpers` only help. Every certificate
// of the path is valid at `at`, anchor included; issuers are CAs that may sign certificates; names compare as
// directory names (RFC 5280, 7.1). Signatures with MD5 or older never count; SHA-1 does, because makers'
// older CAs have it (MakerCertificate::weak tells). Errors: UNAUTHENTICATED/EK_CERTIFICATE_INVALID, also
// where the search would take more than its limits.
Result<std::vector<MakerCertificate>> VerifyMakerChain(const MakerCertificate& leaf,
                                                       std::span<const MakerCertificate> helpers,
                                                       std::span<const MakerCertificate> anchors,
                                                       UnixMillis at, MakerRole role);

}  // namespace sealift::controller
