#include "node-agent/link/grpc_controller.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <utility>

#include "sealift/v1/enrolment.grpc.pb.h"
#include "sealift/v1/node.grpc.pb.h"
#include "shared/base/foreign_text.h"
#include "shared/wire/channel.h"
#include "shared/wire/convert.h"
#include "shared/wire/grpc_status.h"
#include "shared/wire/retry_after.h"

namespace sealift::agent {
namespace {

// A poll interval outside of this is a controller's mistake: nodes neither hammer it nor fall silent.
constexpr std::chrono::milliseconds kMinPoll = std::chrono::milliseconds(100);
constexpr std::chrono::milliseconds kMaxPoll = std::chrono::hours(24);
constexpr std::size_t kNonceBytes = 32;
constexpr int kMaxOrders = 16;
constexpr std::size_t kMaxOrderBytes = 64u << 10;
// What the controller takes.
constexpr std::size_t kMaxReasonBytes = 64;
constexpr std::size_t kMaxMessageBytes = 512;

Status BadAnswer(std::string_view rpc, std::string_view why) {
  return MakeError(Code::kInternal, Reason::kMalformed,
                   fmt::format("read the controller's answer to {}: {}", rpc, why));
}

Status Call(std::string_view rpc, const grpc::Status& status) {
  if (status.ok()) return OkStatus();
  return Annotate(StatusFromGrpc(status), fmt::format("call {}", rpc));
}

// What the controller asked for; zero where it asked for nothing that can be read.
std::chrono::milliseconds RetryAfter(const grpc::ClientContext& context) {
  const auto& trailing = context.GetServerTrailingMetadata();
  const auto found = trailing.find(wire::kRetryAfter);
  if (found == trailing.end()) return {};
  std::int64_t asked = 0;
  const char* const end = found->second.data() + found->second.size();
  const auto [rest, error] = std::from_chars(found->second.data(), end, asked);
  if (error != std::errc() || rest != end || asked < 0) return {};
  return std::min(std::chrono::milliseconds(asked), kMostPatience);
}

void FillEpoch(const EpochEvidence& from, v1::EpochEvidence& to) {
  to.set_attest(ToText(from.counter.attest));
  to.set_signature(ToText(from.counter.signature));
  to.set_base(from.base);
}

void FillQuote(const tpm::QuoteEvidence& from, ByteView event_log, v1::Quote& to) {
  to.set_attest(ToText(from.attest));
  to.set_signature(ToText(from.signature));
  to.set_event_log(ToText(event_log));
  for (const auto& [pcr, value] : from.pcrs) (*to.mutable_pcrs())[pcr] = wire::ToWire(value);
}

void FillRunning(const BootInventory& from, const std::string& boot_id, v1::RunningImage& to) {
  to.set_version(from.running_version);
  to.set_image_digest(wire::ToWire(from.running_digest));
  to.set_role(std::string(BootRoleName(from.running_role)));
  to.set_boot_id(boot_id);
}

v1::UpdateState ToWire(UpdateState state) {
  // The numbers are the same by contract; tests/unit/node-agent/link pins each of them.
  return static_cast<v1::UpdateState>(state);
}

Result<EnrolmentState> FromWire(v1::CompleteResponse::State state) {
  switch (state) {
    case v1::CompleteResponse::ISSUED:
      return EnrolmentState::kIssued;
    case v1::CompleteResponse::PENDING:
      return EnrolmentState::kPending;
    case v1::CompleteResponse::REFUSED:
      return EnrolmentState::kRefused;
    default:
      return BadAnswer("Complete", "unknown state");
  }
}

class GrpcEnrolmentClient final : public EnrolmentClient {
 public:
  GrpcEnrolmentClient(const std::shared_ptr<grpc::Channel>& channel, LinkDeadlines deadlines)
      : stub_(v1::EnrolmentService::NewStub(channel)), deadlines_(deadlines) {}

