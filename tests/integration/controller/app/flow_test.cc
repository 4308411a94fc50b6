// What nodes and operators do with a running controller.
#include <fmt/format.h>

#include <thread>

#include "tests/integration/controller/app/controller_fixture.h"

namespace sealift::controller {
namespace {

class FlowTest : public ControllerTest {
 protected:
  static v1::CheckInRequest On(const std::string& version, v1::UpdateState state = v1::IDLE) {
    v1::CheckInRequest request;
    request.set_state(state);
    request.mutable_running()->set_version(version);
    request.mutable_running()->set_boot_id("boot of " + version);
    request.set_healthy(true);
    return request;
  }
  static v1::CheckInResponse CheckIn(v1::NodeService::Stub& node, const v1::CheckInRequest& request) {
    v1::CheckInResponse response;
    const grpc::Status status = node.CheckIn(Context().get(), request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  static Result<v1::AttestResponse> Attest(v1::NodeService::Stub& node, const std::string& quote) {
    v1::AttestRequest request;
    request.mutable_quote()->set_attest(quote);
    v1::AttestResponse response;
    const grpc::Status status = node.Attest(Context().get(), request, &response);
    if (!status.ok()) return StatusFromGrpc(status);
    return response;
  }
  static Result<v1::Rollout> Create(v1::FleetService::Stub& fleet, const std::string& version,
                                    const std::vector<std::string>& waves, const std::string& selector = "") {
    v1::CreateRolloutRequest request;
    request.set_channel("stable");
    request.set_version(version);
    request.set_selector(selector);
    for (const std::string& wave : waves) request.add_waves(wave);
    v1::Rollout response;
    const grpc::Status status = fleet.CreateRollout(Context().get(), request, &response);
    if (!status.ok()) return StatusFromGrpc(status);
    return response;
  }
  // Streams states until `until` holds.
  v1::Rollout WatchUntil(const std::string& id, const std::function<bool(const v1::Rollout&)>& until) {
    const auto fleet = FleetStub("viewer");
    const auto context = Context();
    v1::GetRolloutRequest request;
    request.set_id(id);
    const auto stream = fleet->WatchRollout(context.get(), request);
    v1::Rollout rollout;
    while (stream->Read(&rollout)) {
      if (until(rollout)) break;
    }
    context->TryCancel();
    static_cast<void>(stream->Finish());
    EXPECT_TRUE(until(rollout)) << rollout.DebugString();
    return rollout;
  }
  void AttestAs(v1::NodeService::Stub& node, const v1::CheckInRequest& at, Verdict verdict) {
    const v1::CheckInResponse answer = CheckIn(node, at);
    ASSERT_EQ(answer.quote_nonce().size(), 32u);
    attestor_.next = std::move(verdict);
    const auto attested = Attest(node, answer.quote_nonce());
    ASSERT_TRUE(attested.ok()) << Describe(attested.status());
  }
  v1::UploadContentResponse Upload(const std::string& object) {
    const auto fleet = FleetStub("operator");
    const auto context = Context();
    v1::UploadContentResponse response;
    const auto stream = fleet->UploadContent(context.get(), &response);
    v1::UploadContentRequest part;
    part.mutable_start()->set_digest(wire::ToWire(Sha256(AsBytes(object))));
    part.mutable_start()->set_size(object.size());
    stream->Write(part);
    for (std::size_t at = 0; at < object.size(); at += 1u << 20) {
      part.set_data(object.substr(at, 1u << 20));
      stream->Write(part);
    }
    stream->WritesDone();
    EXPECT_TRUE(stream->Finish().ok());
    return response;
  }
  ReleaseId IdOf(const std::string& version) {
    return stores_->releases().Get("stable", version)->release_id;
  }
};

TEST_F(FlowTest, NodeIsUpgradedOnlyWhenItsQuoteSaysSo) {
  EnrolNode(1);
  Publish({"1", "2"});
  const auto node = NodeStub(1);
  AttestAs(*node, On("1"), {.trust = Trust::kTrusted, .release_version = "1", .release_id = IdOf("1")});
  EXPECT_TRUE(CheckIn(*node, On("1")).quote_nonce().empty());

  const auto fleet = FleetStub("operator");
  const auto rollout = Create(*fleet, "2", {"1", "50%", "100%"});
  ASSERT_TRUE(rollout.ok()) << Describe(rollout.status());
  const v1::CheckInResponse told = CheckIn(*node, On("1"));
  EXPECT_EQ(told.desired().version(), "2");
  EXPECT_EQ(told.desired().release_id(), wire::ToWire(IdOf("2")));
  EXPECT_LE(told.poll_after_ms(), 6'000u);

  // It claims everything, and proves nothing yet.
  CheckIn(*node, On("2", v1::BLESSED));
  v1::GetRolloutRequest by_id;
  by_id.set_id(rollout->id());
  v1::Rollout state;
  ASSERT_TRUE(fleet->GetRollout(Context().get(), by_id, &state).ok());
  EXPECT_EQ(state.state(), v1::Rollout::RUNNING);

  AttestAs(*node, On("2", v1::BLESSED),
           {.trust = Trust::kTrusted, .release_version = "2", .release_id = IdOf("2")});
  WatchUntil(rollout->id(), [](const v1::Rollout& r) { return r.state() == v1::Rollout::DONE; });
  const auto evidence = stores_->evidence().History(Id(1), 10);
  ASSERT_TRUE(evidence.ok());
  EXPECT_EQ(evidence->size(), 2u);
  EXPECT_EQ((*evidence)[0].verdict.release_version, "2");
}

// A new image is blessed on this answer.
TEST_F(FlowTest, ReportOfATrialIsAcceptedOnlyAfterATrustedQuoteOfThatBoot) {
  EnrolNode(1);
  EnrolNode(2);
  Publish({"1", "2"});
  const auto node = NodeStub(1);
  AttestAs(*node, On("1"), {.trust = Trust::kTrusted, .release_version = "1", .release_id = IdOf("1")});
  const auto accepted = [&](v1::NodeService::Stub& by, const v1::CheckInRequest& at) {
    v1::ReportRequest report;
    report.set_state(at.state());
    report.set_version(at.running().version());
    report.set_healthy(true);
    *report.mutable_running() = at.running();
    v1::ReportResponse reported;
    const grpc::Status status = by.Report(Context().get(), report, &reported);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return reported.accepted();
  };
  const v1::CheckInRequest trial = On("2", v1::ASSESSING);
  EXPECT_FALSE(accepted(*node, trial));
  EXPECT_EQ(stores_->nodes().Get(Id(1))->status.state, UpdateState::kAssessing);
  AttestAs(*node, trial, {.trust = Trust::kTrusted, .release_version = "2", .release_id = IdOf("2")});
  EXPECT_TRUE(accepted(*node, trial));
  v1::CheckInRequest next_boot = trial;
  next_boot.mutable_running()->set_boot_id("after a reboot");
  EXPECT_FALSE(accepted(*node, next_boot));

  const auto other = NodeStub(2);
  AttestAs(*other, trial, {.trust = Trust::kUnknown, .reasons = {"RELEASE_UNKNOWN"}});
  EXPECT_FALSE(accepted(*other, trial));
  // What is no trial needs no proof to be heard.
  EXPECT_TRUE(accepted(*other, On("1", v1::FELL_BACK)));
}

TEST_F(FlowTest, LabelsOfTheImageAreTakenOnceAndNeverSilenceANode) {
  std::map<std::string, std::string> given;
  for (int i = 0; i < 15; ++i) given["k" + std::to_string(i)] = "operator";
  EnrolNode(1, given);
  v1::CheckInRequest request = On("1");
  for (const char* key : {"k0", "UPPER CASE", "zone", "zz"}) (*request.mutable_labels())[key] = "image";
  const auto node = NodeStub(1);
  CheckIn(*node, request);
  given["zone"] = "image";
  EXPECT_EQ(stores_->nodes().Get(Id(1))->labels, given);

  v1::SetNodeLabelsRequest none;
  none.set_id(Id(1).text());
  v1::Node changed;
  ASSERT_TRUE(FleetStub("operator")->SetNodeLabels(Context().get(), none, &changed).ok());
  for (int i = 0; i < 100; ++i) (*request.mutable_labels())["more" + std::to_string(i)] = "image";
  CheckIn(*node, request);
  EXPECT_TRUE(stores_->nodes().Get(Id(1))->labels.empty());
}

TEST_F(FlowTest, HowFarAFetchIsIsShownWhileItGoesOn) {
  EnrolNode(1);
  const auto node = NodeStub(1);
  const auto shown = [&] {
    v1::GetNodeRequest request;
    request.set_id(Id(1).text());
    v1::Node found;
    EXPECT_TRUE(FleetStub("operator")->GetNode(Context().get(), request, &found).ok());
    return found;
  };
  v1::CheckInRequest request = On("1", v1::FETCHING);
  request.mutable_fetch()->set_fetched_bytes(7);
  request.mutable_fetch()->set_size_bytes(9);
  CheckIn(*node, request);
  EXPECT_EQ(shown().fetch().fetched_bytes(), 7u);
  EXPECT_EQ(shown().fetch().size_bytes(), 9u);
  CheckIn(*node, On("1"));
  EXPECT_FALSE(shown().has_fetch());
}

TEST_F(FlowTest, FailedNodeStopsTheNextWaveUntilAnOperatorResumes) {
  EnrolNode(1);
  EnrolNode(2);
  Publish({"2"});
  const auto fleet = FleetStub("operator");
  const auto rollout = Create(*fleet, "2", {"1", "100%"});
  ASSERT_TRUE(rollout.ok());
  const auto first = NodeStub(1);
  const auto second = NodeStub(2);
  EXPECT_TRUE(CheckIn(*first, On("1")).has_desired());
  EXPECT_FALSE(CheckIn(*second, On("1")).has_desired());

  v1::ReportRequest report;
  report.set_state(v1::FELL_BACK);
  report.set_version("2");
  report.set_reason("FELL_BACK");
  report.set_message("three boots failed");
  v1::ReportResponse reported;
  ASSERT_TRUE(first->Report(Context().get(), report, &reported).ok());
  EXPECT_TRUE(reported.accepted());
  const v1::Rollout halted =
      WatchUntil(rollout->id(), [](const v1::Rollout& r) { return r.state() == v1::Rollout::HALTED; });
  EXPECT_NE(halted.halted_reason().find(Id(1).text()), std::string::npos);
  EXPECT_FALSE(CheckIn(*first, On("1")).has_desired());
  EXPECT_FALSE(CheckIn(*second, On("1")).has_desired());

  v1::SetRolloutStateRequest resume;
  resume.set_id(rollout->id());
  resume.set_state(v1::Rollout::RUNNING);
  v1::Rollout resumed;
  ASSERT_TRUE(fleet->SetRolloutState(Context().get(), resume, &resumed).ok());
  EXPECT_EQ(CheckIn(*second, On("1")).desired().version(), "2");
}

TEST_F(FlowTest, NonceIsGoodForOneNodeOnce) {
  EnrolNode(1);
  EnrolNode(2);
  const auto first = NodeStub(1);
  const auto second = NodeStub(2);
  const std::string nonce = CheckIn(*first, On("1")).quote_nonce();
  CheckIn(*second, On("1"));
  // Another node's quote, though its own nonce is open.
  const auto stolen = Attest(*second, nonce);
  ASSERT_TRUE(stolen.ok());
  EXPECT_EQ(stolen->outcome(), v1::Verdict::UNTRUSTED);
  EXPECT_EQ(Attest(*first, nonce)->outcome(), v1::Verdict::TRUSTED);
  EXPECT_EQ(ReasonOf(Attest(*first, nonce).status()), Reason::kQuoteNonceStale);
}

TEST_F(FlowTest, NodeChangesItsOwnRecordOnly) {
  EnrolNode(1);
  EnrolNode(2);
  CheckIn(*NodeStub(2), On("7"));
  EXPECT_EQ(stores_->nodes().Get(Id(2))->status.running.version, "7");
  EXPECT_EQ(stores_->nodes().Get(Id(1))->status.running.version, "");
}

TEST_F(FlowTest, RevokedAndQuarantinedNodesGetNothing) {
  EnrolNode(1);
  Publish({"2"});
  ASSERT_TRUE(Create(*FleetStub("operator"), "2", {}).ok());
  const auto node = NodeStub(1);
  EXPECT_TRUE(CheckIn(*node, On("1")).has_desired());
  const auto approver = FleetStub("approver");
  v1::SetNodeAdmissionRequest request;
  request.set_id(Id(1).text());
  request.set_admission(v1::Node::QUARANTINED);
  v1::Node changed;
  ASSERT_TRUE(approver->SetNodeAdmission(Context().get(), request, &changed).ok());
  EXPECT_FALSE(CheckIn(*node, On("1")).has_desired());
  const auto refused_everything = [&] {
    v1::GetMetadataRequest metadata;
    metadata.set_name("timestamp.json");
    v1::GetMetadataResponse got;
    EXPECT_EQ(ReasonOf(StatusFromGrpc(node->GetMetadata(Context().get(), metadata, &got))),
              Reason::kNodeNotAdmitted);
    v1::FetchContentRequest content;
    content.set_digest(wire::ToWire(Sha256(AsBytes("image of 2"))));
    v1::FetchContentResponse piece;
    const auto context = Context();
    const auto stream = node->FetchContent(context.get(), content);
    EXPECT_FALSE(stream->Read(&piece));
    EXPECT_EQ(ReasonOf(StatusFromGrpc(stream->Finish())), Reason::kNodeNotAdmitted);
  };
  refused_everything();
  request.set_admission(v1::Node::REVOKED);
  ASSERT_TRUE(approver->SetNodeAdmission(Context().get(), request, &changed).ok());
  v1::CheckInResponse answer;
  EXPECT_EQ(ReasonOf(StatusFromGrpc(node->CheckIn(Context().get(), On("1"), &answer))),
            Reason::kNodeNotAdmitted);
  refused_everything();
}

TEST_F(FlowTest, ContentComesFromAnyOffset) {
  EnrolNode(1);
  std::string object(200'000, '\0');
  for (std::size_t i = 0; i < object.size(); ++i) object[i] = static_cast<char>(i * 7);
  const Sha256Digest digest = Sha256(AsBytes(object));
  for (int round = 0; round < 2; ++round) {
    const v1::UploadContentResponse response = Upload(object);
    EXPECT_EQ(response.objects_stored(), round == 0 ? 1u : 0u);
    EXPECT_EQ(response.objects_known(), round == 0 ? 0u : 1u);
  }
  const auto node = NodeStub(1);
  const auto fetch = [&](std::uint64_t offset, std::uint64_t length) -> Result<std::string> {
    const auto context = Context();
    v1::FetchContentRequest request;
    request.set_digest(wire::ToWire(digest));
    request.set_offset(offset);
    request.set_length(length);
    const auto stream = node->FetchContent(context.get(), request);
    v1::FetchContentResponse piece;
    std::string got;
    while (stream->Read(&piece)) {
      EXPECT_LE(piece.data().size(), 64u << 10);
      if (got.empty()) {
        EXPECT_EQ(piece.total_size(), object.size());
      }
      got += piece.data();
    }
    const grpc::Status status = stream->Finish();
    if (!status.ok()) return StatusFromGrpc(status);
    return got;
  };
  EXPECT_EQ(*fetch(0, 0), object);
  EXPECT_EQ(*fetch(70'001, 0), object.substr(70'001));
  EXPECT_EQ(*fetch(199'999, 500), object.substr(199'999));
  EXPECT_EQ(*fetch(10, 65'537), object.substr(10, 65'537));
  EXPECT_EQ(*fetch(200'000, 0), "");
  EXPECT_EQ(fetch(200'001, 0).status().code(), Code::kOutOfRange);
}

TEST_F(FlowTest, NodeThatReadsNothingTakesNoThreadsFromOthers) {
  EnrolNode(1);
  EnrolNode(2);
  const std::string object(8u << 20, 'x');
  Upload(object);
  v1::FetchContentRequest request;
  request.set_digest(wire::ToWire(Sha256(AsBytes(object))));
  const auto greedy = NodeStub(1);
  struct Stream {
    std::unique_ptr<grpc::ClientContext> context;
    std::unique_ptr<grpc::ClientReader<v1::FetchContentResponse>> reader;
  };
  std::vector<Stream> streams;
  v1::FetchContentResponse piece;
  for (int i = 0; i < 4; ++i) {
    auto context = Context();
    auto reader = greedy->FetchContent(context.get(), request);
    // It began, and blocks once the windows are full.
    ASSERT_TRUE(reader->Read(&piece)) << i;
    streams.push_back({std::move(context), std::move(reader)});
  }
  const auto one_more = Context();
  const auto refused = greedy->FetchContent(one_more.get(), request);
  EXPECT_FALSE(refused->Read(&piece));
  EXPECT_EQ(ReasonOf(StatusFromGrpc(refused->Finish())), Reason::kServerBusy);
  const auto context = Context();
  const auto other = NodeStub(2)->FetchContent(context.get(), request);
  EXPECT_TRUE(other->Read(&piece));
  context->TryCancel();
  static_cast<void>(other->Finish());
  for (Stream& stream : streams) {
    stream.context->TryCancel();
    static_cast<void>(stream.reader->Finish());
  }
}

TEST_F(FlowTest, NodeCannotFillTheDiskWithWorthlessQuotes) {
  EnrolNode(1);
  const auto node = NodeStub(1);
  bool busy = false;
  for (int i = 0; i < 100 && !busy; ++i) {
    v1::CheckInRequest request = On("1");
    // Each claims another boot, so each is given a nonce.
    request.mutable_running()->set_boot_id(fmt::format("boot {}", i));
    CheckIn(*node, request);
    v1::AttestRequest quote;
    quote.mutable_quote()->set_attest("worthless");
    quote.mutable_quote()->set_event_log("anything");
    v1::AttestResponse response;
    busy = ReasonOf(StatusFromGrpc(node->Attest(Context().get(), quote, &response))) == Reason::kServerBusy;
  }
  EXPECT_TRUE(busy);
  const auto kept = stores_->evidence().History(Id(1), 1);
  ASSERT_TRUE(kept.ok());
  ASSERT_EQ(kept->size(), 1u);
  EXPECT_EQ(kept->front().verdict.trust, Trust::kUntrusted);
  EXPECT_TRUE(kept->front().event_log.empty());
}

TEST_F(FlowTest, DamagedManifestKeepsNeitherTheDaemonNorOtherReleasesBack) {
  Publish({"1", "2"});
  const ReleaseId damaged = IdOf("1");
  server_.reset();
  stores_.reset();
  const std::filesystem::path state = dir_->path() / "state";
  for (const auto& entry : std::filesystem::directory_iterator(state)) {
    if (entry.is_regular_file() && entry.path().filename().string().starts_with("controller.db")) {
      std::filesystem::remove(entry.path());
    }
  }
  const std::string hex = damaged.digest.hex();
  const std::filesystem::path object = state / "content/objects" / hex.substr(0, 2) / hex;
  ASSERT_TRUE(std::filesystem::exists(object));
  ASSERT_TRUE(WriteFileAtomically(object, AsBytes("{}")).ok());
  Start();
  EXPECT_FALSE(stores_->releases().Get("stable", "1").ok());
  EXPECT_TRUE(stores_->releases().Get("stable", "2").ok());
}

TEST_F(FlowTest, OverlongAndMisshapenRequestsAreRefused) {
  EnrolNode(1);
  const auto node = NodeStub(1);
  const std::vector<std::function<void(v1::CheckInRequest&)>> breaks = {
      [](auto& r) { r.set_state(static_cast<v1::UpdateState>(99)); },
      [](auto& r) { r.mutable_running()->set_version("../../etc"); },
      [](auto& r) { r.mutable_running()->set_boot_id(std::string(65, 'x')); },
      [](auto& r) { r.mutable_running()->clear_boot_id(); },
      [](auto& r) { r.clear_running(); },
      [](auto& r) { r.mutable_running()->set_image_digest("short"); },
      [](auto& r) { r.set_agent_version(std::string(1000, 'x')); },
      [](auto& r) {
        for (int i = 0; i < 33; ++i) r.add_failures()->set_version("1");
      },
      [](auto& r) { r.add_failures()->set_message(std::string(513, 'x')); },
      [](auto& r) {
        for (int i = 0; i < 9; ++i) r.add_findings()->set_reason("JOURNAL_SHORT");
      },
      [](auto& r) { r.add_findings()->set_reason(std::string(65, 'x')); },
      [](auto& r) { r.add_findings()->set_message(std::string(513, 'x')); },
      [](auto& r) { r.mutable_fetch()->set_fetched_bytes(1); },
      [](auto& r) { r.mutable_fetch()->set_size_bytes((1ull << 40) + 1); },
  };
  for (std::size_t i = 0; i < breaks.size(); ++i) {
    v1::CheckInRequest request = On("1");
    breaks[i](request);
    v1::CheckInResponse response;
    EXPECT_EQ(node->CheckIn(Context().get(), request, &response).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT)
        << i;
  }
  EXPECT_EQ(stores_->nodes().Get(Id(1))->last_seen, UnixMillis());
}

TEST_F(FlowTest, RolloutNeedsAReleaseNodesAndWaves) {
  const auto fleet = FleetStub("operator");
  EXPECT_EQ(ReasonOf(Create(*fleet, "2", {}).status()), Reason::kReleaseUnknown);
  Publish({"2"});
  EXPECT_EQ(ReasonOf(Create(*fleet, "2", {}).status()), Reason::kSelectorMatchesNothing);
  EnrolNode(1, {{"site", "lab"}});
  EXPECT_EQ(ReasonOf(Create(*fleet, "2", {}, "site=other").status()), Reason::kSelectorMatchesNothing);
  EXPECT_EQ(ReasonOf(Create(*fleet, "2", {}, "site").status()), Reason::kSelectorInvalid);
  EXPECT_EQ(ReasonOf(Create(*fleet, "2", {"0"}).status()), Reason::kWavesInvalid);
  EXPECT_TRUE(Create(*fleet, "2", {}, "site=lab").ok());
  EXPECT_EQ(ReasonOf(Create(*fleet, "2", {}).status()), Reason::kRolloutOverlaps);
}

TEST_F(FlowTest, RolloutIsCreatedThoughAnotherCannotBeRead) {
  EnrolNode(1, {{"site", "a"}});
  EnrolNode(2, {{"site", "b"}});
  Publish({"2"});
  const auto fleet = FleetStub("operator");
  ASSERT_TRUE(Create(*fleet, "2", {}, "site=a").ok());
  ASSERT_TRUE(stores_->db()
                  .Write([](SqliteConnection& connection) -> Status {
                    SEALIFT_ASSIGN_OR_RETURN(auto cut, connection.Prepare("DELETE FROM rollout_waves"));
                    return cut.Run().status();
                  })
                  .ok());
  const auto created = Create(*fleet, "2", {}, "site=b");
  ASSERT_TRUE(created.ok()) << Describe(created.status());
  EXPECT_EQ(created->waves(0).nodes_size(), 1);
}

TEST_F(FlowTest, ListOfRolloutsIsShortAndHasCountsForNodes) {
  EnrolNode(1, {{"site", "a"}});
  EnrolNode(2, {{"site", "b"}});
  Publish({"2"});
  const auto fleet = FleetStub("operator");
  ASSERT_TRUE(Create(*fleet, "2", {}, "site=a").ok());
  const auto newest = Create(*fleet, "2", {}, "site=b");
  ASSERT_TRUE(newest.ok());
  v1::ListRolloutsRequest request;
  v1::ListRolloutsResponse all;
  ASSERT_TRUE(fleet->ListRollouts(Context().get(), request, &all).ok());
  EXPECT_EQ(all.rollouts_size(), 2);
  request.set_page_size(1);
  v1::ListRolloutsResponse one;
  ASSERT_TRUE(fleet->ListRollouts(Context().get(), request, &one).ok());
  ASSERT_EQ(one.rollouts_size(), 1);
  EXPECT_EQ(one.rollouts(0).id(), newest->id());
  EXPECT_EQ(one.rollouts(0).waves(0).nodes_size(), 0);
  EXPECT_EQ(one.rollouts(0).waves(0).counts().updating(), 1u);
  EXPECT_EQ(newest->waves(0).nodes_size(), 1);
  EXPECT_EQ(newest->waves(0).counts().updating(), 1u);
}

TEST_F(FlowTest, EveryChangeIsInTheAuditLogWithWhoAndOutcome) {
  const auto approver = FleetStub("approver");
  v1::AdmitEkRequest admit;
  admit.set_ek_digest(std::string(32, '\7'));
  admit.set_note("rack 3\nforged line");
  v1::AdmitEkResponse admitted;
  ASSERT_TRUE(approver->AdmitEk(Context().get(), admit, &admitted).ok());
  admit.set_ek_digest("short");
  EXPECT_FALSE(approver->AdmitEk(Context().get(), admit, &admitted).ok());
  EXPECT_TRUE(stores_->admission().Find(*Sha256Digest::FromBytes(Bytes(32, 7)))->has_value());
  v1::ListAuditRequest list;
  v1::ListAuditResponse entries;
  ASSERT_TRUE(FleetStub("viewer")->ListAudit(Context().get(), list, &entries).ok());
  ASSERT_EQ(entries.entries_size(), 2);
  EXPECT_EQ(entries.entries(0).operator_name(), "anna");
  EXPECT_EQ(entries.entries(0).role(), "approver");
  EXPECT_EQ(entries.entries(0).rpc(), "/sealift.v1.FleetService/AdmitEk");
  EXPECT_EQ(entries.entries(0).outcome(), "OK");
  EXPECT_EQ(entries.entries(0).request().find('\n'), std::string::npos);
  EXPECT_EQ(entries.entries(1).outcome(), "MALFORMED");
}

TEST_F(FlowTest, EverythingIsThereAfterARestart) {
  EnrolNode(1);
  Publish({"2"});
  const auto rollout = Create(*FleetStub("operator"), "2", {});
  ASSERT_TRUE(rollout.ok());
  server_.reset();
  stores_.reset();
  Start();
  EXPECT_EQ(CheckIn(*NodeStub(1), On("1")).desired().version(), "2");
}

TEST_F(FlowTest, StopEndsAWatchAndThenNothingListens) {
  EnrolNode(1);
  Publish({"2"});
  const auto rollout = Create(*FleetStub("operator"), "2", {});
  ASSERT_TRUE(rollout.ok());
  const auto viewer = FleetStub("viewer");
  const auto context = Context();
  v1::GetRolloutRequest request;
  request.set_id(rollout->id());
  const auto stream = viewer->WatchRollout(context.get(), request);
  v1::Rollout state;
  ASSERT_TRUE(stream->Read(&state));
  server_->Stop();
  while (stream->Read(&state)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  v1::ListNodesResponse nodes;
  EXPECT_EQ(viewer->ListNodes(Context().get(), v1::ListNodesRequest(), &nodes).error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace sealift::controller
