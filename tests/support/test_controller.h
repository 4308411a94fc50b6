// The controller's two listeners in this process, over real loopback TLS, with answers that a test sets.
//
// It checks what a controller checks about keys (credential activation, certification, quote) with the
// project's own verifiers, so that an agent that passes here speaks the protocol. It decides nothing else.
#pragma once

#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "node-agent/link/controller_link.h"
#include "node-agent/tpm/counters.h"
#include "sealift/v1/enrolment.grpc.pb.h"
#include "sealift/v1/node.grpc.pb.h"
#include "shared/base/ids.h"
#include "shared/crypto/certificate.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/key_reference.h"
#include "shared/tpm/certify.h"
#include "shared/tpm/counter.h"
#include "shared/tpm/credential.h"
#include "shared/tpm/key_policy.h"
#include "shared/tpm/quote.h"
#include "shared/wire/convert.h"
#include "shared/wire/grpc_status.h"
#include "shared/wire/tls.h"
#include "tests/support/test_pki.h"

namespace sealift::test {

class TestController {
 public:
  // `port`s of 0 are chosen by the system.
  // `also`: other services for nodes, borrowed. `like`: whose node CA this one has.
  explicit TestController(int node_port = 0, int enrolment_port = 0, grpc::Service* also = nullptr,
                          const TestController* like = nullptr)
      : ca_(MakeCa("controller ca")),
        node_ca_key_(like != nullptr ? like->node_ca_key_
                                     : SoftwareSigner::Generate(KeyType::kEcP256).value()),
        node_ca_(like != nullptr ? like->node_ca_ : MakeNodeCa(node_ca_key_)),
        server_certificate_(Issue({.common_name = "controller",
                                   .subject_alt_name = "DNS:localhost,IP:127.0.0.1",
                                   .extended_key_usage = "serverAuth"},
                                  &ca_)),
        enrolment_(*this),
        node_(*this) {
    wire::InitialiseGrpc();
    Listen(node_server_, node_port, node_port_, wire::ClientCertificates::kRequired, &node_, also);
    Listen(enrolment_server_, enrolment_port, enrolment_port_, wire::ClientCertificates::kNone, &enrolment_);
  }
  ~TestController() { Stop(); }

  agent::ControllerAddress Address() const {
    return {.node = "localhost:" + std::to_string(node_port_),
            .enrolment = "localhost:" + std::to_string(enrolment_port_),
            .ca_pem = ca_.Pem()};
  }
  const TestCertificate& ca() const { return ca_; }
  std::string NodeCaPem() const { return node_ca_.Pem(); }
  void Stop() {
    for (auto* server : {&node_server_, &enrolment_server_}) {
      if (*server != nullptr) (*server)->Shutdown(std::chrono::system_clock::now());
      server->reset();
    }
  }

  // ---- what it answers; change under Lock() ----
  struct Answers {
    v1::CompleteResponse::State enrolment = v1::CompleteResponse::ISSUED;
    std::string enrolment_reason;
    // Of an issued certificate.
    std::chrono::milliseconds certificate_life = std::chrono::hours(1);
    v1::CheckInResponse check_in;
    bool want_quote = false;
    bool accept_reports = true;
    std::map<std::string, std::string> metadata;
    std::map<Sha256Digest, Bytes> content;
    // A content stream breaks after so many bytes.
    std::optional<std::size_t> break_after;
    // Every NodeService call waits until its deadline.
    bool silent = false;
    Status refuse;
    // The enrolment listener answers that it is away, too.
    bool enrolment_away = false;
  };
  // ---- what it saw ----
  struct Seen {
    int begins = 0;
    int completes = 0;
    // Of the last Begin.
    std::string join_token;
    std::vector<v1::CheckInRequest> check_ins;
    std::vector<v1::ReportRequest> reports;
    int trusted_quotes = 0;
    std::vector<v1::EscrowRecoveryKeyRequest> escrowed;
    std::optional<v1::InstallRecord> install;
    // Of the last quote that came with one.
    std::optional<v1::EpochEvidence> epoch;
    std::optional<std::uint64_t> epoch_counter;
    std::optional<v1::HardwareModel> hardware;
    std::vector<std::uint64_t> offsets;
    // Of each object, over all streams.
    std::map<Sha256Digest, std::uint64_t> sent;
    std::string peer_uri;
    std::string event_log;
  };
  std::unique_lock<std::mutex> Lock() { return std::unique_lock(mutex_); }
  Answers answers;
  Seen seen;

