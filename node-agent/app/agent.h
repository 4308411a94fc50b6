// The agent's loop: enrol, check in, attest, drive the update machine, report. One thread, no locks.
//
// Borrows its parts; they outlive it.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "node-agent/app/boot_cure.h"
#include "node-agent/app/status_file.h"
#include "node-agent/link/backoff.h"
#include "node-agent/link/controller_link.h"
#include "node-agent/link/enrolment.h"
#include "node-agent/order/epoch_book.h"
#include "node-agent/order/escrow_keeper.h"
#include "node-agent/order/order_keeper.h"
#include "node-agent/tpm/tpm.h"
#include "node-agent/update/update_engine.h"

namespace sealift::agent {

struct AgentOptions {
  std::string agent_version;
  std::string boot_id;
  std::map<std::string, std::string> labels;
  // Where status.json goes.
  std::filesystem::path runtime;
  // Where the certificate is kept while the state partition is mounted.
  std::filesystem::path identity_file;
  // A join token that somebody left there.
  std::filesystem::path join_token_file;
  // What the installer left; may be missing.
  std::filesystem::path install_record;
  // What the machine is, for the baselines of its firmware.
  std::optional<HardwareModel> hardware;
  // For what is told of volumes.
  bool volumes_encrypted = true;
  // Waits after a failed or pending enrolment, and after a failed check-in.
  std::chrono::milliseconds enrol_first = std::chrono::seconds(2);
  std::chrono::milliseconds enrol_most = std::chrono::seconds(60);
  std::chrono::milliseconds contact_first = std::chrono::seconds(1);
  std::chrono::milliseconds contact_most = std::chrono::seconds(60);
};

class Agent {
 public:
  struct Parts {
    Tpm& tpm;
    std::shared_ptr<Signer> tls_signer;
    EnrolmentClient& enrolment;
    ControllerLink& link;
    UpdateEngine& engine;
    StatePlace& place;
    TpmCounters& counters;
    OrderKeeper& orders;
    EscrowKeeper& escrow;
    EpochBook& epochs;
    BootCure& cure;
    EventLogReader read_event_log;
    AgentClock& clock;
    RandomFraction random;
  };

  Agent(AgentOptions options, Parts parts);

  // Until `stop`. What goes wrong is logged when it changes, shown in the status, and tried again.
  void Run(const std::stop_token& stop);

 private:
  using TimePoint = std::chrono::steady_clock::time_point;

  // One turn of the loop; returns how long nothing is to do.
  std::chrono::milliseconds Turn();
  void LoadIdentity();
  void EnrolIfDue();
  void TakeEnrolment(const EnrolmentAnswer& answer);
  bool CertificateDue() const;
  void CheckInIfDue();
  void TakeAnswer(const CheckInAnswer& answer);
  void SendAttestation(ByteView nonce);
  // No update under way or on trial, and no order in hand.
  bool Quiet() const;
  void SendReportIfDue();
  MachineReport Machine();
  std::optional<EpochEvidence> EpochProof(ByteView nonce);
  void EscrowIfDue();
  void ResumeOrders();
  void ContactFailed(const Status& status);
  // The controller may have asked for more patience than the agent has by itself.
  std::chrono::milliseconds WaitAfterFailure();
  void ContactSucceeded();
  void Tell(std::string_view what, const Status& status);
  void WriteStatus();

  AgentOptions options_;
  Parts parts_;
  std::optional<NodeIdentity> identity_;
  AgentStatus status_;
  std::string written_status_;
  std::map<std::string, std::string, std::less<>> told_;

  Backoff enrol_backoff_;
  Backoff contact_backoff_;
  TimePoint enrol_at_{};
  TimePoint contact_at_{};
  TimePoint report_at_{};
  TimePoint escrow_at_{};
  bool orders_resumed_ = false;
  int contact_failures_ = 0;
};

}  // namespace sealift::agent
