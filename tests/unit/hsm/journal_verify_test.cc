#include "hsm/journal_verify.h"

#include <nlohmann/json.hpp>

#include "shared/tuf/metadata.h"
#include "tests/unit/hsm/journal_fixture.h"

namespace sealift::hsm {
namespace {

class JournalVerifyTest : public JournalTest {
 protected:
  void SetUp() override {
    const auto journal = Open();
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(Use(*journal, "early " + std::to_string(i)).ok());
    early_ = journal->Checkpoint().value().value();
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(Use(*journal, "late " + std::to_string(i)).ok());
    late_ = journal->Checkpoint().value().value();
    lines_ = Lines();
    ASSERT_EQ(lines_.size(), 15u);
    ASSERT_EQ(early_.sequence, 7u);
    ASSERT_EQ(late_.sequence, 14u);
  }
  // Of record `sequence`.
  std::string& Line(std::uint64_t sequence) { return lines_[sequence - 1]; }
  void Remove(std::uint64_t sequence) {
    lines_.erase(lines_.begin() + static_cast<std::ptrdiff_t>(sequence) - 1);
  }
  // What somebody does who knows the format: every line after the change is written to follow it.
  void Chain() {
    Sha256Digest previous;
    std::uint64_t sequence = 0;
    for (std::string& line : lines_) {
      auto record = JournalRecord::Parse(line).value();
      record.sequence = ++sequence;
      record.previous = previous;
      line = record.Line();
      previous = Sha256(AsBytes(line));
    }
  }

