#include "controller/store/sqlite_stores.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <set>

#include "shared/base/files.h"
#include "tests/contract/store_contract.h"

namespace sealift::controller {
namespace {

class SqliteBackend final : public StoreBackend {
 public:
  SqliteBackend(TempDir dir, std::unique_ptr<SqliteStores> stores)
      : dir_(std::move(dir)), stores_(std::move(stores)) {}
  NodeStore& nodes() override { return stores_->nodes(); }
  NodeStatusStore& node_status() override { return stores_->node_status(); }
  RolloutStore& rollouts() override { return stores_->rollouts(); }
  ReleaseStore& releases() override { return stores_->releases(); }
  AdmissionStore& admission() override { return stores_->admission(); }
  EvidenceStore& evidence() override { return stores_->evidence(); }
  AuditStore& audit() override { return stores_->audit(); }
  CertificateStore& certificates() override { return stores_->certificates(); }
  RequestStore& requests() override { return stores_->requests(); }
  EscrowStore& escrow() override { return stores_->escrow(); }

 private:
  TempDir dir_;
  std::unique_ptr<SqliteStores> stores_;
};

std::unique_ptr<StoreBackend> MakeSqliteBackend() {
  auto dir = TempDir::Create("store");
  if (!dir.ok()) return nullptr;
  auto stores = SqliteStores::Open(dir->path());
  if (!stores.ok()) return nullptr;
  return std::make_unique<SqliteBackend>(std::move(dir).value(), std::move(stores).value());
}

INSTANTIATE_TEST_SUITE_P(Sqlite, StoreContract, ::testing::Values(&MakeSqliteBackend));

class SqliteStoresTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto dir = TempDir::Create("store");
    ASSERT_TRUE(dir.ok());
    dir_.emplace(std::move(dir).value());
  }
  std::unique_ptr<SqliteStores> Open() {
    auto stores = SqliteStores::Open(dir_->path());
    EXPECT_TRUE(stores.ok()) << Describe(stores.status());
    return stores.ok() ? std::move(stores).value() : nullptr;
  }
  std::optional<TempDir> dir_;
};

AuditRecord Entry(std::string request) {
  return {.operator_name = "anna",
          .role = "operator",
          .rpc = "/x/Y",
          .request = std::move(request),
          .outcome = "OK"};
}

TEST_F(SqliteStoresTest, RowsSurviveReopening) {
  ASSERT_TRUE(Open()->audit().Append(Entry("first")).ok());
  EXPECT_EQ(Open()->audit().List(0, 10)->size(), 1u);
}

TEST_F(SqliteStoresTest, DatabaseIsForItsOwnerOnly) {
  const auto stores = Open();
  ASSERT_TRUE(stores->audit().Append(Entry("x")).ok());
  for (const char* name : {"controller.db", "controller.db-wal", "controller.db-shm"}) {
    const auto mode = std::filesystem::status(dir_->path() / name).permissions();
    EXPECT_EQ(mode & (std::filesystem::perms::group_all | std::filesystem::perms::others_all),
              std::filesystem::perms::none)
        << name;
  }
}

TEST_F(SqliteStoresTest, AuditAndEvidenceCannotBeChangedEvenBySql) {
  const auto stores = Open();
  ASSERT_TRUE(stores->audit().Append(Entry("x")).ok());
  const auto id = NodeId::Parse("01890000-0000-7000-8000-000000000001");
  ASSERT_TRUE(stores->evidence().Append({*id, {}, {1}, {2}, {3}}).ok());
  for (const char* sql : {"DELETE FROM audit", "UPDATE audit SET request = 'y'", "DELETE FROM evidence",
                          "UPDATE evidence SET attest = signature"}) {
    EXPECT_FALSE(stores->db().Write([&](SqliteConnection& c) { return c.Script(sql); }).ok()) << sql;
  }
  EXPECT_EQ((*stores->audit().List(0, 10))[0].request, "x");
}

