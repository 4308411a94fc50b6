#include "node-agent/link/controller_link.h"

#include <fmt/format.h>

#include "shared/crypto/key_reference.h"
#include "shared/wire/channel.h"

namespace sealift::agent {

Result<std::unique_ptr<EnrolmentClient>> OpenEnrolmentClient(const ControllerAddress& address,
                                                             LinkDeadlines deadlines) {
  SEALIFT_ASSIGN_OR_RETURN(auto channel, wire::OpenChannel({.address = address.enrolment,
                                                            .ca_pem = address.ca_pem,
                                                            .server_name = address.server_name}));
  return MakeGrpcEnrolmentClient(std::move(channel), deadlines);
}

Status ControllerLink::Use(const NodeIdentity& identity) {
  wire::ChannelOptions options{
      .address = address_.node, .ca_pem = address_.ca_pem, .server_name = address_.server_name};
  options.identity.certificate_chain = identity.ChainPem();
  options.identity.key = KeyReferencePem(kTlsKeyUri);
  SEALIFT_ASSIGN_OR_RETURN(auto channel, wire::OpenChannel(options));
  std::shared_ptr<ControllerClient> client = MakeGrpcControllerClient(channel, deadlines_);
  const std::lock_guard lock(mutex_);
  current_ = std::move(client);
  channel_ = std::move(channel);
  tls_ = {.chain = options.identity.certificate_chain, .key = options.identity.key};
  return OkStatus();
}

void ControllerLink::Forget() {
  const std::lock_guard lock(mutex_);
  current_ = nullptr;
  channel_ = nullptr;
  tls_ = {};
}

Result<std::shared_ptr<grpc::Channel>> ControllerLink::Channel() const {
  const std::lock_guard lock(mutex_);
  if (channel_ != nullptr) return channel_;
  return MakeError(Code::kUnavailable, Reason::kNotEnrolled,
                   "call the controller: this node has no certificate yet");
}

NodeTls ControllerLink::Tls() const {
  const std::lock_guard lock(mutex_);
  return tls_;
}

Result<std::shared_ptr<ControllerClient>> ControllerLink::Current() const {
  const std::lock_guard lock(mutex_);
  if (current_ != nullptr) return current_;
  return MakeError(Code::kUnavailable, Reason::kNotEnrolled,
                   "call the controller: this node has no certificate yet");
}

Result<CheckInAnswer> ControllerLink::SendCheckIn(const CheckIn& check_in) {
  SEALIFT_ASSIGN_OR_RETURN(const auto client, Current());
  return client->SendCheckIn(check_in);
}

Result<bool> ControllerLink::SendReport(const UpdateReport& report,
                                        const std::optional<BootInventory>& running,
                                        const std::string& boot_id) {
  SEALIFT_ASSIGN_OR_RETURN(const auto client, Current());
  return client->SendReport(report, running, boot_id);
}

Result<AttestAnswer> ControllerLink::Attest(const tpm::QuoteEvidence& quote, ByteView event_log,
                                            const std::optional<EpochEvidence>& epoch,
                                            const std::optional<HardwareModel>& hardware) {
  SEALIFT_ASSIGN_OR_RETURN(const auto client, Current());
  return client->Attest(quote, event_log, epoch, hardware);
}

Result<Sha256Digest> ControllerLink::EscrowRecoveryKey(const escrow::EscrowedKey& key) {
  SEALIFT_ASSIGN_OR_RETURN(const auto client, Current());
  return client->EscrowRecoveryKey(key);
}

Result<std::string> ControllerLink::GetMetadata(std::string_view name) {
  SEALIFT_ASSIGN_OR_RETURN(const auto client, Current());
  return client->GetMetadata(name);
}

Status ControllerLink::FetchContent(const Sha256Digest& digest, std::uint64_t offset,
                                    const std::function<Status(ByteView)>& sink) {
  SEALIFT_ASSIGN_OR_RETURN(const auto client, Current());
  return client->FetchContent(digest, offset, sink);
}

std::chrono::milliseconds ControllerLink::Patience() const {
  const auto client = Current();
  return client.ok() ? (*client)->Patience() : std::chrono::milliseconds(0);
}

Result<std::string> LinkMetadataSource::Fetch(std::string_view name, std::size_t max_bytes) {
  SEALIFT_ASSIGN_OR_RETURN(std::string content, client_.GetMetadata(name));
  if (content.size() <= max_bytes) return content;
  return MakeError(Code::kInvalidArgument, Reason::kTufTooLarge,
                   fmt::format("fetch {}: more than {} bytes", name, max_bytes));
}

Status LinkContentSource::Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) {
  return client_.FetchContent(digest, offset, sink);
}

}  // namespace sealift::agent