  Result<EnrolmentChallenge> Begin(const EnrolmentOffer& offer) override {
    v1::BeginRequest request;
    for (const Bytes& certificate : offer.endorsement.certificates) {
      request.add_ek_certificate_chain(ToText(certificate));
    }
    request.set_ek_public(ToText(offer.endorsement.public_area));
    request.set_ak_public(ToText(offer.keys.attestation));
    request.set_tls_public(ToText(offer.keys.tls));
    request.set_join_token(ToText(offer.join_token.ExposeSecret()));
    v1::BeginResponse response;
    const auto context = wire::MakeContext(deadlines_.call);
    const grpc::Status status = stub_->Begin(context.get(), request, &response);
    WipeMemory(request.mutable_join_token()->data(), request.join_token().size());
    SEALIFT_RETURN_IF_ERROR(Call("Begin", status));
    if (response.nonce().size() != kNonceBytes) return BadAnswer("Begin", "the nonce is not 32 bytes");
    return EnrolmentChallenge{.session = response.session(),
                              .credential_blob = ToBytes(response.credential_blob()),
                              .encrypted_secret = ToBytes(response.encrypted_secret()),
                              .nonce = ToBytes(response.nonce())};
  }

  Result<EnrolmentOutcome> Complete(const EnrolmentProof& proof) override {
    v1::CompleteRequest request;
    request.set_session(proof.session);
    request.set_activated_secret(ToText(proof.activated_secret.ExposeSecret()));
    request.set_certify_attest(ToText(proof.tls_certification.attest));
    request.set_certify_signature(ToText(proof.tls_certification.signature));
    request.set_csr(ToText(proof.certificate_request));
    FillQuote(proof.quote, proof.event_log, *request.mutable_quote());
    if (proof.install) {
      v1::InstallRecord& to = *request.mutable_install();
      to.set_config_digest(wire::ToWire(proof.install->config_digest));
      to.set_config_source(proof.install->config_source);
      to.set_version(proof.install->version);
      to.set_installed_unix_ms(ToUnixMs(proof.install->installed));
    }
    if (proof.epoch) FillEpoch(*proof.epoch, *request.mutable_epoch());
    v1::CompleteResponse response;
    const auto context = wire::MakeContext(deadlines_.call);
    const grpc::Status status = stub_->Complete(context.get(), request, &response);
    WipeMemory(request.mutable_activated_secret()->data(), request.activated_secret().size());
    SEALIFT_RETURN_IF_ERROR(Call("Complete", status));
    EnrolmentOutcome outcome;
    SEALIFT_ASSIGN_OR_RETURN(outcome.state, FromWire(response.state()));
    for (const std::string& certificate : response.certificate_chain()) {
      outcome.certificate_chain.push_back(ToBytes(certificate));
    }
    outcome.node_id = response.node_id();
    outcome.reason = response.reason();
    outcome.message = response.message();
    return outcome;
  }

