// What one node may use up of a running controller.
#include "node-agent/link/grpc_controller.h"
#include "shared/wire/retry_after.h"
#include "tests/integration/controller/app/controller_fixture.h"

namespace sealift::controller {
namespace {

class NodeLimitsTest : public ControllerTest {
 protected:
  void SetUp() override {
    more_config_ = "call_burst = 5\ncall_refill_ms = 600000\ntotal_burst = 1000\npiece_ms = 300\n";
    ControllerTest::SetUp();
    EnrolNode(1);
    EnrolNode(2);
  }
  static grpc::Status CheckIn(v1::NodeService::Stub& node, grpc::ClientContext& context,
                              v1::UpdateState state = v1::IDLE) {
    v1::CheckInRequest request;
    request.set_state(state);
    request.mutable_running()->set_version("1");
    request.mutable_running()->set_boot_id("boot");
    v1::CheckInResponse response;
    return node.CheckIn(&context, request, &response);
  }
};

TEST_F(NodeLimitsTest, ANodeThatHammersIsToldWhenToComeAgainAndLeavesNoTrace) {
  const auto node = NodeStub(1);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(CheckIn(*node, *Context()).ok()) << i;
  const auto seen = stores_->nodes().Get(Id(1))->last_seen;
  for (int i = 0; i < 20; ++i) {
    const auto context = Context();
    const Status refused = StatusFromGrpc(CheckIn(*node, *context, v1::FETCHING));
    EXPECT_EQ(refused.code(), Code::kResourceExhausted);
    EXPECT_EQ(ReasonOf(refused), Reason::kServerBusy);
    const auto& trailing = context->GetServerTrailingMetadata();
    const auto after = trailing.find(wire::kRetryAfter);
    ASSERT_NE(after, trailing.end());
    const int wait = std::stoi(std::string(after->second.data(), after->second.size()));
    EXPECT_GT(wait, 0);
    EXPECT_LE(wait, 600'000);
  }
  const auto after = stores_->nodes().Get(Id(1)).value();
  EXPECT_EQ(after.last_seen, seen);
  EXPECT_EQ(after.status.state, UpdateState::kIdle);
  // Reports come out of the same bucket, and another node has its own.
  v1::ReportRequest report;
  report.set_state(v1::IDLE);
  v1::ReportResponse answer;
  const auto context = Context();
  EXPECT_EQ(ReasonOf(StatusFromGrpc(node->Report(context.get(), report, &answer))), Reason::kServerBusy);
  EXPECT_TRUE(context->GetServerTrailingMetadata().contains(wire::kRetryAfter));
  EXPECT_TRUE(CheckIn(*NodeStub(2), *Context()).ok());
}

// With the agent's own client.
TEST_F(NodeLimitsTest, AnAgentLearnsHowLongToStayAway) {
  const auto certificate = NodeCertificate(1);
  const auto agent = agent::MakeGrpcControllerClient(ChannelTo(server_->addresses().fleet, &certificate));
  agent::CheckIn check_in;
  check_in.boot_id = "boot";
  for (int i = 0; i < 5; ++i) {
    const auto answer = agent->SendCheckIn(check_in);
    ASSERT_TRUE(answer.ok()) << Describe(answer.status());
    EXPECT_EQ(agent->Patience().count(), 0);
  }
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(ReasonOf(agent->SendCheckIn(check_in).status()), Reason::kServerBusy);
  const auto passed = std::chrono::ceil<std::chrono::milliseconds>(std::chrono::steady_clock::now() - before);
  // 600 s since the first call took the bucket's first token; it is the controller's clock that counts.
  EXPECT_LE(agent->Patience(), agent::kMostPatience);
  EXPECT_GT(agent->Patience(), std::chrono::seconds(590) - passed);
  // Another error asks for nothing, and takes nothing back.
  EXPECT_FALSE(agent->GetMetadata("root.json").ok());
  EXPECT_GT(agent->Patience().count(), 0);
}

TEST_F(NodeLimitsTest, AReaderThatTakesTooLongOverAPieceLosesItsStream) {
  // More than all windows and buffers on the way hold.
  const std::string object(32u << 20, 'x');
  const auto fleet = FleetStub("operator");
  v1::UploadContentResponse uploaded;
  const auto uploading = Context();
  const auto upload = fleet->UploadContent(uploading.get(), &uploaded);
  v1::UploadContentRequest part;
  part.mutable_start()->set_digest(wire::ToWire(Sha256(AsBytes(object))));
  part.mutable_start()->set_size(object.size());
  upload->Write(part);
  for (std::size_t at = 0; at < object.size(); at += 1u << 20) {
    part.set_data(object.substr(at, 1u << 20));
    upload->Write(part);
  }
  upload->WritesDone();
  ASSERT_TRUE(upload->Finish().ok());
  v1::FetchContentRequest request;
  request.set_digest(wire::ToWire(Sha256(AsBytes(object))));
  const auto node = NodeStub(1);
  v1::FetchContentResponse piece;
  // All that a node may have at once, none of them read on.
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::FetchContentResponse>>> slow;
  for (int i = 0; i < 4; ++i) {
    contexts.push_back(Context());
    slow.push_back(node->FetchContent(contexts.back().get(), request));
    ASSERT_TRUE(slow.back()->Read(&piece));
  }
  // Its places are free again without a word from it. A quick one is not disturbed.
  bool served = false;
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!served && std::chrono::steady_clock::now() < give_up) {
    const auto context = Context();
    const auto quick = node->FetchContent(context.get(), request);
    std::size_t got = 0;
    while (quick->Read(&piece)) got += piece.data().size();
    served = quick->Finish().ok() && got == object.size();
  }
  EXPECT_TRUE(served);
  // Which of them had their time by now is chance; one of them did, or there had been no place.
  int ended = 0;
  for (const auto& stream : slow) {
    while (stream->Read(&piece)) {
    }
    if (stream->Finish().error_code() == grpc::StatusCode::CANCELLED) ++ended;
  }
  EXPECT_GE(ended, 1);
}

}  // namespace
}  // namespace sealift::controller
