#include "controller/attest/enrolment.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "controller/attest/quote_clock.h"
#include "controller/fleet/epoch_base.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "shared/tpm/certify.h"
#include "shared/tpm/credential.h"
#include "shared/tpm/key_policy.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kSecretBytes = 32;
constexpr std::size_t kNonceBytes = 32;
constexpr std::size_t kSessionIdBytes = 16;

EnrolmentAnswer Refused(Reason reason, std::string_view message) {
  return {.state = EnrolmentState::kRefused,
          .certificate_chain = {},
          .node_id = std::nullopt,
          .reason = std::string(ReasonId(reason)),
          .message = std::string(message)};
}

EnrolmentAnswer Refused(const Status& error) {
  return {.state = EnrolmentState::kRefused,
          .certificate_chain = {},
          .node_id = std::nullopt,
          .reason = ReasonIdOf(error),
          .message = MessageOf(error)};
}

// The machine is told that it is not believed, and why in one word; what was expected is for operators.
EnrolmentAnswer RefusedFor(const Verdict& verdict) {
  return Refused(ReasonFromId(verdict.reasons.front()), "the machine does not show a release of this fleet");
}

std::string FirstDifference(const Verdict& verdict) {
  for (const PcrFinding& finding : verdict.findings) {
    if (finding.outcome == "mismatch") {
      return fmt::format("PCR {}: {}", finding.pcr, finding.first_difference);
    }
  }
  return "";
}

// The node is known with another attestation key, which lies under the endorsement key and survives resets:
// this is not the machine that enrolled. While that one holds a certificate there are two of them.
EnrolmentAnswer OtherKeys(const Node& known, UnixMillis now) {
  if (known.certificate_not_after > now) {
    return Refused(Reason::kEkClaimed, "another machine enrolled with this endorsement key");
  }
  return Refused(Reason::kNodeKeysChanged, "the node is known with another attestation key");
}

// The epoch's counter as the machine certified it for this exchange; without that, what was held against it
// before goes on.
void JudgeEpochOf(const Node& known, const EnrolmentProof& proof, ByteView nonce, UnixMillis now,
                  Verdict& verdict) {
  std::vector<std::string> reasons;
  if (proof.epoch) {
    Node node = known;
    // Installed anew it counts from another base.
    if (node.certified_epoch && proof.install && proof.install != known.install)
      node.certified_epoch->base = kAnyEpochBase;
    // What its image is of it said when it ran another one.
    if (known.status.running.version != verdict.release_version) node.status.epoch.reset();
    const Status problem = JudgeEpoch(node, proof.epoch, nonce, now).problem;
    if (!problem.ok()) reasons.push_back(ReasonIdOf(problem));
  } else if (known.last_verdict) {
    std::ranges::copy_if(known.last_verdict->reasons, std::back_inserter(reasons), IsAboutEpoch);
  }
  if (reasons.empty()) return;
  verdict.trust = Trust::kUntrusted;
  verdict.reasons.insert(verdict.reasons.end(), reasons.begin(), reasons.end());
}

// Refusals that speak about the machine, as opposed to errors of ours, which leave the session open.
bool IsAboutTheMachine(const Status& error) {
  return error.code() == Code::kInvalidArgument || error.code() == Code::kUnauthenticated;
}

}  // namespace

Enrolment::Enrolment(EnrolmentParts parts, TpmMakers makers, EnrolmentOptions options)
    : parts_(parts),
      makers_(std::move(makers)),
      options_(options),
      limiter_(options.rate, parts.clock),
      recorder_(options.recorded_refusals, parts.clock) {}

Result<EnrolmentChallenge> Enrolment::Begin(const EnrolmentOffer& offer) {
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PublicArea claimed, tpm::ParsePublic(offer.ek_public));
  // The key is claimed, not proven: a stranger who names it uses up the attempts of his own address only.
  if (!limiter_.Allow(Sha256(AsBytes(claimed.key.key_id().hex() + offer.origin)))) {
    return MakeError(Code::kResourceExhausted, Reason::kEnrolmentRateLimited,
                     "begin enrolment: this machine tried too often");
  }
  auto challenge = Challenge(offer);
  if (!challenge.ok() && IsAboutTheMachine(challenge.status())) {
    WriteDown(claimed.key.key_id(), offer.origin, ReasonIdOf(challenge.status()),
              MessageOf(challenge.status()));
  }
  return challenge;
}