  JournalCheckpoint early_;
  JournalCheckpoint late_;
  std::vector<std::string> lines_;
};

TEST_F(JournalVerifyTest, AWholeJournalAgreesWithItsCheckpoints) {
  EXPECT_EQ(Finding({early_, late_}), "none");
  const auto report = Verify({early_, late_});
  EXPECT_EQ(report->proven_up_to, 14u);
  EXPECT_EQ(report->agreed, 2u);
  EXPECT_EQ(report->records, 15u);
}

TEST_F(JournalVerifyTest, EveryEditedRecordIsFound) {
  const auto whole = lines_;
  for (std::uint64_t sequence = 1; sequence <= 14; ++sequence) {
    lines_ = whole;
    auto record = JournalRecord::Parse(Line(sequence)).value();
    record.at += std::chrono::milliseconds(1);
    Line(sequence) = record.Line();
    Write(lines_);
    EXPECT_EQ(Finding(), "edited " + std::to_string(sequence));
    Line(sequence)[3] ^= 1;
    Write(lines_);
    EXPECT_EQ(Finding(), "edited " + std::to_string(sequence));
  }
}

TEST_F(JournalVerifyTest, EveryRemovedRecordIsFound) {
  const auto whole = lines_;
  for (std::uint64_t sequence = 2; sequence <= 14; ++sequence) {
    lines_ = whole;
    Remove(sequence);
    Write(lines_);
    EXPECT_EQ(Finding(), "removed " + std::to_string(sequence));
    EXPECT_EQ(Verify()->findings.front().reason(), Reason::kJournalDamaged);
  }
  lines_ = whole;
  Remove(1);
  Write(lines_);
  EXPECT_EQ(Finding(), "removed 1");
}

TEST_F(JournalVerifyTest, EveryChangeOfOrderIsFound) {
  const auto whole = lines_;
  for (std::uint64_t sequence = 2; sequence <= 13; ++sequence) {
    lines_ = whole;
    std::swap(Line(sequence), Line(sequence + 1));
    Write(lines_);
    EXPECT_EQ(Finding(), "reordered " + std::to_string(sequence));
  }
  lines_ = whole;
  lines_.insert(lines_.begin() + 5, lines_[2]);
  Write(lines_);
  EXPECT_EQ(Finding(), "reordered 6");
}

TEST_F(JournalVerifyTest, AChainWrittenAnewDoesNotFitItsCheckpoints) {
  const auto whole = lines_;
  auto record = JournalRecord::Parse(Line(4)).value();
  std::get<JournalIntent>(record.body).intent = "harmless";
  Line(4) = record.Line();
  Chain();
  Write(lines_);
  EXPECT_EQ(Finding(), "edited 7");
  EXPECT_EQ(Finding({early_}), "edited 7");

  lines_ = whole;
  Remove(4);
  Remove(4);
  Chain();
  Write(lines_);
  EXPECT_EQ(Verify()->findings.front().kind, JournalFindingKind::kEdited);

  // With checkpoints that fit, but by another key.
  lines_ = whole;
  const auto stranger = SoftwareSigner::Generate(KeyType::kEcP256).value();
  record = JournalRecord::Parse(Line(8)).value();
  auto& checkpoint = std::get<JournalCheckpoint>(record.body);
  checkpoint.key_id = stranger->public_key().key_id();
  checkpoint.signature = stranger->SignMessage(checkpoint.SignedBytes(), "forged").value();
  Line(8) = record.Line();
  Chain();
  Write(lines_);
  EXPECT_EQ(Finding(), "edited 8");
  // And claiming to be by ours.
  checkpoint.key_id = key_->public_key().key_id();
  Line(8) = record.Line();
  Chain();
  Write(lines_);
  EXPECT_EQ(Finding(), "edited 8");
}

TEST_F(JournalVerifyTest, ACutIsFoundByACheckpointSeenElsewhere) {
  for (const std::size_t size : {std::size_t{13}, std::size_t{10}, std::size_t{8}, std::size_t{7}}) {
    lines_.resize(size);
    Write(lines_);
    EXPECT_EQ(Finding(), "none");
    EXPECT_EQ(Finding({late_}), "cut " + std::to_string(size + 1));
    EXPECT_EQ(Verify({late_})->findings.front().reason(), Reason::kJournalShort);
  }
  // Cut at the earlier checkpoint, the later one finds it and the earlier one does not.
  lines_.resize(7);
  Write(lines_);
  EXPECT_EQ(Finding({early_}), "none");
}

TEST_F(JournalVerifyTest, ACutThatWasWrittenOnIsAFork) {
  lines_.resize(8);
  Write(lines_);
  {
    const auto journal = Open();
    for (int i = 0; i < 8; ++i) ASSERT_TRUE(Use(*journal, "other").ok());
  }
  EXPECT_EQ(Finding(), "none");
  EXPECT_EQ(Finding({early_}), "none");
  EXPECT_EQ(Finding({early_, late_}), "forked 14");
  EXPECT_EQ(Verify({late_})->findings.front().reason(), Reason::kJournalForked);
}

TEST_F(JournalVerifyTest, AJournalPutInItsPlaceIsAFork) {
  std::filesystem::remove(file());
  {
    const auto journal = Open();
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(Use(*journal, "other").ok());
  }
  EXPECT_EQ(Finding({early_}), "forked 7");
}

TEST_F(JournalVerifyTest, WithoutAKeyNothingIsProvenAndTheChainIsStillChecked) {
  const auto report = VerifyJournal(file(), {});
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->findings.empty());
  EXPECT_EQ(report->proven_up_to, 0u);
  Remove(4);
  Write(lines_);
  EXPECT_FALSE(VerifyJournal(file(), {})->findings.empty());
}

TEST_F(JournalVerifyTest, AGivenCheckpointMustBeSigned) {
  JournalCheckpoint forged = late_;
  forged.sequence = 1000;
  EXPECT_EQ(ReasonOf(Verify({forged}).status()), Reason::kSignatureInvalid);
}

TEST_F(JournalVerifyTest, CheckpointsAreFoundWhereTheyTravel) {
  const auto found = [](const std::string& text) {
    const auto all = FindCheckpoints(text);
    EXPECT_TRUE(all.ok()) << Describe(all.status());
    std::string sequences;
    for (const JournalCheckpoint& one : all.value_or(std::vector<JournalCheckpoint>{})) {
      sequences += std::to_string(one.sequence) + (one.key_id.has_value() ? " signed " : " bare ");
    }
    return sequences;
  };
  EXPECT_EQ(found(late_.Json()), "14 signed ");
  const tuf::Timestamp timestamp{.journal_checkpoint = late_.Json()};
  EXPECT_EQ(found(tuf::MakeEnvelope(timestamp).Serialize()), "14 signed ");
  JournalCheckpoint head = late_;
  head.key_id.reset();
  head.signature.clear();
  EXPECT_EQ(found(head.Json()), "14 bare ");
  tuf::Targets targets;
  targets.targets["a"].custom = R"({"x-sealift-journal":)" + early_.Json() + "}";
  targets.targets["b"].custom = R"({"x-sealift-journal":)" + head.Json() + "}";
  EXPECT_EQ(found(tuf::MakeEnvelope(targets).Serialize()), "7 signed 14 bare ");
  EXPECT_FALSE(FindCheckpoints("{}").ok());
  EXPECT_FALSE(FindCheckpoints("[]").ok());
  EXPECT_FALSE(FindCheckpoints("").ok());
  EXPECT_FALSE(FindCheckpoints(R"({"x-sealift-journal":{"sequence":1}})").ok());
}

TEST_F(JournalVerifyTest, OtherFilesAreNoJournal) {
  Write({"hello"});
  EXPECT_EQ(ReasonOf(Verify().status()), Reason::kJournalDamaged);
  Write({});
  EXPECT_EQ(ReasonOf(Verify().status()), Reason::kJournalDamaged);
  std::filesystem::remove(file());
  EXPECT_EQ(ReasonOf(Verify().status()), Reason::kFileUnreadable);
}

// --- the record itself

TEST(JournalRecordTest, HasOneFormOnly) {
  const JournalRecord record{.sequence = 2,
                             .at = FromUnixMs(1'700'000'000'000),
                             .body = JournalIntent{.key_name = "db-1", .intent = "a", .digest = {1, 2}}};
  const std::string line = record.Line();
  EXPECT_EQ(JournalRecord::Parse(line)->Line(), line);
  auto with_more = nlohmann::json::parse(line);
  with_more["note"] = "x";
  for (const std::string& other : {" " + line, line + " ", with_more.dump(), line.substr(0, line.size() - 1),
                                   std::string("{}"), std::string()}) {
    EXPECT_EQ(ReasonOf(JournalRecord::Parse(other).status()), Reason::kJournalDamaged) << other;
  }
}

TEST(JournalRecordTest, EveryKindIsCompactJsonWithMembersInOrder) {
  JournalCheckpoint checkpoint{.journal = std::string(32, 'a'), .sequence = 1, .open = {1}};
  const std::vector<JournalBody> bodies = {
      JournalBegin{.journal = std::string(32, 'a')},
      JournalKeyEvent{.event = "generated", .key_name = "db-1", .label = "label"},
      JournalIntent{.key_name = "db-1", .intent = "gr\xc3\xbc\xc3\x9f \"quoted\" \\", .digest = {1, 2}},
      JournalIntent{},
      JournalOutcome{.of = 1},
      JournalOutcome{.of = 1, .result = JournalResult::kFailed, .reason = "HSM_\"FAILED"},
      JournalOutcome{.of = 1, .result = JournalResult::kUnfinished},
      JournalRecovery{.cut_bytes = 1},
      checkpoint};
  for (const JournalBody& body : bodies) {
    const JournalRecord record{.sequence = 2, .at = FromUnixMs(1'700'000'000'000), .body = body};
    const std::string line = record.Line();
    EXPECT_EQ(nlohmann::json::parse(line).dump(), line);
    const auto again = JournalRecord::Parse(line);
    ASSERT_TRUE(again.ok()) << Describe(again.status()) << line;
    EXPECT_EQ(again->type(), record.type());
  }
}

TEST(JournalRecordTest, IntentsBecomeOneSafeLine) {
  EXPECT_EQ(CleanIntent("authenticode EFI/a.efi 1.2"), "authenticode EFI/a.efi 1.2");
  EXPECT_EQ(CleanIntent("two\nlines\x1b[0m \"quoted\" back\\slash"), "two?lines?[0m 'quoted' back?slash");
  EXPECT_EQ(CleanIntent("gr\xc3\xbc\xc3\x9f"), "gr\xc3\xbc\xc3\x9f");
  EXPECT_EQ(CleanIntent("bad \xff\xc3"), "bad ??");
  // Not cut within a character.
  EXPECT_EQ(CleanIntent(std::string(kMaxIntentBytes - 1, 'x') + "\xc3\xbc").size(), kMaxIntentBytes - 1);
  for (const std::string& text :
       {std::string("\xff\"\\\n"), std::string(5000, '\xc3'), std::string(1, '\0')}) {
    const JournalRecord record{.sequence = 1, .body = JournalIntent{.intent = CleanIntent(text)}};
    EXPECT_TRUE(JournalRecord::Parse(record.Line()).ok());
  }
}

}  // namespace
}  // namespace sealift::hsm