 private:
  class Enrolment final : public v1::EnrolmentService::Service {
   public:
    explicit Enrolment(TestController& owner) : owner_(owner) {}
    grpc::Status Begin(grpc::ServerContext*, const v1::BeginRequest* request,
                       v1::BeginResponse* response) override {
      const auto lock = owner_.Lock();
      return ToGrpcStatus(owner_.Begin(*request, *response));
    }
    grpc::Status Complete(grpc::ServerContext*, const v1::CompleteRequest* request,
                          v1::CompleteResponse* response) override {
      const auto lock = owner_.Lock();
      return ToGrpcStatus(owner_.Complete(*request, *response));
    }

   private:
    TestController& owner_;
  };

  class Node final : public v1::NodeService::Service {
   public:
    explicit Node(TestController& owner) : owner_(owner) {}
    grpc::Status CheckIn(grpc::ServerContext* context, const v1::CheckInRequest* request,
                         v1::CheckInResponse* response) override {
      if (const auto refused = Gate(context)) return *refused;
      const auto lock = owner_.Lock();
      const auto names = context->auth_context()->GetPeerIdentity();
      owner_.seen.peer_uri = names.empty() ? "" : std::string(names.front().data(), names.front().size());
      owner_.seen.check_ins.push_back(*request);
      *response = owner_.answers.check_in;
      if (owner_.answers.want_quote) {
        owner_.quote_nonce_ = RandomBytes(32);
        response->set_quote_nonce(ToText(owner_.quote_nonce_));
      }
      return grpc::Status::OK;
    }
    grpc::Status Report(grpc::ServerContext* context, const v1::ReportRequest* request,
                        v1::ReportResponse* response) override {
      if (const auto refused = Gate(context)) return *refused;
      const auto lock = owner_.Lock();
      owner_.seen.reports.push_back(*request);
      response->set_accepted(owner_.answers.accept_reports);
      return grpc::Status::OK;
    }
    grpc::Status Attest(grpc::ServerContext* context, const v1::AttestRequest* request,
                        v1::AttestResponse* response) override {
      if (const auto refused = Gate(context)) return *refused;
      const auto lock = owner_.Lock();
      const Status verified = owner_.CheckQuote(request->quote(), owner_.quote_nonce_);
      if (!verified.ok()) return ToGrpcStatus(verified);
      ++owner_.seen.trusted_quotes;
      if (request->has_hardware()) owner_.seen.hardware = request->hardware();
      if (request->has_epoch()) {
        owner_.seen.epoch = request->epoch();
        const auto counter =
            tpm::VerifyCounter(AsBytes(request->epoch().attest()), AsBytes(request->epoch().signature()),
                               *owner_.attestation_key_, owner_.quote_nonce_, agent::kEpochCounter);
        if (!counter.ok()) return ToGrpcStatus(counter.status());
        owner_.seen.epoch_counter = *counter;
      }
      response->set_outcome(v1::Verdict::TRUSTED);
      return grpc::Status::OK;
    }
    grpc::Status EscrowRecoveryKey(grpc::ServerContext* context, const v1::EscrowRecoveryKeyRequest* request,
                                   v1::EscrowRecoveryKeyResponse* response) override {
      if (const auto refused = Gate(context)) return *refused;
      const auto lock = owner_.Lock();
      owner_.seen.escrowed.push_back(*request);
      response->set_blob_digest(wire::ToWire(Sha256(AsBytes(request->blob()))));
      return grpc::Status::OK;
    }
    grpc::Status GetMetadata(grpc::ServerContext* context, const v1::GetMetadataRequest* request,
                             v1::GetMetadataResponse* response) override {
      if (const auto refused = Gate(context)) return *refused;
      const auto lock = owner_.Lock();
      const auto found = owner_.answers.metadata.find(request->name());
      if (found == owner_.answers.metadata.end()) return {grpc::StatusCode::NOT_FOUND, "no such metadata"};
      response->set_content(found->second);
      return grpc::Status::OK;
    }
    grpc::Status FetchContent(grpc::ServerContext* context, const v1::FetchContentRequest* request,
                              grpc::ServerWriter<v1::FetchContentResponse>* writer) override {
      if (const auto refused = Gate(context)) return *refused;
      const auto lock = owner_.Lock();
      const auto digest = Sha256Digest::FromBytes(AsBytes(request->digest()));
      const auto found = digest.ok() ? owner_.answers.content.find(*digest) : owner_.answers.content.end();
      if (found == owner_.answers.content.end()) return {grpc::StatusCode::NOT_FOUND, "no such object"};
      owner_.seen.offsets.push_back(request->offset());
      std::size_t sent = 0;
      for (std::size_t at = request->offset(); at < found->second.size(); at += 1024) {
        if (owner_.answers.break_after && sent >= *owner_.answers.break_after) {
          return {grpc::StatusCode::UNAVAILABLE, "the line broke"};
        }
        v1::FetchContentResponse piece;
        const ByteView bytes =
            ByteView(found->second).subspan(at, std::min<std::size_t>(1024, found->second.size() - at));
        piece.set_data(ToText(bytes));
        if (sent == 0) piece.set_total_size(found->second.size());
        if (!writer->Write(piece)) return grpc::Status::CANCELLED;
        sent += bytes.size();
        owner_.seen.sent[*digest] += bytes.size();
      }
      return grpc::Status::OK;
    }

