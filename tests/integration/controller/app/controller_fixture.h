// A whole controller in this process, with keys in memory, and callers of every kind.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>

#include "controller/app/server.h"
#include "controller/store/sqlite_stores.h"
#include "sealift/v1/enrolment.grpc.pb.h"
#include "sealift/v1/fleet.grpc.pb.h"
#include "sealift/v1/node.grpc.pb.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/key_reference.h"
#include "shared/order/delegation.h"
#include "shared/release/release_targets.h"
#include "shared/tuf/metadata.h"
#include "shared/wire/channel.h"
#include "shared/wire/convert.h"
#include "shared/wire/grpc_status.h"
#include "tests/support/test_pki.h"

namespace sealift::controller {

// Says what it is told to say of any quote.
class ScriptedAttestor final : public NodeAttestor {
 public:
  Result<Judgement> Attest(const Node&, const AttestationEvidence& evidence, ByteView nonce,
                           UnixMillis) override {
    // The nonce stands in for a quote: a stale one is no proof.
    if (evidence.attest != ToBytes(nonce)) {
      return Judgement{.verdict = {.trust = Trust::kUntrusted, .reasons = {"QUOTE_NONCE_STALE"}}};
    }
    return Judgement{.verdict = next};
  }
  Verdict next{.trust = Trust::kTrusted};
};

class ControllerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(InstallKeyProvider().ok());
    log::SetLevel(log::Level::kError);
    auto dir = TempDir::Create("controller");
    ASSERT_TRUE(dir.ok());
    dir_.emplace(std::move(dir).value());
    node_ca_ = test::MakeCa("node ca");
    operator_ca_ = test::MakeCa("operator ca");
    tls_ = test::Issue({.common_name = "controller",
                        .subject_alt_name = "DNS:localhost,IP:127.0.0.1",
                        .extended_key_usage = "serverAuth"},
                       &node_ca_);
    for (auto* key : {&tuf_root_, &tuf_targets_, &tuf_snapshot_, &tuf_timestamp_, &orders_root_, &orders_}) {
      auto made = SoftwareSigner::Generate(KeyType::kEcP256);
      ASSERT_TRUE(made.ok());
      *key = std::move(made).value();
    }
    WriteFiles();
    Start();
  }

  virtual void WriteFiles() {
    tuf::Root root = tuf::MakeRoot(1, SystemClock().Now() + std::chrono::hours(1000),
                                   {{tuf::Role::kRoot, tuf_root_->public_key()},
                                    {tuf::Role::kTargets, tuf_targets_->public_key()},
                                    {tuf::Role::kSnapshot, tuf_snapshot_->public_key()},
                                    {tuf::Role::kTimestamp, tuf_timestamp_->public_key()}});
    tuf::Envelope envelope = tuf::MakeEnvelope(root);
    ASSERT_TRUE(tuf::SignMetadata(tuf::Role::kRoot, envelope, *tuf_root_, "version 1").ok());
    ASSERT_TRUE(WriteFileAtomically(dir_->path() / "1.root.json", AsBytes(envelope.Serialize())).ok());
    const auto delegation =
        order::MakeDelegation({.orders = {orders_->public_key()},
                               .operator_cas = {*Certificate::FromPem(operator_ca_.Pem())},
                               .issued = SystemClock().Now(),
                               .expires = SystemClock().Now() + std::chrono::hours(100)},
                              *orders_root_);
    ASSERT_TRUE(delegation.ok());
    ASSERT_TRUE(WriteFileAtomically(dir_->path() / order::kDelegationFile, AsBytes(*delegation)).ok());
    for (const char* name : {"PK.esl", "KEK.esl", "db.esl"}) {
      ASSERT_TRUE(WriteFileAtomically(dir_->path() / name, Bytes{}).ok());
    }
  }

  void Start() {
    const std::string text =
        "state_dir = \"state\"\nkeys = \".\"\ntokens = [\"online=pkcs11:token=none\"]\n"
        "[listen]\nfleet = \"127.0.0.1:0\"\nenrolment = \"127.0.0.1:0\"\n"
        "metrics = \"127.0.0.1:0\"\nready_file = \"ready.json\"\n"
        "[tuf]\nroot = \"1.root.json\"\n[nodes]\nquote_retry_ms = 100\n" +
        more_config_;
    auto config = ParseControllerConfig(text, dir_->path() / "controller.toml");
    ASSERT_TRUE(config.ok()) << Describe(config.status());
    const auto parse = [](const test::TestCertificate& certificate) {
      return *Certificate::FromPem(certificate.Pem());
    };
    OnlineKeys keys{.tuf = {tuf_snapshot_, tuf_timestamp_},
                    .node_ca = node_ca_.key,
                    .node_ca_certificate = parse(node_ca_),
                    .node_cas = {parse(node_ca_)},
                    .operator_cas = {parse(operator_ca_)},
                    .orders = orders_,
                    .orders_roots = {orders_root_->public_key()},
                    .tls = {tls_.Pem(), tls_.KeyPem()},
                    .journal = nullptr,
                    .inventory = inventory_,
                    .secrets = secret_keys_};
    auto server =
        ControllerServer::Start(*config, std::move(keys), *server_clock_, {.attestor = server_attestor_});
    ASSERT_TRUE(server.ok()) << Describe(server.status());
    server_ = std::move(server).value();
    // A second look at the same database, as an operator with root's shell would have.
    auto stores = SqliteStores::Open(dir_->path() / "state");
    ASSERT_TRUE(stores.ok());
    stores_ = std::move(stores).value();
  }

  static NodeId Id(int number) {
    auto id = NodeId::Parse("01890000-0000-7000-8000-00000000000" + std::to_string(number));
    SEALIFT_CHECK(id.ok());
    return *id;
  }
  // As enrolment leaves it.
  void EnrolNode(int number, std::map<std::string, std::string> labels = {}) {
    Node node{.id = Id(number), .ak_public = {1}};
    node.ek_digest.bytes[0] = static_cast<std::uint8_t>(number);
    node.admission = Admission::kAdmitted;
    node.labels = std::move(labels);
    ASSERT_TRUE(stores_->nodes().Enrol(node).ok());
  }
  test::TestCertificate NodeCertificate(int number) {
    return test::Issue({.common_name = "node", .subject_alt_name = "URI:" + Id(number).SubjectUri()},
                       &node_ca_);
  }
  test::TestCertificate OperatorCertificate(const std::string& role) {
    return test::Issue({.common_name = role, .subject_alt_name = "URI:sealift:operator:anna?role=" + role},
                       &operator_ca_);
  }

  std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address,
                                           const test::TestCertificate* certificate) {
    wire::ChannelOptions options{.address = address, .ca_pem = node_ca_.Pem()};
    if (certificate != nullptr) options.identity = {certificate->Pem(), certificate->KeyPem()};
    auto channel = wire::OpenChannel(options);
    SEALIFT_CHECK(channel.ok());
    return *channel;
  }
  std::unique_ptr<v1::NodeService::Stub> NodeStub(int number) {
    const auto certificate = NodeCertificate(number);
    return v1::NodeService::NewStub(ChannelTo(server_->addresses().fleet, &certificate));
  }
  std::unique_ptr<v1::FleetService::Stub> FleetStub(const std::string& role) {
    const auto certificate = OperatorCertificate(role);
    return v1::FleetService::NewStub(ChannelTo(server_->addresses().fleet, &certificate));
  }
  static std::unique_ptr<grpc::ClientContext> Context() {
    return wire::MakeContext(std::chrono::seconds(30));
  }

  // Uploads and publishes a release of one file through the API. Its version is the file's content too.
  void Publish(const std::vector<std::string>& versions);

  std::optional<TempDir> dir_;
  std::string more_config_;
  SystemClock clock_;
  test::TestCertificate node_ca_, operator_ca_, tls_;
  hsm::Inventory inventory_;
  // Null: no secrets are kept.
  std::shared_ptr<SecretKeys> secret_keys_;
  std::shared_ptr<SoftwareSigner> tuf_root_, tuf_targets_, tuf_snapshot_, tuf_timestamp_;
  std::shared_ptr<SoftwareSigner> orders_root_, orders_;
  std::uint32_t published_ = 0;
  ScriptedAttestor attestor_;
  // What Start gives the server; an attestor of null is the real one.
  Clock* server_clock_ = &clock_;
  NodeAttestor* server_attestor_ = &attestor_;
  std::unique_ptr<ControllerServer> server_;
  std::unique_ptr<SqliteStores> stores_;
};

}  // namespace sealift::controller