 private:
  std::unique_ptr<v1::EnrolmentService::Stub> stub_;
  LinkDeadlines deadlines_;
};

void FillMachine(const MachineReport& from, v1::CheckInRequest& to) {
  to.set_order_nonce(ToText(from.order_nonce));
  for (const OrderOutcome& outcome : from.order_outcomes) {
    v1::OrderOutcome& one = *to.add_order_outcomes();
    one.set_request_digest(wire::ToWire(outcome.request_digest));
    one.set_state(static_cast<v1::OrderOutcome::State>(outcome.state));
    one.set_reason(Shorten(outcome.reason, kMaxReasonBytes));
    one.set_message(Shorten(outcome.message, kMaxMessageBytes));
    one.set_at_unix_ms(ToUnixMs(outcome.at));
  }
  if (from.epoch) {
    v1::EpochStatus& epoch = *to.mutable_epoch();
    epoch.set_lowest(from.epoch->lowest);
    epoch.set_base(from.epoch->base);
    epoch.set_image(from.epoch->image);
    epoch.set_passive(from.epoch->passive);
    epoch.set_recovery(from.epoch->recovery);
  }
  for (const VolumeReport& volume : from.volumes) {
    v1::VolumeStatus& one = *to.add_volumes();
    one.set_name(Shorten(volume.name, kMaxReasonBytes));
    one.set_state(static_cast<v1::VolumeStatus::State>(volume.state));
    one.set_luks_uuid(volume.luks_uuid);
    one.set_reason(Shorten(volume.reason, kMaxReasonBytes));
    one.set_message(Shorten(volume.message, kMaxMessageBytes));
    one.set_without_pcr7(volume.without_pcr7);
  }
}

v1::CheckInRequest CheckInToWire(const CheckIn& check_in) {
  v1::CheckInRequest request;
  const EngineStatus& status = check_in.status;
  request.set_state(ToWire(status.state));
  // Known from the start, unlike the rest: the controller takes no check-in without it.
  request.mutable_running()->set_boot_id(check_in.boot_id);
  if (status.running) FillRunning(*status.running, check_in.boot_id, *request.mutable_running());
  request.set_staged_version(status.staged_version);
  for (const VersionFailure& failure : status.failures) {
    v1::VersionFailure& to = *request.add_failures();
    to.set_version(failure.version);
    to.set_reason(failure.reason);
    to.set_message(failure.message);
    to.set_at_unix_ms(ToUnixMs(failure.at));
  }
  if (!status.journal.ok()) {
    v1::NodeFinding& finding = *request.add_findings();
    finding.set_reason(ReasonIdOf(status.journal));
    finding.set_message(MessageOf(status.journal));
  }
  if (status.state == UpdateState::kFetching) {
    request.mutable_fetch()->set_fetched_bytes(std::min(status.fetched_bytes, status.fetch_size));
    request.mutable_fetch()->set_size_bytes(status.fetch_size);
  }
  request.set_agent_version(check_in.agent_version);
  request.mutable_labels()->insert(check_in.labels.begin(), check_in.labels.end());
  request.set_healthy(status.health.healthy);
  FillMachine(check_in.machine, request);
  return request;
}

Result<CheckInAnswer> CheckInFromWire(const v1::CheckInResponse& response) {
  CheckInAnswer answer;
  answer.poll_after = std::clamp(std::chrono::milliseconds(response.poll_after_ms()), kMinPoll, kMaxPoll);
  if (!response.quote_nonce().empty() && response.quote_nonce().size() != kNonceBytes) {
    return BadAnswer("CheckIn", "the nonce is not 32 bytes");
  }
  answer.quote_nonce = ToBytes(response.quote_nonce());
  if (response.has_desired()) {
    const v1::Desired& desired = response.desired();
    if (!IsValidVersion(desired.version())) return BadAnswer("CheckIn", "the desired version is none");
    DesiredRelease release{.channel = desired.channel(), .version = desired.version()};
    if (!desired.release_id().empty()) {
      SEALIFT_ASSIGN_OR_RETURN(release.release_id,
                               wire::DigestFromWire("desired.release_id", desired.release_id()));
    }
    answer.desired = std::move(release);
  }
  answer.reboot_to_cure = response.reboot_to_cure();
  if (response.signed_orders_size() > kMaxOrders) return BadAnswer("CheckIn", "too many orders");
  for (const std::string& order : response.signed_orders()) {
    if (order.size() > kMaxOrderBytes) return BadAnswer("CheckIn", "an order is too large");
    answer.signed_orders.push_back(order);
  }
  if (response.known_outcomes_size() > kMaxOrders) return BadAnswer("CheckIn", "too many outcomes");
  for (const std::string& digest : response.known_outcomes()) {
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest one, wire::DigestFromWire("known_outcomes", digest));
    answer.known_outcomes.push_back(one);
  }
  return answer;
}

class GrpcControllerClient final : public ControllerClient {
 public:
  GrpcControllerClient(const std::shared_ptr<grpc::Channel>& channel, LinkDeadlines deadlines)
      : stub_(v1::NodeService::NewStub(channel)), deadlines_(deadlines) {}

  Result<CheckInAnswer> SendCheckIn(const CheckIn& check_in) override {
    v1::CheckInResponse response;
    const auto context = wire::MakeContext(deadlines_.call);
    SEALIFT_RETURN_IF_ERROR(
        Done("CheckIn", *context, stub_->CheckIn(context.get(), CheckInToWire(check_in), &response)));
    return CheckInFromWire(response);
  }

  Result<bool> SendReport(const UpdateReport& report, const std::optional<BootInventory>& running,
                          const std::string& boot_id) override {
    v1::ReportRequest request;
    request.set_state(ToWire(report.state));
    request.set_version(report.version);
    request.set_reason(report.reason);
    request.set_message(report.message);
    request.set_healthy(report.healthy);
    if (running) FillRunning(*running, boot_id, *request.mutable_running());
    v1::ReportResponse response;
    const auto context = wire::MakeContext(deadlines_.call);
    SEALIFT_RETURN_IF_ERROR(Done("Report", *context, stub_->Report(context.get(), request, &response)));
    return response.accepted();
  }