   private:
    // Refuses, or falls silent until the caller gives up.
    std::optional<grpc::Status> Gate(grpc::ServerContext* context) {
      auto lock = owner_.Lock();
      if (!owner_.answers.refuse.ok()) return ToGrpcStatus(owner_.answers.refuse);
      const bool silent = owner_.answers.silent;
      lock.unlock();
      if (!silent) return std::nullopt;
      while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return grpc::Status::CANCELLED;
    }
    TestController& owner_;
  };

  void Listen(std::unique_ptr<grpc::Server>& server, int wanted, int& port, wire::ClientCertificates clients,
              grpc::Service* service, grpc::Service* also = nullptr) {
    auto credentials = wire::MakeServerCredentials({server_certificate_.Pem(), server_certificate_.KeyPem()},
                                                   clients, node_ca_.Pem());
    ASSERT_TRUE(credentials.ok()) << Describe(credentials.status());
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:" + std::to_string(wanted), *credentials, &port);
    builder.RegisterService(service);
    if (also != nullptr) builder.RegisterService(also);
    server = builder.BuildAndStart();
    ASSERT_NE(server, nullptr);
  }

  static Certificate MakeNodeCa(const std::shared_ptr<Signer>& key) {
    SEALIFT_CHECK(InstallKeyProvider().ok());
    const UnixMillis now = SystemClock().Now();
    return IssueSelfSigned({.common_name = "node ca",
                            .ca = true,
                            .not_before = now - std::chrono::hours(1),
                            .not_after = now + std::chrono::hours(24)},
                           key, "test node ca")
        .value();
  }

  Status Begin(const v1::BeginRequest& request, v1::BeginResponse& response) {
    if (answers.enrolment_away) {
      return MakeError(Code::kUnavailable, Reason::kPeerUnreachable, "begin enrolment: away");
    }
    ++seen.begins;
    seen.join_token = request.join_token();
    SEALIFT_ASSIGN_OR_RETURN(const auto ek, tpm::ParsePublic(AsBytes(request.ek_public())));
    SEALIFT_ASSIGN_OR_RETURN(attestation_key_, tpm::ParsePublic(AsBytes(request.ak_public())));
    SEALIFT_ASSIGN_OR_RETURN(tls_key_, tpm::ParsePublic(AsBytes(request.tls_public())));
    SEALIFT_RETURN_IF_ERROR(tpm::CheckAttestationKey(*attestation_key_));
    SEALIFT_RETURN_IF_ERROR(tpm::CheckTlsKey(*tls_key_));
    secret_ = RandomBytes(32);
    SEALIFT_ASSIGN_OR_RETURN(const tpm::Credential credential,
                             tpm::MakeCredential(ek, attestation_key_->name, SecretBytes(ByteView(secret_))));
    nonce_ = RandomBytes(32);
    response.set_session("session " + std::to_string(seen.begins));
    response.set_credential_blob(ToText(credential.blob));
    response.set_encrypted_secret(ToText(credential.encrypted_secret));
    response.set_nonce(ToText(nonce_));
    return OkStatus();
  }