Result<EnrolmentChallenge> Enrolment::Challenge(const EnrolmentOffer& offer) {
  const UnixMillis now = parts_.clock.Now();
  SEALIFT_ASSIGN_OR_RETURN(const EndorsementIdentity identity,
                           IdentifyEndorsementKey(offer.ek_public, offer.ek_certificate_chain, makers_, now));
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PublicArea attestation_key, tpm::ParsePublic(offer.ak_public));
  SEALIFT_RETURN_IF_ERROR(tpm::CheckAttestationKey(attestation_key));
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PublicArea tls_key, tpm::ParsePublic(offer.tls_public));
  SEALIFT_RETURN_IF_ERROR(tpm::CheckTlsKey(tls_key));

  SecretBytes secret(RandomBytes(kSecretBytes));
  SEALIFT_ASSIGN_OR_RETURN(tpm::Credential credential,
                           tpm::MakeCredential(identity.key, attestation_key.name, secret));
  EnrolmentChallenge challenge{.session = HexEncode(RandomBytes(kSessionIdBytes)),
                               .credential_blob = std::move(credential.blob),
                               .encrypted_secret = std::move(credential.encrypted_secret),
                               .nonce = RandomBytes(kNonceBytes)};
  SEALIFT_RETURN_IF_ERROR(
      parts_.sessions.Open({.id = challenge.session,
                            .ek_digest = identity.ek_digest,
                            .certified = identity.certified,
                            .origin = offer.origin,
                            .ak_public = offer.ak_public,
                            .tls_public = offer.tls_public,
                            .join_token_hash = HashJoinToken(AsText(offer.join_token.ExposeSecret())),
                            .brought_token = !offer.join_token.empty(),
                            .secret = std::move(secret),
                            .nonce = challenge.nonce,
                            .expires = now + options_.session_lifetime}));
  return challenge;
}

Result<EnrolmentAnswer> Enrolment::Complete(const EnrolmentProof& proof) {
  SEALIFT_ASSIGN_OR_RETURN(const SessionClaim claim,
                           parts_.sessions.Claim(proof.session, parts_.clock.Now()));
  if (claim.answer.has_value()) return *claim.answer;
  auto answer = Decide(*claim.session, proof);
  if (!answer.ok()) {
    SEALIFT_RETURN_IF_ERROR(parts_.sessions.Release(proof.session));
    return answer.status();
  }
  SEALIFT_RETURN_IF_ERROR(parts_.sessions.Finish(proof.session, *answer));
  if (answer->state == EnrolmentState::kIssued) {
    log::Info("node enrolled", {{"node", answer->node_id->text()}});
  } else {
    log::Warning("enrolment not granted", {{"key", claim.session->ek_digest.hex()},
                                           {"peer", claim.session->origin},
                                           {"reason", answer->reason}});
    // A pending machine stands in the list of nodes.
    if (answer->state == EnrolmentState::kRefused || !answer->node_id.has_value()) {
      WriteDown(claim.session->ek_digest, claim.session->origin, answer->reason, answer->message);
    }
  }
  return answer;
}

