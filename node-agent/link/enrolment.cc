#include "node-agent/link/enrolment.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/base/untrusted_files.h"
#include "shared/crypto/node_certificate.h"

namespace sealift::agent {
namespace {

Result<EnrolmentAnswer> Judge(const EnrolmentOutcome& outcome, const PublicKey& tls_key) {
  EnrolmentAnswer answer{.state = outcome.state, .reason = outcome.reason, .message = outcome.message};
  if (outcome.state != EnrolmentState::kIssued) return answer;
  if (outcome.certificate_chain.empty() || outcome.certificate_chain.size() > kMaxChainLength) {
    return MakeError(Code::kInternal, Reason::kMalformed,
                     "read the issued certificate: no chain, or too long");
  }
  std::vector<Certificate> chain;
  for (const Bytes& der : outcome.certificate_chain) {
    SEALIFT_ASSIGN_OR_RETURN(Certificate certificate, Certificate::FromDer(der));
    chain.push_back(std::move(certificate));
  }
  SEALIFT_ASSIGN_OR_RETURN(answer.identity, MakeNodeIdentity(std::move(chain), tls_key));
  return answer;
}

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const std::size_t from = text.find_first_not_of(kSpace);
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(kSpace) - from + 1);
}

}  // namespace

std::string NodeIdentity::ChainPem() const {
  std::string pem;
  for (const Certificate& certificate : chain) pem += certificate.Pem();
  return pem;
}

UnixMillis NodeIdentity::RenewAt() const {
  const Certificate& leaf = chain.front();
  return leaf.not_before() + (leaf.not_after() - leaf.not_before()) * 2 / 3;
}

Result<NodeIdentity> MakeNodeIdentity(std::vector<Certificate> chain, const PublicKey& tls_key) {
  if (chain.empty()) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     "read the node certificate: the chain is empty");
  }
  if (!(chain.front().public_key() == tls_key)) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     "read the node certificate: it is not of this machine's TLS key");
  }
  SEALIFT_ASSIGN_OR_RETURN(NodeId id, NodeIdOf(chain.front()));
  return NodeIdentity{.id = std::move(id), .chain = std::move(chain)};
}

Result<EnrolmentAnswer> Enrol(Tpm& tpm, const std::shared_ptr<Signer>& tls_signer,
                              EnrolmentClient& controller, const EventLogReader& read_event_log,
                              const std::optional<InstallRecord>& install, SecretBytes join_token,
                              const EpochProver& epoch) {
  EnrolmentOffer offer;
  offer.join_token = std::move(join_token);
  SEALIFT_ASSIGN_OR_RETURN(offer.keys, tpm.EnsureKeys());
  SEALIFT_ASSIGN_OR_RETURN(offer.endorsement, tpm.ReadEndorsementKey());
  SEALIFT_ASSIGN_OR_RETURN(const EnrolmentChallenge challenge, controller.Begin(offer));

  EnrolmentProof proof;
  proof.session = challenge.session;
  proof.install = install;
  SEALIFT_ASSIGN_OR_RETURN(proof.activated_secret,
                           tpm.ActivateCredential(challenge.credential_blob, challenge.encrypted_secret));
  SEALIFT_ASSIGN_OR_RETURN(proof.tls_certification, tpm.CertifyTlsKey(challenge.nonce));
  SEALIFT_ASSIGN_OR_RETURN(proof.certificate_request,
                           CreateCertificateRequest("sealift node", {}, tls_signer, "certificate request"));
  SEALIFT_ASSIGN_OR_RETURN(proof.quote, tpm.Quote(challenge.nonce, kQuotedPcrs));
  SEALIFT_ASSIGN_OR_RETURN(proof.event_log, read_event_log());
  if (epoch) proof.epoch = epoch(challenge.nonce);
  SEALIFT_ASSIGN_OR_RETURN(const EnrolmentOutcome outcome, controller.Complete(proof));
  return Judge(outcome, tls_signer->public_key());
}

SecretBytes JoinTokenFile::Read() const {
  auto read = ReadRegularFile(file_, kMaxJoinTokenBytes);
  if (!read.ok()) {
    if (read.status().code() != Code::kNotFound) {
      log::Warning("the join token cannot be read",
                   {{"path", file_.string()}, {"error", Describe(read.status())}});
    }
    return {};
  }
  const SecretBytes all(std::move(*read));
  return SecretBytes(AsBytes(Trimmed(AsText(all.ExposeSecret()))));
}

Status JoinTokenFile::Keep(const SecretBytes& token) const {
  const std::string_view text = Trimmed(AsText(token.ExposeSecret()));
  if (text.empty() || text.size() > kMaxJoinTokenBytes ||
      !std::ranges::all_of(text, [](char c) { return c > ' ' && c < 0x7F; })) {
    return MakeError(Code::kInvalidArgument, Reason::kJoinTokenUnusable,
                     "keep the join token: it is not one word of up to 256 characters");
  }
  SEALIFT_RETURN_IF_ERROR(RemoveUnlessRegular(file_));
  return WriteFileAtomically(file_, AsBytes(text), 0600);
}

Status JoinTokenFile::Remove() const { return RemoveAnything(file_); }

std::optional<NodeIdentity> IdentityFile::Load(const PublicKey& tls_key, UnixMillis now) const {
  const auto read = [&]() -> Result<NodeIdentity> {
    SEALIFT_ASSIGN_OR_RETURN(const std::string pem,
                             ReadRegularTextFile(file_, kMaxCertificateBytes * kMaxChainLength));
    SEALIFT_ASSIGN_OR_RETURN(std::vector<Certificate> chain, Certificate::ChainFromPem(pem));
    return MakeNodeIdentity(std::move(chain), tls_key);
  };
  Result<NodeIdentity> identity = read();
  if (!identity.ok()) {
    if (identity.status().code() != Code::kNotFound) {
      log::Warning("the stored node certificate is of no use; enrolling again",
                   {{"path", file_.string()}, {"error", Describe(identity.status())}});
    }
    return std::nullopt;
  }
  if (identity->not_after() < now) return std::nullopt;
  return std::move(identity).value();
}

Status IdentityFile::Save(const NodeIdentity& identity) const {
  SEALIFT_RETURN_IF_ERROR(RemoveUnlessRegular(file_));
  return WriteFileAtomically(file_, AsBytes(identity.ChainPem()));
}

Status IdentityFile::Remove() const { return RemoveAnything(file_); }

}  // namespace sealift::agent