  Result<AttestAnswer> Attest(const tpm::QuoteEvidence& quote, ByteView event_log,
                              const std::optional<EpochEvidence>& epoch,
                              const std::optional<HardwareModel>& hardware) override {
    v1::AttestRequest request;
    FillQuote(quote, event_log, *request.mutable_quote());
    if (epoch) FillEpoch(*epoch, *request.mutable_epoch());
    if (hardware) {
      v1::HardwareModel& to = *request.mutable_hardware();
      to.set_vendor(hardware->vendor);
      to.set_product(hardware->product);
      to.set_firmware_version(hardware->firmware_version);
    }
    v1::AttestResponse response;
    const auto context = wire::MakeContext(deadlines_.call);
    SEALIFT_RETURN_IF_ERROR(Done("Attest", *context, stub_->Attest(context.get(), request, &response)));
    AttestAnswer answer;
    if (response.outcome() == v1::Verdict::TRUSTED) answer.outcome = AttestAnswer::Outcome::kTrusted;
    if (response.outcome() == v1::Verdict::UNTRUSTED) answer.outcome = AttestAnswer::Outcome::kUntrusted;
    answer.reasons.assign(response.reasons().begin(), response.reasons().end());
    return answer;
  }

  Result<Sha256Digest> EscrowRecoveryKey(const escrow::EscrowedKey& key) override {
    v1::EscrowRecoveryKeyRequest request;
    request.set_blob(escrow::Format(key));
    request.set_volume(key.subject.volume);
    request.set_luks_uuid(key.subject.luks_uuid);
    request.set_slot(key.subject.slot);
    v1::EscrowRecoveryKeyResponse response;
    const auto context = wire::MakeContext(deadlines_.call);
    SEALIFT_RETURN_IF_ERROR(
        Done("EscrowRecoveryKey", *context, stub_->EscrowRecoveryKey(context.get(), request, &response)));
    return wire::DigestFromWire("blob_digest", response.blob_digest());
  }

  Result<std::string> GetMetadata(std::string_view name) override {
    v1::GetMetadataRequest request;
    request.set_name(std::string(name));
    v1::GetMetadataResponse response;
    const auto context = wire::MakeContext(deadlines_.call);
    SEALIFT_RETURN_IF_ERROR(Done(fmt::format("GetMetadata {}", name), *context,
                                 stub_->GetMetadata(context.get(), request, &response)));
    return std::move(*response.mutable_content());
  }

  Status FetchContent(const Sha256Digest& digest, std::uint64_t offset,
                      const std::function<Status(ByteView)>& sink) override {
    v1::FetchContentRequest request;
    request.set_digest(wire::ToWire(digest));
    request.set_offset(offset);
    const auto context = wire::MakeContext(deadlines_.content);
    const auto reader = stub_->FetchContent(context.get(), request);
    v1::FetchContentResponse piece;
    Status stopped;
    while (stopped.ok() && reader->Read(&piece)) stopped = sink(AsBytes(piece.data()));
    if (!stopped.ok()) context->TryCancel();
    const grpc::Status finished = reader->Finish();
    if (!stopped.ok()) return stopped;
    return Done(fmt::format("FetchContent {}", digest.hex().substr(0, 12)), *context, finished);
  }

  std::chrono::milliseconds Patience() const override {
    const auto until = std::chrono::steady_clock::time_point(std::chrono::steady_clock::duration(until_));
    const auto left = until - std::chrono::steady_clock::now();
    return std::max(std::chrono::ceil<std::chrono::milliseconds>(left), std::chrono::milliseconds(0));
  }

 private:
  Status Done(std::string_view rpc, const grpc::ClientContext& context, const grpc::Status& status) {
    if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
      const std::chrono::steady_clock::duration asked = RetryAfter(context);
      until_ = (std::chrono::steady_clock::now() + asked).time_since_epoch().count();
    }
    return Call(rpc, status);
  }

  std::unique_ptr<v1::NodeService::Stub> stub_;
  LinkDeadlines deadlines_;
  // When the controller wants to hear of this node again, on the steady clock.
  std::atomic<std::chrono::steady_clock::duration::rep> until_ = 0;
};

}  // namespace

std::unique_ptr<EnrolmentClient> MakeGrpcEnrolmentClient(const std::shared_ptr<grpc::Channel>& channel,
                                                         LinkDeadlines deadlines) {
  return std::make_unique<GrpcEnrolmentClient>(channel, deadlines);
}

std::unique_ptr<ControllerClient> MakeGrpcControllerClient(const std::shared_ptr<grpc::Channel>& channel,
                                                           LinkDeadlines deadlines) {
  return std::make_unique<GrpcControllerClient>(channel, deadlines);
}

}  // namespace sealift::agent
