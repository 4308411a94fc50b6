#include "node-agent/app/agent.h"

#include <unistd.h>

#include <algorithm>

#include "node-agent/volume/unlock.h"
#include "shared/base/files.h"
#include "shared/base/log.h"

namespace sealift::agent {
namespace {

using std::chrono::milliseconds;

// Of the loop with nothing to do: how soon it looks at the state partition and the like.
constexpr milliseconds kMostIdle = std::chrono::seconds(60);
// A controller that refuses our certificate at the TLS level only looks unreachable, so now and then the
// agent asks for a new one.
constexpr int kFailuresBeforeRenewal = 8;
// While an order is in hand.
constexpr milliseconds kOrderPoll = std::chrono::seconds(5);
constexpr milliseconds kEscrowAgain = std::chrono::seconds(30);

milliseconds Until(std::chrono::steady_clock::time_point when, std::chrono::steady_clock::time_point now) {
  return std::max(milliseconds(0), std::chrono::ceil<milliseconds>(when - now));
}

std::string_view OutcomeName(AttestAnswer::Outcome outcome) {
  switch (outcome) {
    case AttestAnswer::Outcome::kTrusted:
      return "trusted";
    case AttestAnswer::Outcome::kUntrusted:
      return "untrusted";
    case AttestAnswer::Outcome::kUnknown:
      break;
  }
  return "unknown";
}

}  // namespace

Agent::Agent(AgentOptions options, Parts parts)
    : options_(std::move(options)),
      parts_(std::move(parts)),
      enrol_backoff_(options_.enrol_first, options_.enrol_most, parts_.random),
      contact_backoff_(options_.contact_first, options_.contact_most, parts_.random) {
  status_.agent_version = options_.agent_version;
  status_.boot_id = options_.boot_id;
  status_.pid = static_cast<int>(::getpid());
}

void Agent::Run(const std::stop_token& stop) {
  parts_.engine.Resume();
  ResumeOrders();
  LoadIdentity();
  // That an agent runs is to be seen before it waits for anybody: sealift-boot-deadline asks.
  WriteStatus();
  while (!stop.stop_requested()) {
    const milliseconds wait = Turn();
    WriteStatus();
    if (wait > milliseconds(0)) parts_.clock.SleepFor(wait, stop);
  }
  log::Info("stopping");
}

milliseconds Agent::Turn() {
  EnrolIfDue();
  CheckInIfDue();
  SendReportIfDue();
  if (!orders_resumed_) ResumeOrders();
  parts_.orders.Step();
  EscrowIfDue();
  const StepOutcome step = parts_.engine.Tick();
  if (step.busy) return milliseconds(0);
  const TimePoint now = parts_.clock.Steady();
  milliseconds wait = std::min(step.wait, kMostIdle);
  // A report that just became due goes out now.
  if (identity_ && parts_.engine.DueReport()) wait = std::min(wait, Until(report_at_, now));
  if (identity_) wait = std::min(wait, Until(contact_at_, now));
  if (identity_ && !parts_.escrow.settled()) wait = std::min(wait, Until(escrow_at_, now));
  if (parts_.orders.busy()) wait = std::min(wait, kOrderPoll);
  if (CertificateDue()) wait = std::min(wait, Until(enrol_at_, now));
  return wait;
}

// ---- identity ----

void Agent::LoadIdentity() {
  if (!parts_.place.CheckMounted().ok()) return;
  identity_ = IdentityFile(options_.identity_file).Load(parts_.tls_signer->public_key(), parts_.clock.Now());
  if (!identity_) return;
  const Status used = parts_.link.Use(*identity_);
  Tell("use the stored certificate", used);
  if (!used.ok()) {
    identity_.reset();
    return;
  }
  status_.node_id = identity_->id.text();
  status_.enrolment = "enrolled";
  status_.certificate_not_after = identity_->not_after();
}

bool Agent::CertificateDue() const {
  return !identity_ || parts_.clock.Now() >= identity_->RenewAt() ||
         contact_failures_ >= kFailuresBeforeRenewal;
}

void Agent::EnrolIfDue() {
  if (!CertificateDue() || parts_.clock.Steady() < enrol_at_) return;
  enrol_at_ = parts_.clock.Steady() + enrol_backoff_.Next();
  const bool mounted = parts_.place.CheckMounted().ok();
  const Result<EnrolmentAnswer> answer =
      Enrol(parts_.tpm, parts_.tls_signer, parts_.enrolment, parts_.read_event_log,
            mounted ? ReadInstallRecord(options_.install_record) : std::nullopt,
            mounted ? JoinTokenFile(options_.join_token_file).Read() : SecretBytes(),
            [this](ByteView nonce) { return EpochProof(nonce); });
  Tell("enrol", answer.status());
  if (answer.ok()) TakeEnrolment(*answer);
}

void Agent::TakeEnrolment(const EnrolmentAnswer& answer) {
  if (!answer.identity) {
    const bool pending = answer.state == EnrolmentState::kPending;
    if (!identity_) status_.enrolment = pending ? "pending" : "refused";
    Tell("ask the controller in",
         FromWire(pending ? Code::kUnavailable : Code::kPermissionDenied, answer.reason, answer.message));
    return;
  }
  const Status used = parts_.link.Use(*answer.identity);
  Tell("ask the controller in", used);
  if (!used.ok()) return;
  identity_ = answer.identity;
  enrol_backoff_.Reset();
  contact_failures_ = 0;
  contact_at_ = {};
  status_.node_id = identity_->id.text();
  status_.enrolment = "enrolled";
  status_.certificate_not_after = identity_->not_after();
  log::Info("enrolled", {{"node", status_.node_id}});
  if (parts_.place.CheckMounted().ok()) {
    Tell("keep the certificate", IdentityFile(options_.identity_file).Save(*identity_));
    Tell("remove the join token", JoinTokenFile(options_.join_token_file).Remove());
  }
}

// ---- controller ----

void Agent::CheckInIfDue() {
  if (!identity_ || parts_.clock.Steady() < contact_at_) return;
  const Result<CheckInAnswer> answer = parts_.link.SendCheckIn({.status = parts_.engine.status(),
                                                                .boot_id = options_.boot_id,
                                                                .agent_version = options_.agent_version,
                                                                .labels = options_.labels,
                                                                .machine = Machine()});
  if (!answer.ok()) {
    ContactFailed(answer.status());
    return;
  }
  ContactSucceeded();
  contact_at_ = parts_.clock.Steady() + Spread(answer->poll_after, parts_.random);
  TakeAnswer(*answer);
}

void Agent::ContactFailed(const Status& status) {
  Tell("reach the controller", status);
  status_.controller_reachable = false;
  contact_at_ = parts_.clock.Steady() + WaitAfterFailure();
  // It was reached, and asks for patience: another certificate would not help.
  if (status.code() == Code::kResourceExhausted) return;
  ++contact_failures_;
  // The controller knows this certificate no more: ask for another, keeping the old one until then.
  if (status.code() == Code::kUnauthenticated || status.code() == Code::kPermissionDenied) {
    contact_failures_ = std::max(contact_failures_, kFailuresBeforeRenewal);
  }
}

milliseconds Agent::WaitAfterFailure() {
  return Patiently(contact_backoff_.Next(), parts_.link.Patience(), parts_.random);
}

void Agent::ContactSucceeded() {
  Tell("reach the controller", OkStatus());
  contact_backoff_.Reset();
  contact_failures_ = 0;
  status_.controller_reachable = true;
  status_.last_contact = parts_.clock.Now();
}

void Agent::TakeAnswer(const CheckInAnswer& answer) {
  parts_.orders.OnKnown(answer.known_outcomes);
  const std::size_t outcomes = parts_.orders.outcomes().size();
  parts_.orders.TakeOrders(answer.signed_orders);
  // What became of them is told at once.
  if (parts_.orders.outcomes().size() > outcomes) contact_at_ = parts_.clock.Steady();
  if (answer.desired) {
    parts_.engine.OnDesired(*answer.desired);
  } else {
    parts_.engine.OnNothingDesired();
  }
  if (!answer.quote_nonce.empty()) SendAttestation(answer.quote_nonce);
  // What was asked before that verdict knows nothing of it.
  const bool trusted = answer.quote_nonce.empty() && status_.attestation == "trusted";
  // An update that is about to begin brings a reboot of its own.
  const std::optional<BootInventory> running = parts_.engine.status().running;
  const bool stays = !answer.desired || (running && running->running_version == answer.desired->version);
  Tell("cure the boot by a reboot", parts_.cure.OnAnswer(answer.reboot_to_cure, trusted, stays && Quiet()));
}

bool Agent::Quiet() const {
  const UpdateState state = parts_.engine.status().state;
  return !parts_.orders.busy() && (state == UpdateState::kIdle || state == UpdateState::kBlessed);
}

void Agent::SendAttestation(ByteView nonce) {
  const auto attest = [&]() -> Result<AttestAnswer> {
    SEALIFT_ASSIGN_OR_RETURN(const tpm::QuoteEvidence quote, parts_.tpm.Quote(nonce, kQuotedPcrs));
    SEALIFT_ASSIGN_OR_RETURN(const Bytes event_log, parts_.read_event_log());
    return parts_.link.Attest(quote, event_log, EpochProof(nonce), options_.hardware);
  };
  const Result<AttestAnswer> answer = attest();
  Tell("attest", answer.status());
  if (!answer.ok()) return;
  status_.attestation = OutcomeName(answer->outcome);
  std::string reasons;
  for (const std::string& reason : answer->reasons) reasons += (reasons.empty() ? "" : ",") + reason;
  log::Info("the controller judged this boot", {{"state", status_.attestation}, {"reason", reasons}});
}

void Agent::SendReportIfDue() {
  const std::optional<UpdateReport> report = parts_.engine.DueReport();
  if (!identity_ || !report || parts_.clock.Steady() < report_at_) return;
  const Result<bool> accepted =
      parts_.link.SendReport(*report, parts_.engine.status().running, options_.boot_id);
  Tell("report", accepted.status());
  if (accepted.ok() && *accepted) {
    parts_.engine.OnReportAccepted(*report);
    report_at_ = {};
    return;
  }
  report_at_ = parts_.clock.Steady() + WaitAfterFailure();
}

// ---- orders, epoch, recovery keys ----

void Agent::ResumeOrders() {
  orders_resumed_ = parts_.place.CheckMounted().ok();
  parts_.orders.Resume();
}

MachineReport Agent::Machine() {
  MachineReport report{.order_nonce = parts_.orders.Nonce(),
                       .order_outcomes = parts_.orders.outcomes(),
                       .epoch = std::nullopt,
                       .volumes = ReadVolumeReports(options_.runtime)};
  if (!options_.volumes_encrypted)
    report.volumes.push_back({.name = "persistent", .state = VolumeState::kPlain});
  const auto state = ReadEpochState(options_.runtime);
  if (!state.ok()) return report;
  report.epoch = EpochReport{.lowest = state->epoch, .base = state->base, .image = state->image};
  if (const auto counter = parts_.counters.ReadCounter(kEpochCounter);
      counter.ok() && *counter >= state->base)
    report.epoch->lowest = *counter - state->base;
  status_.epoch = report.epoch->lowest;
  const auto running = parts_.engine.status().running;
  if (!running) return report;
  Tell("keep the image's epoch", parts_.epochs.Note(*running, state->image));
  report.epoch->passive = parts_.epochs.EpochOf(*running, BootRole::kPassive);
  report.epoch->recovery = parts_.epochs.EpochOf(*running, BootRole::kRecovery);
  return report;
}

// A machine without encrypted volumes has no counter to speak of.
std::optional<EpochEvidence> Agent::EpochProof(ByteView nonce) {
  const auto state = ReadEpochState(options_.runtime);
  if (!state.ok()) return std::nullopt;
  auto counter = parts_.counters.CertifyCounter(kEpochCounter, nonce);
  Tell("certify the epoch", counter.status());
  if (!counter.ok()) return std::nullopt;
  return EpochEvidence{.counter = *std::move(counter), .base = state->base};
}

void Agent::EscrowIfDue() {
  if (!identity_ || parts_.escrow.settled() || parts_.clock.Steady() < escrow_at_) return;
  escrow_at_ = parts_.clock.Steady() + Spread(kEscrowAgain, parts_.random);
  Tell("bring recovery keys into escrow", parts_.escrow.Step([this](const escrow::EscrowedKey& key) {
    return parts_.link.EscrowRecoveryKey(key);
  }));
}

// ---- telling ----

void Agent::Tell(std::string_view what, const Status& status) {
  std::string& last = told_[std::string(what)];
  const std::string now = status.ok() ? std::string() : Describe(status);
  if (now == last) return;
  if (status.ok()) {
    log::Info("works again", {{"state", std::string(what)}});
  } else {
    log::Warning("trying again later", {{"state", std::string(what)}, {"error", now}});
  }
  last = now;
}

void Agent::WriteStatus() {
  status_.engine = parts_.engine.status();
  status_.order_outcomes = parts_.orders.outcomes();
  status_.order_in_hand = parts_.orders.busy();
  status_.problem = status_.engine.problem.ok() ? std::string() : Describe(status_.engine.problem);
  for (const auto& [what, problem] : told_) {
    if (status_.problem.empty()) status_.problem = problem;
  }
  const std::string text = StatusJson(status_);
  if (text == written_status_) return;
  const Status written = WriteFileAtomically(options_.runtime / kStatusFileName, AsBytes(text));
  if (written.ok()) written_status_ = text;
  Tell("write the status file", written);
}

}  // namespace sealift::agent
