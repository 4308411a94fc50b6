// How a machine becomes a node: two exchanges, at whose end stands a certificate or a reason.
//
//   Begin     the machine shows its EK (with the maker's certificate, where there is one), its attestation
//   key
//             and its TLS key; it gets a credential that only its TPM can open for that AK, and a nonce.
//   Complete  it returns the credential's secret (so the AK lies in the TPM of the EK), the AK's
//   certification
//             of the TLS key, a request signed by that key, and a quote, all under the nonce. Only if the
//             quote is trusted and somebody admitted the EK does it get a certificate.
//
// A known node whose certificate expired comes back the same way, without an operator. Domain logic: no gRPC,
// no SQL. Thread-safe; borrows what it is given.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "controller/attest/admission_policy.h"
#include "controller/attest/ek_trust.h"
#include "controller/attest/enrolment_session.h"
#include "controller/attest/epoch.h"
#include "controller/attest/expectation.h"
#include "controller/attest/firmware_judge.h"
#include "controller/attest/rate_limit.h"
#include "controller/fleet/admission.h"
#include "controller/fleet/policy_enforcer.h"
#include "controller/fleet/stores.h"
#include "shared/base/clock.h"
#include "shared/base/secret.h"

namespace sealift::controller {

struct EnrolmentOffer {
  // DER, leaf first; may be empty.
  std::vector<Bytes> ek_certificate_chain;
  // TPM2B_PUBLIC each.
  Bytes ek_public;
  Bytes ak_public;
  Bytes tls_public;
  // Empty where it has none.
  SecretBytes join_token;
  // Where the offer came from (an address without its port). Nothing in an offer is proven, so what one
  // origin uses up is its own.
  std::string origin;
};

struct EnrolmentChallenge {
  std::string session;
  // TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET.
  Bytes credential_blob;
  Bytes encrypted_secret;
  Bytes nonce;
};

struct EnrolmentProof {
  std::string session;
  SecretBytes activated_secret;
  // TPMS_ATTEST, TPMT_SIGNATURE.
  Bytes certify_attest;
  Bytes certify_signature;
  // PKCS#10, DER.
  Bytes csr;
  Evidence evidence;
  // How the machine says it was set up.
  std::optional<InstallRecord> install;
  // Of the epoch's counter, under the session's nonce; nothing where the machine has none.
  std::optional<CounterEvidence> epoch;
};

struct IssuedNodeCertificate {
  // DER, leaf first, without the root.
  std::vector<Bytes> chain;
  UnixMillis not_after;
};

// Signs with the node CA, which lies in a token.
class NodeCertificateIssuer {
 public:
  virtual ~NodeCertificateIssuer() = default;
  // A short-lived client certificate with `id` as URI SAN.
  virtual Result<IssuedNodeCertificate> IssueNodeCertificate(const NodeId& id, const PublicKey& tls_key) = 0;
};

struct EnrolmentOptions {
  AdmissionPolicy policy;
  std::chrono::milliseconds session_lifetime = std::chrono::minutes(5);
  // Per EK.
  RateLimit rate{.burst = 10, .refill = std::chrono::seconds(30)};
  // Per origin; more refusals than this are answered, and not written down.
  RateLimit recorded_refusals{.burst = 200, .refill = std::chrono::seconds(1)};
};

// Borrowed; all outlive the Enrolment.
struct EnrolmentParts {
  NodeStore& nodes;
  NodeStatusStore& node_status;
  AdmissionStore& admission;
  EvidenceStore& evidence;
  CertificateStore& certificates;
  JoinTokenStore& join_tokens;
  RefusalStore& refusals;
  QuoteClockStore& quote_clocks;
  EnrolmentSessions& sessions;
  ExpectationSource& expectations;
  NodeCertificateIssuer& issuer;
  const Clock& clock;
  // Of known nodes. Null: the firmware's registers are not judged.
  FirmwareJudge* firmware = nullptr;
  // Null: whoever is let in gets a certificate.
  PolicyEnforcer* enforcer = nullptr;
};

class Enrolment {
 public:
  Enrolment(EnrolmentParts parts, TpmMakers makers, EnrolmentOptions options);