Result<EnrolmentAnswer> Enrolment::Decide(const EnrolmentSession& session, const EnrolmentProof& proof) {
  if (!session.secret.Equals(proof.activated_secret.ExposeSecret())) {
    return Refused(Reason::kCredentialNotActivated, "the credential's secret is wrong");
  }
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PublicArea attestation_key, tpm::ParsePublic(session.ak_public));
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PublicArea tls_area, tpm::ParsePublic(session.tls_public));
  const auto certified = tpm::VerifyCertify(proof.certify_attest, proof.certify_signature, attestation_key,
                                            session.nonce, tls_area);
  if (!certified.ok()) return Refused(certified.status());
  const auto request = CertificateRequest::FromDer(proof.csr);
  if (!request.ok() || !(request->public_key() == certified->area().key)) {
    return Refused(Reason::kCsrInvalid, "the certificate request is not signed by the certified TLS key");
  }
  auto judged = JudgeQuote(session, proof);
  if (!judged.ok()) {
    if (IsAboutTheMachine(judged.status())) return Refused(judged.status());
    return judged.status();
  }
  if (judged->verdict.trust != Trust::kTrusted) {
    log::Warning("machine to enrol is not trusted", {{"key", session.ek_digest.hex()},
                                                     {"reason", judged->verdict.reasons.front()},
                                                     {"error", FirstDifference(judged->verdict)}});
    return RefusedFor(judged->verdict);
  }
  ProvenMachine machine{.session = session,
                        .tls_key = request->public_key(),
                        .verdict = std::move(judged->verdict),
                        .baseline = {}};
  SEALIFT_ASSIGN_OR_RETURN(std::optional<Node> known, parts_.nodes.FindByEk(session.ek_digest));
  if (known && judged->firmware) {
    std::optional<EnrolmentAnswer> refusal;
    SEALIFT_RETURN_IF_ERROR(JudgeKnown(*known, *judged->firmware, proof, machine, refusal));
    if (refusal) return *std::move(refusal);
    // The policy may have put it into quarantine just now.
    SEALIFT_ASSIGN_OR_RETURN(known, parts_.nodes.FindByEk(session.ek_digest));
  }
  return Admit(machine, std::move(known), proof);
}

// What it says of itself is not asked: the model is the one it gave as a running node.
Status Enrolment::JudgeKnown(const Node& known, const FirmwareMeasurement& firmware,
                             const EnrolmentProof& proof, ProvenMachine& machine,
                             std::optional<EnrolmentAnswer>& refusal) {
  if (parts_.firmware != nullptr) {
    SEALIFT_ASSIGN_OR_RETURN(machine.baseline, parts_.firmware->Judge(known.id, std::nullopt, firmware, false,
                                                                      parts_.clock.Now(), machine.verdict));
  }
  // Another machine that holds the node's endorsement key brings nothing upon the node.
  if (known.ak_public != machine.session.ak_public) return OkStatus();
  JudgeEpochOf(known, proof, machine.session.nonce, parts_.clock.Now(), machine.verdict);
  if (parts_.enforcer == nullptr || known.admission != Admission::kAdmitted) return OkStatus();
  // A quote from before is refused as such, and nothing follows from what it shows.
  const Status clock = AdvanceQuoteClock(known.id, proof.evidence.quote.attest, parts_.quote_clocks);
  if (!clock.ok() && !IsAboutTheMachine(clock)) return clock;
  if (!clock.ok()) {
    refusal = Refused(clock);
    return OkStatus();
  }
  SEALIFT_RETURN_IF_ERROR(parts_.enforcer->OnVerdict(known, machine.verdict));
  SEALIFT_ASSIGN_OR_RETURN(const bool denied, parts_.enforcer->DeniesRenewal(known.id, machine.verdict));
  if (!denied) return OkStatus();
  // Kept like any other verdict, so that the policy acts on it once.
  SEALIFT_RETURN_IF_ERROR(Remember(machine, known.id, proof));
  refusal = RefusedFor(machine.verdict);
  refusal->message = "the policy gives no certificate to a node with this verdict";
  return OkStatus();
}

Result<JudgedMachine> Enrolment::JudgeQuote(const EnrolmentSession& session, const EnrolmentProof& proof) {
  const auto candidates = parts_.expectations.Candidates();
  if (!candidates.ok()) {
    // Whatever went wrong, it was not the machine.
    return MakeError(Code::kUnavailable, ReasonOf(candidates.status()), MessageOf(candidates.status()));
  }
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PublicArea attestation_key, tpm::ParsePublic(session.ak_public));
  return ExamineEvidence(proof.evidence, attestation_key, session.nonce, **candidates, PhaseRule::kAnyPhase,
                         parts_.clock.Now());
}

