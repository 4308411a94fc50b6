// The controller as the agent sees it: two seams of plain values, one for each listener.
//
// The real ones speak gRPC (grpc_controller.h). Calls block, each with its own deadline; thread-safe.
// Errors: UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED: trying again helps. Others come from the
// controller with its reason id, as they are.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "node-agent/order/machine_report.h"
#include "node-agent/tpm/tpm.h"
#include "node-agent/update/update_engine.h"
#include "shared/base/bytes.h"
#include "shared/base/secret.h"
#include "shared/base/status.h"
#include "shared/escrow/escrow.h"
#include "shared/tpm/quote.h"

namespace sealift::agent {

// What a machine says of itself when it asks in.
struct EnrolmentOffer {
  EndorsementKey endorsement;
  TpmKeys keys;
  // Empty where it was given none.
  SecretBytes join_token;
};

struct EnrolmentChallenge {
  std::string session;
  Bytes credential_blob;
  Bytes encrypted_secret;
  Bytes nonce;
};

// The epoch's counter, certified under the nonce of the quote it goes with.
struct EpochEvidence {
  Attestation counter;
  std::uint64_t base = 0;
};

struct EnrolmentProof {
  std::string session;
  SecretBytes activated_secret;
  Attestation tls_certification;
  Bytes certificate_request;
  tpm::QuoteEvidence quote;
  Bytes event_log;
  // Of a machine that the installer set up.
  std::optional<InstallRecord> install;
  // Nothing where the machine has no counter.
  std::optional<EpochEvidence> epoch;
};

enum class EnrolmentState { kIssued, kPending, kRefused };

struct EnrolmentOutcome {
  EnrolmentState state = EnrolmentState::kRefused;
  // DER, leaf first, without the root; when issued.
  std::vector<Bytes> certificate_chain;
  std::string node_id;
  // When pending or refused.
  std::string reason;
  std::string message;
};

class EnrolmentClient {
 public:
  virtual ~EnrolmentClient() = default;
  virtual Result<EnrolmentChallenge> Begin(const EnrolmentOffer& offer) = 0;
  virtual Result<EnrolmentOutcome> Complete(const EnrolmentProof& proof) = 0;
};

struct CheckIn {
  EngineStatus status;
  std::string boot_id;
  std::string agent_version;
  std::map<std::string, std::string> labels;
  MachineReport machine;
};

struct CheckInAnswer {
  std::chrono::milliseconds poll_after{};
  // 32 bytes when the controller wants a quote; empty otherwise.
  Bytes quote_nonce;
  // Nothing: stay as you are.
  std::optional<DesiredRelease> desired;
  // DSSE envelopes, unverified.
  std::vector<std::string> signed_orders;
  // Firmware tried other boot options on the way to this boot: one clean reboot is wanted.
  bool reboot_to_cure = false;
  // Request digests of outcomes that need not be told again.
  std::vector<Sha256Digest> known_outcomes;
};

// The machine as its firmware names it; each at most 64 bytes.
struct HardwareModel {
  std::string vendor;
  std::string product;
  std::string firmware_version;
  bool operator==(const HardwareModel&) const = default;
};

// The controller's opinion of a quote. `reasons` is empty when trusted.
struct AttestAnswer {
  enum class Outcome { kUnknown, kTrusted, kUntrusted };
  Outcome outcome = Outcome::kUnknown;
  std::vector<std::string> reasons;
};

// A longer wait is a controller's mistake: nodes do not fall silent for it.
inline constexpr std::chrono::milliseconds kMostPatience = std::chrono::minutes(10);

class ControllerClient {
 public:
  virtual ~ControllerClient() = default;
  virtual Result<CheckInAnswer> SendCheckIn(const CheckIn& check_in) = 0;
  // True when the controller has stored it.
  virtual Result<bool> SendReport(const UpdateReport& report, const std::optional<BootInventory>& running,
                                  const std::string& boot_id) = 0;
  // `epoch`: nothing where the machine has no counter; `hardware`: nothing where it cannot tell.
  virtual Result<AttestAnswer> Attest(const tpm::QuoteEvidence& quote, ByteView event_log,
                                      const std::optional<EpochEvidence>& epoch,
                                      const std::optional<HardwareModel>& hardware) = 0;
  // SHA-256 of the blob that is stored now.
  virtual Result<Sha256Digest> EscrowRecoveryKey(const escrow::EscrowedKey& key) = 0;
  // TUF metadata by file name. Errors also: NOT_FOUND.
  virtual Result<std::string> GetMetadata(std::string_view name) = 0;
  // Pieces of the object from `offset` to its end. An error of `sink` ends the call and comes back unchanged.
  virtual Status FetchContent(const Sha256Digest& digest, std::uint64_t offset,
                              const std::function<Status(ByteView)>& sink) = 0;
  // How much longer the controller asked this node to stay away, when it last turned a call away
  // (RESOURCE_EXHAUSTED); at most kMostPatience. Zero where it did not, or that time is over.
  virtual std::chrono::milliseconds Patience() const = 0;
};

}  // namespace sealift::agent