TEST_F(SqliteStoresTest, ChangedEventLogIsNoticed) {
  const auto stores = Open();
  const auto id = NodeId::Parse("01890000-0000-7000-8000-000000000001");
  ASSERT_TRUE(stores->evidence().Append({*id, {}, {1}, {2}, {3}}).ok());
  for (const auto& file : std::filesystem::directory_iterator(dir_->path() / "evidence")) {
    std::ofstream(file.path()) << "other";
  }
  EXPECT_EQ(stores->evidence().History(*id, 1).status().code(), Code::kDataLoss);
}

TEST_F(SqliteStoresTest, DatabaseOfANewerVersionIsLeftAlone) {
  ASSERT_TRUE(Open()
                  ->db()
                  .Write([](SqliteConnection& c) {
                    return c.Script(
                        "INSERT INTO schema_migrations (version, name) VALUES (999, 'from the future')");
                  })
                  .ok());
  EXPECT_EQ(ReasonOf(SqliteStores::Open(dir_->path()).status()), Reason::kStoreTooNew);
}

TEST_F(SqliteStoresTest, FailedMigrationLeavesTheOldSchema) {
  const auto path = dir_->path() / "m.db";
  const std::vector<Migration> first = {{1, "one", "CREATE TABLE a (x BIGINT)"}};
  ASSERT_TRUE(SqliteDb::Open(path, first).ok());
  std::vector<Migration> broken = first;
  broken.push_back({2, "two", "CREATE TABLE b (x BIGINT); CREATE TABLE a (x BIGINT)"});
  EXPECT_FALSE(SqliteDb::Open(path, broken).ok());
  const auto db = SqliteDb::Open(path, first);
  ASSERT_TRUE(db.ok());
  EXPECT_FALSE((*db)->Read([](SqliteConnection& c) { return c.Prepare("SELECT x FROM b").status(); }).ok());
}

TEST_F(SqliteStoresTest, GarbageIsNotADatabase) {
  std::ofstream(dir_->path() / "controller.db") << std::string(8192, 'x');
  EXPECT_EQ(ReasonOf(SqliteStores::Open(dir_->path()).status()), Reason::kStoreFailed);
}

// A child writes from several threads and tells each row after its commit; it is killed in the middle. Every
// row that was told must be there, and the file must be whole.
TEST_F(SqliteStoresTest, KilledInMidWriteLosesNothingThatWasAcknowledged) {
  for (int round = 0; round < 3; ++round) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto stores = SqliteStores::Open(dir_->path());
      if (!stores.ok()) _exit(1);
      std::vector<std::jthread> threads;
      for (std::uint32_t t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
          for (std::uint32_t i = 0;; ++i) {
            const std::uint32_t number = (static_cast<std::uint32_t>(round) << 28) | (t << 24) | i;
            if (!(*stores)->audit().Append(Entry(std::to_string(number))).ok()) _exit(2);
            if (write(pipe_ends[1], &number, sizeof number) != sizeof number) _exit(3);
          }
        });
      }
      threads.clear();
      _exit(4);
    }
    close(pipe_ends[1]);
    std::vector<std::uint32_t> told;
    std::uint32_t number = 0;
    while (read(pipe_ends[0], &number, sizeof number) == sizeof number) {
      told.push_back(number);
      // Keep draining after the kill: what is in the pipe was acknowledged too.
      if (told.size() == 300) kill(child, SIGKILL);
    }
    close(pipe_ends[0]);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself: " << WEXITSTATUS(status);
    ASSERT_GE(told.size(), 300u);

    const auto stores = Open();
    EXPECT_EQ(*stores->db().CheckIntegrity(), "ok");
    std::set<std::string> stored;
    const auto rows = stores->audit().List(0, 1'000'000);
    ASSERT_TRUE(rows.ok());
    for (const AuditRecord& row : *rows) stored.insert(row.request);
    for (const std::uint32_t row : told) ASSERT_TRUE(stored.contains(std::to_string(row))) << row;
  }
}

}  // namespace
}  // namespace sealift::controller