Result<EnrolmentAnswer> Enrolment::Admit(const ProvenMachine& machine, std::optional<Node> known,
                                         const EnrolmentProof& proof) {
  if (known.has_value() &&
      (known->admission == Admission::kQuarantined || known->admission == Admission::kRevoked)) {
    return Refused(Reason::kNodeNotAdmitted, "the node was quarantined or revoked");
  }
  const bool admitted = known.has_value() && known->admission == Admission::kAdmitted;
  if (admitted && !known->ak_public.empty() && known->ak_public != machine.session.ak_public) {
    return OtherKeys(*known, parts_.clock.Now());
  }
  if (known.has_value()) {
    const Status clock = AdvanceQuoteClock(known->id, proof.evidence.quote.attest, parts_.quote_clocks);
    if (!clock.ok() && !IsAboutTheMachine(clock)) return clock;
    if (!clock.ok()) return Refused(clock);
  }
  if (admitted) {
    Node node = *std::move(known);
    node.ak_public = machine.session.ak_public;
    if (proof.install) node.install = proof.install;
    return Issue(machine, std::move(node), proof);
  }
  Status why_not =
      MakeError(Code::kPermissionDenied, Reason::kEkNotListed, "nobody admitted this machine yet");
  SEALIFT_ASSIGN_OR_RETURN(auto labels, Wanted(machine, why_not));
  if (!labels.has_value()) return HoldBack(machine, known, proof, why_not);
  Node node = known.has_value() ? *std::move(known) : NewNode(machine, Admission::kAdmitted);
  node.ak_public = machine.session.ak_public;
  if (proof.install) node.install = proof.install;
  node.labels = *std::move(labels);
  return Issue(machine, std::move(node), proof);
}

Result<std::optional<std::map<std::string, std::string>>> Enrolment::Wanted(const ProvenMachine& machine,
                                                                            Status& why_not) {
  using Labels = std::optional<std::map<std::string, std::string>>;
  const EnrolmentSession& session = machine.session;
  if (options_.policy.ek_list) {
    SEALIFT_ASSIGN_OR_RETURN(const std::optional<AdmittedEk> listed,
                             parts_.admission.Find(session.ek_digest));
    if (listed.has_value()) return Labels(listed->labels);
  }
  if (!options_.policy.join_token || !session.brought_token) return Labels();
  const auto unusable = [](std::string_view why) {
    return MakeError(Code::kPermissionDenied, Reason::kJoinTokenUnusable, why);
  };
  if (!session.certified) {
    why_not = unusable("a join token admits machines with their TPM maker's certificate only");
    return Labels();
  }
  if (!session.join_token_hash.has_value()) {
    why_not = unusable("the join token is none");
    return Labels();
  }
  const auto token =
      parts_.join_tokens.Redeem(*session.join_token_hash, session.ek_digest, parts_.clock.Now());
  if (token.ok()) {
    log::Info("join token used", {{"key", session.ek_digest.hex()}, {"token", token->id}});
    return Labels(token->labels);
  }
  if (ReasonOf(token.status()) != Reason::kJoinTokenUnusable) return token.status();
  why_not = token.status();
  return Labels();
}

// Genuine, but nobody said that it may come in. Only a machine with its maker's certificate is remembered:
// keys without one cost nothing to make.
Result<EnrolmentAnswer> Enrolment::HoldBack(const ProvenMachine& machine, const std::optional<Node>& known,
                                            const EnrolmentProof& proof, const Status& why_not) {
  EnrolmentAnswer answer{.state = EnrolmentState::kPending,
                         .certificate_chain = {},
                         .node_id = std::nullopt,
                         .reason = ReasonIdOf(why_not),
                         .message = MessageOf(why_not)};
  if (!machine.session.certified || !options_.policy.approval) return answer;
  Node node = known.has_value() ? *known : NewNode(machine, Admission::kPending);
  node.ak_public = machine.session.ak_public;
  if (proof.install) node.install = proof.install;
  SEALIFT_RETURN_IF_ERROR(parts_.nodes.Enrol(node));
  SEALIFT_RETURN_IF_ERROR(Remember(machine, node.id, proof));
  answer.node_id = node.id;
  return answer;
}

