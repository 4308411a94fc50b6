#include <gtest/gtest.h>
#include <sys/stat.h>

#include "shared/base/files.h"
#include "shared/crypto/signer.h"
#include "shared/wire/channel.h"
#include "shared/wire/convert.h"
#include "shared/wire/grpc_status.h"

namespace sealift::wire {
namespace {

TEST(GrpcStatusTest, ReasonSurvivesTheWire) {
  const Status sent = MakeError(Code::kPermissionDenied, Reason::kRpcNotPermitted, "call ListNodes: no");
  const Status got = StatusFromGrpc(ToGrpcStatus(sent));
  EXPECT_EQ(got.code(), sent.code());
  EXPECT_EQ(ReasonOf(got), Reason::kRpcNotPermitted);
  EXPECT_EQ(MessageOf(got), MessageOf(sent));
}

TEST(GrpcStatusTest, ReasonSurvivesWhereDetailsAreDropped) {
  const Status sent = MakeError(Code::kUnauthenticated, Reason::kCertificateRevoked, "call X: revoked: gone");
  const grpc::Status carried = ToGrpcStatusInMessage(sent);
  EXPECT_TRUE(carried.error_details().empty());
  const Status got = StatusFromGrpc(carried);
  EXPECT_EQ(ReasonOf(got), Reason::kCertificateRevoked);
  EXPECT_EQ(MessageOf(got), MessageOf(sent));
}

TEST(GrpcStatusTest, UnknownReasonOfANewerPeerKeepsItsId) {
  const Status got =
      StatusFromGrpc(ToGrpcStatus(FromWire(Code::kAborted, "SOMETHING_OF_NEXT_YEAR", "refuse it")));
  EXPECT_EQ(ReasonIdOf(got), "SOMETHING_OF_NEXT_YEAR");
}

TEST(GrpcStatusTest, TransportErrorsGetAReason) {
  EXPECT_EQ(ReasonOf(StatusFromGrpc({grpc::StatusCode::UNAVAILABLE, "failed to connect"})),
            Reason::kPeerUnreachable);
  EXPECT_EQ(ReasonOf(StatusFromGrpc({grpc::StatusCode::DEADLINE_EXCEEDED, "Deadline Exceeded"})),
            Reason::kTimeout);
  // Text of a peer is not taken for a reason just because it has a colon.
  EXPECT_EQ(ReasonOf(StatusFromGrpc({grpc::StatusCode::UNAVAILABLE, "Connection refused: x"})),
            Reason::kPeerUnreachable);
}

TEST(GrpcStatusTest, LongMessagesAreCut) {
  const grpc::Status status =
      ToGrpcStatus(MakeError(Code::kInternal, Reason::kInternal, std::string(100'000, 'x')));
  EXPECT_LT(status.error_message().size(), 3000u);
}

TEST(ConvertTest, DigestMustBe32Bytes) {
  EXPECT_TRUE(DigestFromWire("ek_digest", std::string(32, 'a')).ok());
  for (const std::size_t size : {0u, 31u, 33u}) {
    const auto digest = DigestFromWire("ek_digest", std::string(size, 'a'));
    EXPECT_EQ(ReasonOf(digest.status()), Reason::kMalformed);
    EXPECT_NE(MessageOf(digest.status()).find("ek_digest"), std::string::npos);
  }
}

class ProfileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto dir = TempDir::Create("profile");
    ASSERT_TRUE(dir.ok());
    dir_.emplace(std::move(dir).value());
  }
  std::optional<TempDir> dir_;
};

TEST_F(ProfileTest, WhatIsWrittenIsRead) {
  const Profile written{"c.example:7443", "ca.pem", "/abs/a\"b.pem", "key.pem", "controller"};
  const auto path = dir_->path() / "profile.toml";
  ASSERT_TRUE(WriteFileAtomically(path, AsBytes(SerializeProfile(written)), 0600).ok());
  const auto read = LoadProfile(path);
  ASSERT_TRUE(read.ok()) << Describe(read.status());
  EXPECT_EQ(read->address, written.address);
  EXPECT_EQ(read->ca, dir_->path() / "ca.pem");
  EXPECT_EQ(read->certificate, written.certificate);
  EXPECT_EQ(read->server_name, "controller");
}

TEST_F(ProfileTest, AllProblemsAreNamedAtOnce) {
  const auto path = dir_->path() / "profile.toml";
  ASSERT_TRUE(WriteFileAtomically(path, AsBytes("ca = \"ca.pem\"\nadress = \"x:1\"\n")).ok());
  const auto read = LoadProfile(path);
  EXPECT_EQ(ReasonOf(read.status()), Reason::kConfigInvalid);
  for (const char* name : {"address", "cert", "key", "adress"}) {
    EXPECT_NE(MessageOf(read.status()).find(name), std::string::npos) << name;
  }
}

TEST_F(ProfileTest, KeyThatOthersCanReadIsRefused) {
  const auto signer = SoftwareSigner::Generate(KeyType::kEcP256);
  ASSERT_TRUE(signer.ok());
  for (const char* name : {"ca.pem", "cert.pem"}) {
    ASSERT_TRUE(WriteFileAtomically(dir_->path() / name, AsBytes("x")).ok());
  }
  ASSERT_TRUE(WriteFileAtomically(dir_->path() / "key.pem", AsBytes((*signer)->PrivatePem()), 0644).ok());
  const auto channel = OpenChannel(Profile{"localhost:1", dir_->path() / "ca.pem", dir_->path() / "cert.pem",
                                           dir_->path() / "key.pem", ""});
  EXPECT_EQ(ReasonOf(channel.status()), Reason::kPermissionsTooLoose);
}

TEST(ChannelTest, AddressNeedsAPort) {
  for (const char* address : {"", "host", ":1", "host:"}) {
    EXPECT_EQ(OpenChannel(ChannelOptions{.address = address}).status().code(), Code::kInvalidArgument)
        << address;
  }
}

}  // namespace
}  // namespace sealift::wire
