// The TLS settings against a client that others wrote.
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "sealift/v1/node.grpc.pb.h"
#include "shared/base/files.h"
#include "shared/base/subprocess.h"
#include "shared/wire/channel.h"
#include "shared/wire/grpc_status.h"
#include "tests/support/test_pki.h"

namespace sealift::wire {
namespace {

class EchoNode final : public v1::NodeService::Service {
  grpc::Status GetMetadata(grpc::ServerContext*, const v1::GetMetadataRequest* request,
                           v1::GetMetadataResponse* response) override {
    response->set_content(request->name());
    return grpc::Status::OK;
  }
};

class TlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    InitialiseGrpc();
    auto dir = TempDir::Create("tls");
    ASSERT_TRUE(dir.ok());
    dir_.emplace(std::move(dir).value());
    ca_ = test::MakeCa("server ca");
    client_ca_ = test::MakeCa("client ca");
    server_certificate_ = test::Issue({.common_name = "controller",
                                       .subject_alt_name = "DNS:localhost,IP:127.0.0.1",
                                       .extended_key_usage = "serverAuth"},
                                      &ca_);
    client_ = test::Issue({.common_name = "client"}, &client_ca_);
  }

  void Start(ClientCertificates clients) {
    auto credentials = MakeServerCredentials({server_certificate_.Pem(), server_certificate_.KeyPem()},
                                             clients, client_ca_.Pem());
    ASSERT_TRUE(credentials.ok()) << Describe(credentials.status());
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", *credentials, &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }

  Status Call(const TlsIdentity& identity, const std::string& ca) {
    auto channel = OpenChannel(
        ChannelOptions{.address = "localhost:" + std::to_string(port_), .ca_pem = ca, .identity = identity});
    if (!channel.ok()) return channel.status();
    v1::GetMetadataRequest request;
    v1::GetMetadataResponse response;
    return StatusFromGrpc(v1::NodeService::NewStub(*channel)->GetMetadata(
        MakeContext(std::chrono::seconds(10)).get(), request, &response));
  }

  CommandOutput OpensslClient(std::vector<std::string> more) {
    const auto ca = dir_->path() / "ca.pem";
    const auto cert = dir_->path() / "client.pem";
    const auto key = dir_->path() / "client-key.pem";
    EXPECT_TRUE(WriteFileAtomically(ca, AsBytes(ca_.Pem())).ok());
    EXPECT_TRUE(WriteFileAtomically(cert, AsBytes(client_.Pem())).ok());
    EXPECT_TRUE(WriteFileAtomically(key, AsBytes(client_.KeyPem()), 0600).ok());
    Command command;
    command.argv = {"openssl",
                    "s_client",
                    "-connect",
                    "127.0.0.1:" + std::to_string(port_),
                    "-CAfile",
                    ca.string(),
                    "-cert",
                    cert.string(),
                    "-key",
                    key.string(),
                    "-alpn",
                    "h2",
                    "-verify_return_error"};
    command.argv.insert(command.argv.end(), more.begin(), more.end());
    command.timeout = std::chrono::seconds(20);
    auto output = RunCommand(command);
    EXPECT_TRUE(output.ok()) << Describe(output.status());
    return output.ok() ? *output : CommandOutput{};
  }

  std::optional<TempDir> dir_;
  test::TestCertificate ca_, client_ca_, server_certificate_, client_;
  EchoNode service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(TlsTest, OwnClientsGetThrough) {
  Start(ClientCertificates::kRequired);
  EXPECT_TRUE(Call({client_.Pem(), client_.KeyPem()}, ca_.Pem()).ok());
}

TEST_F(TlsTest, OpensslNegotiatesTls13) {
  Start(ClientCertificates::kRequired);
  const CommandOutput output = OpensslClient({});
  EXPECT_NE(output.out.find("New, TLSv1.3"), std::string::npos) << output.out << output.err;
}

TEST_F(TlsTest, Tls12IsRefused) {
  Start(ClientCertificates::kRequired);
  const CommandOutput output = OpensslClient({"-tls1_2"});
  EXPECT_NE(output.exit_code, 0);
  EXPECT_EQ(output.out.find("New, TLSv1.2"), std::string::npos) << output.out;
  EXPECT_NE(output.out.find("Cipher is (NONE)"), std::string::npos) << output.out << output.err;
}

TEST_F(TlsTest, Tls12IsRefusedWithEveryCipherOffered) {
  Start(ClientCertificates::kNone);
  const CommandOutput output =
      OpensslClient({"-tls1_2", "-cipher", "ALL:eNULL:@SECLEVEL=0", "-psk", "00112233"});
  EXPECT_NE(output.exit_code, 0);
  EXPECT_EQ(output.out.find("New, TLSv1.2"), std::string::npos) << output.out;
}

TEST_F(TlsTest, WithoutACertificateNobodyGetsThrough) {
  Start(ClientCertificates::kRequired);
  EXPECT_EQ(ReasonOf(Call({}, ca_.Pem())), Reason::kPeerUnreachable);
}

TEST_F(TlsTest, CertificateOfAnotherCaIsRefused) {
  Start(ClientCertificates::kRequired);
  const auto stranger = test::Issue({.common_name = "client"}, &ca_);
  EXPECT_EQ(ReasonOf(Call({stranger.Pem(), stranger.KeyPem()}, ca_.Pem())), Reason::kPeerUnreachable);
}

TEST_F(TlsTest, ExpiredCertificateIsRefused) {
  Start(ClientCertificates::kRequired);
  const auto late =
      test::Issue({.common_name = "client", .not_before = -7200, .not_after = -60}, &client_ca_);
  EXPECT_EQ(ReasonOf(Call({late.Pem(), late.KeyPem()}, ca_.Pem())), Reason::kPeerUnreachable);
}

TEST_F(TlsTest, ServerOfAnotherCaIsRefusedByTheClient) {
  Start(ClientCertificates::kNone);
  EXPECT_EQ(ReasonOf(Call({}, client_ca_.Pem())), Reason::kPeerUnreachable);
  EXPECT_TRUE(Call({}, ca_.Pem()).ok());
}

TEST_F(TlsTest, KeyOfAnotherCertificateIsToldAtOnce) {
  EXPECT_EQ(ReasonOf(MakeServerCredentials({server_certificate_.Pem(), client_.KeyPem()},
                                           ClientCertificates::kNone, "")
                         .status()),
            Reason::kKeyMismatch);
}

}  // namespace
}  // namespace sealift::wire