// The certificate leaves only after everything about it is in the stores.
Result<EnrolmentAnswer> Enrolment::Issue(const ProvenMachine& machine, Node node,
                                         const EnrolmentProof& proof) {
  SEALIFT_ASSIGN_OR_RETURN(IssuedNodeCertificate issued,
                           parts_.issuer.IssueNodeCertificate(node.id, machine.tls_key));
  SEALIFT_CHECK(!issued.chain.empty());
  const UnixMillis now = parts_.clock.Now();
  SEALIFT_RETURN_IF_ERROR(parts_.certificates.RecordIssued({.sha256 = Sha256(issued.chain.front()),
                                                            .subject = node.id.SubjectUri(),
                                                            .issued = now,
                                                            .not_after = issued.not_after}));
  node.certificate_not_after = issued.not_after;
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<Node> before, parts_.nodes.FindByEk(node.ek_digest));
  SEALIFT_RETURN_IF_ERROR(parts_.nodes.Enrol(node));
  // Installed anew, so its volumes are, and their epoch's base.
  if (before && proof.install && before->install != proof.install)
    SEALIFT_RETURN_IF_ERROR(AcceptNewEpochBase(parts_.nodes, node.id));
  if (node.admission == Admission::kPending) {
    // An operator may have decided otherwise while the token signed.
    SEALIFT_ASSIGN_OR_RETURN(const Admission in_force, parts_.nodes.AdmitPending(node.id, node.labels));
    if (in_force != Admission::kAdmitted) {
      return Refused(Reason::kNodeNotAdmitted, "the node was quarantined or revoked");
    }
  }
  SEALIFT_RETURN_IF_ERROR(Remember(machine, node.id, proof));
  return EnrolmentAnswer{.state = EnrolmentState::kIssued,
                         .certificate_chain = std::move(issued.chain),
                         .node_id = node.id,
                         .reason = "",
                         .message = ""};
}

Status Enrolment::Remember(const ProvenMachine& machine, const NodeId& id, const EnrolmentProof& proof) {
  // Of a node that was known it was done before, and does no harm again.
  SEALIFT_RETURN_IF_ERROR(AdvanceQuoteClock(id, proof.evidence.quote.attest, parts_.quote_clocks));
  SEALIFT_RETURN_IF_ERROR(parts_.node_status.RecordVerdict(id, machine.verdict));
  SEALIFT_ASSIGN_OR_RETURN(const auto candidates, parts_.expectations.Candidates());
  return parts_.evidence.Append({.node_id = id,
                                 .verdict = machine.verdict,
                                 .attest = proof.evidence.quote.attest,
                                 .signature = proof.evidence.quote.signature,
                                 .event_log = proof.evidence.event_log,
                                 .nonce = machine.session.nonce,
                                 .ak_public = machine.session.ak_public,
                                 .pcrs = proof.evidence.quote.pcrs,
                                 .any_phase = true,
                                 .before = std::nullopt,
                                 .expected = parts_.expectations.Encoded(candidates),
                                 .baseline = machine.baseline});
}

// Best effort: the answer does not wait for it to succeed.
void Enrolment::WriteDown(const Sha256Digest& ek_digest, const std::string& origin, const std::string& reason,
                          const std::string& message) {
  if (!recorder_.Allow(Sha256(AsBytes(origin)))) return;
  const Status written = parts_.refusals.Record({.ek_digest = ek_digest,
                                                 .node_id = std::nullopt,
                                                 .reason = reason,
                                                 .message = message,
                                                 .origin = origin,
                                                 .last = parts_.clock.Now()});
  if (!written.ok()) log::Error("a refusal was not written down", {{"error", Describe(written)}});
}

Node Enrolment::NewNode(const ProvenMachine& machine, Admission admission) {
  const UnixMillis now = parts_.clock.Now();
  auto id = NodeId::Parse(MakeUuidV7(now, RandomBytes(10)));
  SEALIFT_CHECK(id.ok());
  Node node{.id = *std::move(id)};
  node.ek_digest = machine.session.ek_digest;
  node.ak_public = machine.session.ak_public;
  node.admission = admission;
  node.enrolled = now;
  return node;
}

}  // namespace sealift::controller