  // Errors: INVALID_ARGUMENT with TPM_KEY_MALFORMED, EK_UNSUITABLE, AK_UNSUITABLE, TLS_KEY_UNSUITABLE,
  // EK_CERTIFICATE_MISMATCH; UNAUTHENTICATED/EK_CERTIFICATE_INVALID;
  // RESOURCE_EXHAUSTED/ENROLMENT_RATE_LIMITED.
  Result<EnrolmentChallenge> Begin(const EnrolmentOffer& offer);

  // A refusal is an answer, not an error, and ends the session; asking again gives the same answer. Reasons:
  // CREDENTIAL_NOT_ACTIVATED, CERTIFY_*, CSR_INVALID, QUOTE_*, EVENT_LOG_*, RELEASE_UNKNOWN,
  // NODE_NOT_ADMITTED; where the policy says "deny-renewal", of a known node, those of its firmware and its
  // epoch (EVENT_NOT_ALLOWED, EPOCH_*); EK_CLAIMED when a node with another attestation key holds a
  // certificate for this EK, NODE_KEYS_CHANGED when that certificate has run out; pending: EK_NOT_LISTED,
  // JOIN_TOKEN_UNUSABLE. Every refusal is written down for operators (RefusalStore). Errors:
  // NOT_FOUND/ENROLMENT_SESSION_UNKNOWN; ABORTED when the session is being completed by another call; those
  // of stores and issuer: the session stays open, try again.
  Result<EnrolmentAnswer> Complete(const EnrolmentProof& proof);

 private:
  // What all proofs of one exchange add up to.
  struct ProvenMachine {
    const EnrolmentSession& session;
    PublicKey tls_key;
    Verdict verdict;
    // What the firmware's registers were compared with (EvidenceRecord).
    Bytes baseline;
  };

  Result<EnrolmentChallenge> Challenge(const EnrolmentOffer& offer);
  Result<EnrolmentAnswer> Decide(const EnrolmentSession& session, const EnrolmentProof& proof);
  Result<JudgedMachine> JudgeQuote(const EnrolmentSession& session, const EnrolmentProof& proof);
  // A node that is known: what its firmware and its epoch's counter show, what the policy does about it, and
  // whether it lets it have a certificate. OK, or why not in `refusal`.
  Status JudgeKnown(const Node& known, const FirmwareMeasurement& firmware, const EnrolmentProof& proof,
                    ProvenMachine& machine, std::optional<EnrolmentAnswer>& refusal);
  Result<EnrolmentAnswer> Admit(const ProvenMachine& machine, std::optional<Node> known,
                                const EnrolmentProof& proof);
  // The labels of whoever wanted this machine in; nothing when nobody did, and why in `why_not`.
  Result<std::optional<std::map<std::string, std::string>>> Wanted(const ProvenMachine& machine,
                                                                   Status& why_not);
  Result<EnrolmentAnswer> HoldBack(const ProvenMachine& machine, const std::optional<Node>& known,
                                   const EnrolmentProof& proof, const Status& why_not);
  Result<EnrolmentAnswer> Issue(const ProvenMachine& machine, Node node, const EnrolmentProof& proof);
  Status Remember(const ProvenMachine& machine, const NodeId& id, const EnrolmentProof& proof);
  void WriteDown(const Sha256Digest& ek_digest, const std::string& origin, const std::string& reason,
                 const std::string& message);
  Node NewNode(const ProvenMachine& machine, Admission admission);

  EnrolmentParts parts_;
  const TpmMakers makers_;
  const EnrolmentOptions options_;
  RateLimiter limiter_;
  RateLimiter recorder_;
};

}  // namespace sealift::controller