  Status CheckQuote(const v1::Quote& quote, ByteView nonce) {
    tpm::QuoteEvidence evidence{.attest = ToBytes(quote.attest()), .signature = ToBytes(quote.signature())};
    for (const auto& [pcr, value] : quote.pcrs()) {
      SEALIFT_ASSIGN_OR_RETURN(evidence.pcrs[pcr], wire::DigestFromWire("pcrs", value));
    }
    seen.event_log = quote.event_log();
    return tpm::VerifyQuote(evidence, *attestation_key_, nonce, agent::kQuotedPcrs).status();
  }

  Status Complete(const v1::CompleteRequest& request, v1::CompleteResponse& response) {
    ++seen.completes;
    if (request.has_install()) seen.install = request.install();
    if (request.session() != "session " + std::to_string(seen.begins) ||
        AsBytes(request.activated_secret()).size() != 32 || ToBytes(request.activated_secret()) != secret_) {
      return MakeError(Code::kPermissionDenied, Reason::kInvalidArgument,
                       "activate the credential: wrong secret");
    }
    SEALIFT_RETURN_IF_ERROR(tpm::VerifyCertify(AsBytes(request.certify_attest()),
                                               AsBytes(request.certify_signature()), *attestation_key_,
                                               nonce_, *tls_key_)
                                .status());
    SEALIFT_RETURN_IF_ERROR(CheckQuote(request.quote(), nonce_));
    SEALIFT_ASSIGN_OR_RETURN(const auto csr, sealift::CertificateRequest::FromDer(AsBytes(request.csr())));
    if (!(csr.public_key() == tls_key_->key)) {
      return MakeError(Code::kPermissionDenied, Reason::kKeyMismatch,
                       "read the request: it is of another key");
    }
    response.set_state(answers.enrolment);
    response.set_reason(answers.enrolment_reason);
    if (answers.enrolment != v1::CompleteResponse::ISSUED) return OkStatus();
    SystemClock clock;
    SEALIFT_ASSIGN_OR_RETURN(const NodeId id, NodeId::Parse(MakeUuidV7(clock.Now(), RandomBytes(10))));
    SEALIFT_ASSIGN_OR_RETURN(const Certificate certificate,
                             IssueCertificate({.common_name = "node",
                                               .uris = {id.SubjectUri()},
                                               .client_auth = true,
                                               .not_before = clock.Now() - std::chrono::seconds(60),
                                               .not_after = clock.Now() + answers.certificate_life},
                                              tls_key_->key, node_ca_key_, node_ca_, "test node"));
    response.add_certificate_chain(ToText(certificate.der()));
    response.set_node_id(id.text());
    return OkStatus();
  }

  std::mutex mutex_;
  TestCertificate ca_;
  std::shared_ptr<Signer> node_ca_key_;
  Certificate node_ca_;
  TestCertificate server_certificate_;
  std::optional<tpm::PublicArea> attestation_key_;
  std::optional<tpm::PublicArea> tls_key_;
  Bytes secret_;
  Bytes nonce_;
  Bytes quote_nonce_;
  Enrolment enrolment_;
  Node node_;
  int node_port_ = 0;
  int enrolment_port_ = 0;
  std::unique_ptr<grpc::Server> node_server_;
  std::unique_ptr<grpc::Server> enrolment_server_;
};

}  // namespace sealift::test
