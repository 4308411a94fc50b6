// How this machine becomes a node: its TPM proves who it is and what it booted, the controller issues a
// certificate for the TLS key that never leaves the TPM.
//
// Free functions and plain values. Needs InstallKeyProvider().
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/link/controller_client.h"
#include "shared/base/clock.h"
#include "shared/base/ids.h"
#include "shared/crypto/certificate.h"

namespace sealift::agent {

// A node's certificate, checked against the machine's own TLS key. Nothing in it is secret.
struct NodeIdentity {
  NodeId id;
  // Leaf first, without the root.
  std::vector<Certificate> chain;

  std::string ChainPem() const;
  UnixMillis not_after() const { return chain.front().not_after(); }
  // When two thirds of its life are over: time for another, without hurry.
  UnixMillis RenewAt() const;
};

// Errors: INVALID_ARGUMENT/MALFORMED; FAILED_PRECONDITION/KEY_MISMATCH when the leaf is of another key;
// INVALID_ARGUMENT/CERTIFICATE_INVALID without exactly one "sealift:node:<uuid>".
Result<NodeIdentity> MakeNodeIdentity(std::vector<Certificate> chain, const PublicKey& tls_key);

struct EnrolmentAnswer {
  // Set when the certificate was issued.
  std::optional<NodeIdentity> identity;
  // kIssued, or kPending and kRefused with why.
  EnrolmentState state = EnrolmentState::kRefused;
  std::string reason;
  std::string message;
};

using EventLogReader = std::function<Result<Bytes>()>;
// The epoch's counter, certified under a nonce; nothing where the machine has none.
using EpochProver = std::function<std::optional<EpochEvidence>(ByteView nonce)>;

// One whole exchange: Begin, activate, certify, quote, Complete. Also renews. Takes seconds on a real TPM.
// `join_token` lets in a machine that nobody listed; empty where there is none.
// Errors: those of TPM, event log and client.
Result<EnrolmentAnswer> Enrol(Tpm& tpm, const std::shared_ptr<Signer>& tls_signer,
                              EnrolmentClient& controller, const EventLogReader& read_event_log,
                              const std::optional<InstallRecord>& install = std::nullopt,
                              SecretBytes join_token = {}, const EpochProver& epoch = nullptr);

// A join token that somebody left for this machine: one line in a file on the state partition, which is read
// as untrusted and removed once a certificate was issued.
class JoinTokenFile {
 public:
  explicit JoinTokenFile(std::filesystem::path file) : file_(std::move(file)) {}
  // Empty when there is none, or nothing of use.
  SecretBytes Read() const;
  // Spaces around it are left out. Errors: INVALID_ARGUMENT/JOIN_TOKEN_UNUSABLE for text that is no token;
  // those of WriteFileAtomically.
  Status Keep(const SecretBytes& token) const;
  Status Remove() const;

 private:
  std::filesystem::path file_;
};
inline constexpr std::string_view kJoinTokenFileName = "join-token";
inline constexpr std::size_t kMaxJoinTokenBytes = 256;

// In the agent's state folder.
inline constexpr std::string_view kIdentityFileName = "node-certificate.pem";

// The certificate chain as PEM in one file; a cache that may be lost. Reads it as untrusted.
class IdentityFile {
 public:
  explicit IdentityFile(std::filesystem::path file) : file_(std::move(file)) {}
  // nullopt when there is none, or none that is of use: another key's, expired at `now`, damaged (logged).
  std::optional<NodeIdentity> Load(const PublicKey& tls_key, UnixMillis now) const;
  // Errors: those of WriteFileAtomically.
  Status Save(const NodeIdentity& identity) const;
  Status Remove() const;

 private:
  std::filesystem::path file_;
};

}  // namespace sealift::agent
