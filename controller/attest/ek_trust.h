// Whether an endorsement key is that of a genuine TPM: its certificate leads to a maker this controller
// trusts.
//
// Genuine is not admitted: any TPM from a shop is genuine. See enrolment.h for who gets in.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "controller/attest/maker_chain.h"
#include "shared/base/clock.h"
#include "shared/tpm/structures.h"

namespace sealift::controller {

// The makers' CAs. Every certificate is an anchor as it stands, self-signed or not.
struct TpmMakers {
  std::vector<MakerCertificate> anchors;
};

// Every *.pem, *.crt, *.cer and *.der in `folder`, PEM or DER. Errors: NOT_FOUND/FILE_UNREADABLE;
// INVALID_ARGUMENT/MALFORMED naming the file.
Result<TpmMakers> LoadTpmMakers(const std::filesystem::path& folder);

// Evidence about an endorsement key.
struct EndorsementIdentity {
  tpm::PublicArea key;
  // SHA-256 of the SubjectPublicKeyInfo: the machine's unique index.
  Sha256Digest ek_digest;
  // A certificate came and leads to a maker. False: none came; then only a listed EK is worth anything.
  bool certified = false;
  // "the maker's issuing CA", for people. Empty when not certified.
  std::string issuer;
};

// `ek_public`: TPM2B_PUBLIC; `chain`: DER (padded as NV has it), leaf first, then helpers; may be empty. The
// path is that of VerifyMakerChain. Errors:
// INVALID_ARGUMENT with TPM_KEY_MALFORMED, EK_UNSUITABLE, EK_CERTIFICATE_MISMATCH;
// UNAUTHENTICATED/EK_CERTIFICATE_INVALID.
Result<EndorsementIdentity> IdentifyEndorsementKey(ByteView ek_public, std::span<const Bytes> chain,
                                                   const TpmMakers& makers, UnixMillis now);

}  // namespace sealift::controller
