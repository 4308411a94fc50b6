// The agent's standing connection to its controller: the current certificate, the channel made with it, and
// the sources that the update machine reads through it.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "node-agent/link/controller_client.h"
#include "node-agent/link/enrolment.h"
#include "node-agent/link/grpc_controller.h"
#include "node-agent/mirror/site_hints.h"
#include "shared/content/download.h"
#include "shared/tuf/client.h"

namespace sealift::agent {

struct ControllerAddress {
  // "host:port" of NodeService and of EnrolmentService.
  std::string node;
  std::string enrolment;
  // PEM of the CA that issued the controller's TLS certificates.
  std::string ca_pem;
  // Name expected in them; empty: the host of each address.
  std::string server_name;
};

// Server-authenticated. Errors: those of wire::OpenChannel.
Result<std::unique_ptr<EnrolmentClient>> OpenEnrolmentClient(const ControllerAddress& address,
                                                             LinkDeadlines deadlines = {});

// A ControllerClient whose certificate changes now and then. Thread-safe: a call goes on with the channel it
// began with. Until the first Use every call fails with UNAVAILABLE/NOT_ENROLLED.
// The private half stays in the TPM: RegisterTpmKeyResolver and InstallKeyProvider come first.
class ControllerLink final : public ControllerClient {
 public:
  explicit ControllerLink(ControllerAddress address, LinkDeadlines deadlines = {})
      : address_(std::move(address)), deadlines_(deadlines) {}

  // Connects anew, with this certificate. Errors: those of wire::OpenChannel.
  Status Use(const NodeIdentity& identity);
  void Forget();
  // For other services at the same address. Errors: UNAVAILABLE/NOT_ENROLLED.
  Result<std::shared_ptr<grpc::Channel>> Channel() const;
  // The certificate in use, and the reference to its key; empty until the first Use.
  NodeTls Tls() const;

  Result<CheckInAnswer> SendCheckIn(const CheckIn& check_in) override;
  Result<bool> SendReport(const UpdateReport& report, const std::optional<BootInventory>& running,
                          const std::string& boot_id) override;
  Result<AttestAnswer> Attest(const tpm::QuoteEvidence& quote, ByteView event_log,
                              const std::optional<EpochEvidence>& epoch,
                              const std::optional<HardwareModel>& hardware) override;
  Result<Sha256Digest> EscrowRecoveryKey(const escrow::EscrowedKey& key) override;
  Result<std::string> GetMetadata(std::string_view name) override;
  Status FetchContent(const Sha256Digest& digest, std::uint64_t offset,
                      const std::function<Status(ByteView)>& sink) override;
  std::chrono::milliseconds Patience() const override;

 private:
  Result<std::shared_ptr<ControllerClient>> Current() const;

  ControllerAddress address_;
  LinkDeadlines deadlines_;
  mutable std::mutex mutex_;
  std::shared_ptr<ControllerClient> current_;
  std::shared_ptr<grpc::Channel> channel_;
  NodeTls tls_;
};

// TUF metadata over a ControllerClient, which outlives it.
class LinkMetadataSource final : public tuf::MetadataSource {
 public:
  explicit LinkMetadataSource(ControllerClient& client) : client_(client) {}
  Result<std::string> Fetch(std::string_view name, std::size_t max_bytes) override;

 private:
  ControllerClient& client_;
};

// Content over a ControllerClient, which outlives it.
class LinkContentSource final : public content::ContentSource {
 public:
  explicit LinkContentSource(ControllerClient& client) : client_(client) {}
  Status Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) override;

 private:
  ControllerClient& client_;
};

}  // namespace sealift::agent
