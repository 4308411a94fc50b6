// Evidence does not grow without bound, and what goes is told.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "controller/store/sqlite_stores.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"

namespace sealift::controller {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kKeep = 10;

class EvidenceLimitsTest : public ::testing::Test {
 protected:
  static NodeId Id(int number) {
    return NodeId::Parse(fmt::format("01890000-0000-7000-8000-{:012}", number)).value();
  }
  void Open(std::size_t keep) {
    stores_.reset();
    stores_ = SqliteStores::Open(dir_.path(), {.keep = keep}).value();
  }
  void Keep(int node, int number, Trust trust = Trust::kTrusted, const std::string& log = "the log of most") {
    ASSERT_TRUE(stores_->evidence()
                    .Append({.node_id = Id(node),
                             .verdict = {.trust = trust, .decided = FromUnixMs(1000 + number)},
                             .attest = ToBytes(fmt::format("attest {} {}", node, number)),
                             .signature = {1},
                             .event_log = ToBytes(log),
                             .expected = ToBytes("expected of all")})
                    .ok());
  }
  std::vector<EvidenceRecord> History(int node) {
    return stores_->evidence().History(Id(node), 100'000).value();
  }
  bool HasFile(std::string_view content) const {
    return std::filesystem::exists(dir_.path() / "evidence" / Sha256(AsBytes(content)).hex());
  }

  const TempDir dir_ = TempDir::Create("evidence").value();
  std::unique_ptr<SqliteStores> stores_;
};

TEST_F(EvidenceLimitsTest, TheNewestAndTheChangesStayAndOneLineTellsOfManyThatWent) {
  Open(kKeep);
  for (int i = 0; i < 8; ++i) Keep(1, i, i == 4 ? Trust::kUntrusted : Trust::kTrusted);
  for (int i = 0; i < 500; ++i) {
    Keep(2, i, Trust::kTrusted, fmt::format("log {}", i));
    ASSERT_LE(History(2).size(), kKeep + kKeep / 2 + 1);
  }
  // The other node's are untouched: 8, of which three differ from the one before.
  EXPECT_EQ(History(1).size(), 8u);
  const auto kept = History(2);
  EXPECT_GE(kept.size(), kKeep + 1);
  EXPECT_EQ(ToText(kept.front().attest), "attest 2 499");
  // The first is a change: nothing was known before it.
  EXPECT_EQ(ToText(kept.back().attest), "attest 2 0");
  for (std::size_t i = 0; i < kKeep; ++i)
    EXPECT_EQ(ToText(kept[i].attest), fmt::format("attest 2 {}", 499 - i));
  // Each can still be judged again; the files of those that went are gone.
  EXPECT_TRUE(stores_->evidence().Get(Id(2), kept.back().sequence).ok());
  EXPECT_TRUE(HasFile("log 499"));
  EXPECT_TRUE(HasFile("log 0"));
  EXPECT_FALSE(HasFile("log 100"));
  EXPECT_TRUE(HasFile("expected of all"));
  const auto audit = stores_->audit().List(0, 10'000).value();
  ASSERT_FALSE(audit.empty());
  // Half as many as are kept go at a time.
  EXPECT_LE(audit.size(), 500u / (kKeep / 2) + 1);
  std::size_t told = 0;
  for (const AuditRecord& line : audit) {
    EXPECT_EQ(line.operator_name, "controller");
    EXPECT_EQ(line.rpc, "evidence archive");
    EXPECT_THAT(line.request, HasSubstr("node " + Id(2).text() + ": "));
    told += std::stoul(line.request.substr(line.request.find(": ") + 2));
  }
  EXPECT_EQ(told, 500 - kept.size());
}

TEST_F(EvidenceLimitsTest, EveryChangeStaysUntilThereAreTenTimesAsMany) {
  Open(kKeep);
  for (int i = 0; i < 100; ++i) Keep(1, i, i % 2 == 0 ? Trust::kTrusted : Trust::kUnknown);
  EXPECT_EQ(History(1).size(), 100u);
  EXPECT_TRUE(stores_->audit().List(0, 10)->empty());
  // A node that changes all the time does not fill the disk either.
  for (int i = 100; i < 1000; ++i) Keep(1, i, i % 2 == 0 ? Trust::kTrusted : Trust::kUnknown);
  EXPECT_LE(History(1).size(), 10 * kKeep + kKeep / 2);
}

TEST_F(EvidenceLimitsTest, TheDigestInTheLineIsThatOfWhatWent) {
  Open(2);
  for (int i = 0; i < 5; ++i) Keep(1, i);
  const auto audit = stores_->audit().List(0, 10).value();
  ASSERT_EQ(audit.size(), 1u);
  // Newest first: what went is 2 and 1; 0 is a change.
  std::string verdict;
  ASSERT_TRUE(stores_->db()
                  .Read([&](SqliteConnection& connection) -> Status {
                    SEALIFT_ASSIGN_OR_RETURN(auto query, connection.Prepare("SELECT verdict FROM evidence"));
                    SEALIFT_RETURN_IF_ERROR(query.Step().status());
                    verdict = query.TextAt(0);
                    return OkStatus();
                  })
                  .ok());
  Bytes said;
  for (const int number : {2, 1}) {
    Append(said, AsBytes(fmt::format("attest 1 {}", number)));
    std::string own = verdict;
    own.replace(own.find("1000"), 4, std::to_string(1000 + number));
    Append(said, AsBytes(own));
  }
  EXPECT_THAT(audit.front().request, HasSubstr("2 records of evidence removed, 2 to 3"));
  EXPECT_THAT(audit.front().request, HasSubstr(Sha256(said).hex()));
}

TEST_F(EvidenceLimitsTest, WithoutABoundNothingGoesAndTheNewestCannot) {
  Open(0);
  for (int i = 0; i < 50; ++i) Keep(1, i);
  EXPECT_EQ(History(1).size(), 50u);
  EXPECT_FALSE(stores_->db()
                   .Write([](SqliteConnection& connection) {
                     return connection.Script("DELETE FROM evidence WHERE sequence = 50");
                   })
                   .ok());
  EXPECT_FALSE(stores_->db()
                   .Write([](SqliteConnection& connection) {
                     return connection.Script("UPDATE evidence SET verdict = '{}'");
                   })
                   .ok());
  // A bound that comes later takes what is too much at once.
  Open(kKeep);
  Keep(1, 50);
  EXPECT_EQ(History(1).size(), kKeep + 1);
}

}  // namespace
}  // namespace sealift::controller
