// The state store as a model and on SQLite, and a state partition that tells lies.
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "node-agent/update/state_place.h"
#include "node-agent/update/state_store_sqlite.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "tests/contract/memory_state_store.h"
#include "tests/contract/state_store_contract.h"
#include "tests/support/status_matchers.h"

namespace sealift::agent {
namespace {

namespace fs = std::filesystem;
using test::ReasonIdFrom;

StateUnderTest MakeMemoryStates() {
  auto disk = std::make_shared<MemoryStateDisk>();
  return {[disk] { return std::make_unique<MemoryStateStore>(disk); }};
}

StateUnderTest MakeSqliteStates() {
  auto folder = std::make_shared<TempDir>(TempDir::Create("sealift-state").value());
  return {[folder] {
    auto store = SqliteStateStore::Open(folder->path() / "state.db");
    SEALIFT_CHECK(store.ok());
    return std::unique_ptr<StateStore>(*std::move(store));
  }};
}

INSTANTIATE_TEST_SUITE_P(Memory, StateStoreContract, testing::Values(MakeMemoryStates));
INSTANTIATE_TEST_SUITE_P(Sqlite, StateStoreContract, testing::Values(MakeSqliteStates));

class SqliteState : public testing::Test {
 protected:
  SqliteState() { log::SetLevel(log::Level::kError); }

  // A state with something in it, closed.
  void Fill() {
    auto store = SqliteStateStore::Open(file_);
    ASSERT_TRUE(store.ok()) << store.status();
    StateChange change;
    change.record = UpdateRecord{.state = UpdateState::kStaged, .channel = "stable", .version = "2.0"};
    change.remember = VersionFailure{.version = "1.5", .reason = "FELL_BACK"};
    ASSERT_TRUE((*store)->Commit(change).ok());
  }
  // As somebody with the disk in hand does.
  void Sql(const std::string& text) {
    sqlite3* raw = nullptr;
    ASSERT_EQ(sqlite3_open(file_.c_str(), &raw), SQLITE_OK);
    char* message = nullptr;
    EXPECT_EQ(sqlite3_exec(raw, text.c_str(), nullptr, nullptr, &message), SQLITE_OK) << message;
    sqlite3_free(message);
    sqlite3_close(raw);
  }
  std::string OpenAndLoad() {
    auto store = SqliteStateStore::Open(file_);
    if (!store.ok()) return ReasonIdFrom(store);
    return ReasonIdFrom((*store)->Load());
  }

  TempDir folder_ = TempDir::Create("sealift-state").value();
  fs::path file_ = folder_.path() / "state.db";
};

TEST_F(SqliteState, RefusesValuesThatAreNotWellFormed) {
  for (const char* lie : {
           "UPDATE update_record SET state = 99",
           "UPDATE update_record SET state = 10",
           "UPDATE update_record SET state = 'STAGED'",
           "UPDATE update_record SET version = '../x'",
           "UPDATE update_record SET version = ''",
           "UPDATE update_record SET image_digest = x'00'",
           "UPDATE update_record SET release_id = 'text'",
           "UPDATE update_record SET image_size = -1",
           "UPDATE update_record SET attempts = 9223372036854775807",
           "UPDATE update_record SET report_due = 2",
           "UPDATE update_record SET since_ms = 9223372036854775807",
           "UPDATE update_record SET message = printf('%.*c', 5000, 'x')",
           "UPDATE update_record SET boot_id = cast(x'00410a' AS TEXT)",
           "UPDATE version_failure SET version = 'a b'",
           "UPDATE version_failure SET reason = ''",
           "UPDATE version_failure SET at_unix_ms = 'now'",
           "UPDATE node_fact SET permitted_rollback = '..'",
           "UPDATE node_fact SET time_floor_unix_ms = -5",
           "INSERT INTO blessed_boots VALUES (1, x'00', 1, 'b')",
           "INSERT INTO blessed_boots VALUES (1, zeroblob(32), -1, 'b')",
           "INSERT INTO blessed_boots VALUES (1, zeroblob(32), 1, x'00')",
           "DELETE FROM node_fact",
       }) {
    fs::remove(file_);
    Fill();
    Sql(lie);
    EXPECT_EQ(OpenAndLoad(), "STATE_CORRUPT") << lie;
  }
}

TEST_F(SqliteState, RefusesTablesThatAreNotItsOwn) {
  for (const char* lie : {
           "CREATE TABLE more (x)",
           "CREATE TRIGGER t AFTER INSERT ON update_record BEGIN DELETE FROM version_failure; END",
           "CREATE VIEW v AS SELECT 1",
           "DROP TABLE version_failure",
           "DROP TABLE update_record; CREATE VIEW update_record AS SELECT 1 AS id",
           "ALTER TABLE node_fact ADD COLUMN x",
           "PRAGMA user_version = 0",
       }) {
    fs::remove(file_);
    Fill();
    Sql(lie);
    EXPECT_EQ(OpenAndLoad(), "STATE_CORRUPT") << lie;
  }
}

TEST_F(SqliteState, RefusesTheStateOfANewerAgent) {
  Fill();
  Sql("PRAGMA user_version = 3");
  EXPECT_EQ(OpenAndLoad(), "STATE_TOO_NEW");
}

TEST_F(SqliteState, RefusesWhatIsNoDatabase) {
  ASSERT_TRUE(WriteFileAtomically(file_, AsBytes(std::string(8192, 'x'))).ok());
  EXPECT_EQ(OpenAndLoad(), "STATE_CORRUPT");
  fs::remove(file_);
  fs::create_directory(file_);
  EXPECT_EQ(OpenAndLoad(), "STATE_CORRUPT");
  fs::remove(file_);
  fs::create_symlink("/dev/zero", file_);
  EXPECT_EQ(OpenAndLoad(), "STATE_CORRUPT");
  fs::remove(file_);
  fs::create_directory(file_.string() + "-wal");
  EXPECT_EQ(OpenAndLoad(), "STATE_CORRUPT");
  fs::remove(file_.string() + "-wal");
  ASSERT_EQ(std::ofstream(file_).good(), true);
  fs::resize_file(file_, kMaxStateFileBytes + 1);
  EXPECT_EQ(OpenAndLoad(), "STATE_CORRUPT");
}

// Every byte of the file once wrong: an error or a state, never a crash, and never an unreadable value.
TEST_F(SqliteState, SurvivesAnyDamagedByte) {
  Fill();
  const Bytes good = ReadFile(file_).value();
  int refused = 0;
  for (std::size_t at = 0; at < good.size(); at += at < 200 ? 1 : 61) {
    for (const unsigned flip : {0x01u, 0xffu}) {
      Bytes bad = good;
      bad[at] = static_cast<std::uint8_t>((bad[at] ^ flip) & 0xff);
      std::ofstream(file_, std::ios::binary)
          .write(reinterpret_cast<const char*>(bad.data()), static_cast<std::streamsize>(bad.size()));
      fs::remove(file_.string() + "-wal");
      const std::string reason = OpenAndLoad();
      EXPECT_TRUE(reason == "NONE" || reason == "STATE_CORRUPT" || reason == "STATE_TOO_NEW" ||
                  reason == "STATE_IO")
          << reason << " at " << at;
      if (reason != "NONE") ++refused;
    }
  }
  EXPECT_GT(refused, 10);
}

TEST_F(SqliteState, IsHeldByOneProcessOnly) {
  auto first = SqliteStateStore::Open(file_);
  ASSERT_TRUE(first.ok());
  auto second = SqliteStateStore::Open(file_);
  EXPECT_EQ(ReasonIdFrom(second), "STATE_IO");
  first->reset();
  EXPECT_TRUE(SqliteStateStore::Open(file_).ok());
}

TEST_F(SqliteState, IsReadableByTheCommandLineToolToo) {
  Fill();
  Sql("PRAGMA integrity_check");
  sqlite3* raw = nullptr;
  ASSERT_EQ(sqlite3_open(file_.c_str(), &raw), SQLITE_OK);
  sqlite3_stmt* mode = nullptr;
  ASSERT_EQ(sqlite3_prepare_v2(raw, "PRAGMA journal_mode", -1, &mode, nullptr), SQLITE_OK);
  ASSERT_EQ(sqlite3_step(mode), SQLITE_ROW);
  EXPECT_STREQ(reinterpret_cast<const char*>(sqlite3_column_text(mode, 0)), "wal");
  sqlite3_finalize(mode);
  sqlite3_close(raw);
}

// ---- the place ----

TEST_F(SqliteState, PutsABrokenStateAsideAndBeginsAnew) {
  MountedStatePlace place(folder_.path(), folder_.path() / "sealift");
  fs::create_directory(folder_.path() / "sealift");
  file_ = place.database_file();
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(WriteFileAtomically(file_, AsBytes(std::string(8192, 'x'))).ok());
    auto opened = place.Open();
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ(ReasonIdFrom(opened->put_aside), "STATE_CORRUPT");
    EXPECT_TRUE(opened->store->Load()->fresh);
    EXPECT_EQ(fs::file_size(file_.string() + ".aside"), 8192u);
  }
  auto again = place.Open();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->put_aside.ok());
}

TEST_F(SqliteState, PutsTheStateOfANewerAgentAside) {
  MountedStatePlace place(folder_.path(), folder_.path());
  Fill();
  Sql("PRAGMA user_version = 9");
  auto opened = place.Open();
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(ReasonIdFrom(opened->put_aside), "STATE_TOO_NEW");
}

// Clearing "content" through a link to the ESP would remove every image.
TEST(StatePlace, FollowsNoLinkBelowTheMountPoint) {
  const TempDir folder = TempDir::Create("sealift-place").value();
  const fs::path elsewhere = folder.path() / "elsewhere";
  const fs::path state = folder.path() / "state";
  fs::create_directory(elsewhere);
  MountedStatePlace place("/proc", state);
  EXPECT_TRUE(place.CheckMounted().ok());
  fs::create_directory_symlink(elsewhere, state);
  EXPECT_EQ(ReasonIdFrom(place.CheckMounted()), "STATE_MISSING");
  fs::remove(state);
  fs::create_directory(state);
  for (const fs::path& inside :
       {place.metadata_directory(), place.content_directory(), place.manifests_directory()}) {
    EXPECT_TRUE(place.CheckMounted().ok());
    fs::create_directory_symlink(elsewhere, inside);
    EXPECT_EQ(ReasonIdFrom(place.CheckMounted()), "STATE_MISSING") << inside;
    fs::remove(inside);
    ASSERT_EQ(::mkfifo(inside.c_str(), 0600), 0);
    EXPECT_EQ(ReasonIdFrom(place.CheckMounted()), "STATE_MISSING") << inside;
    fs::remove(inside);
    fs::create_directory(inside);
  }
  EXPECT_TRUE(place.CheckMounted().ok());
  // The same between the mount point and the folder: /proc/self is a link.
  EXPECT_EQ(ReasonIdFrom(MountedStatePlace("/proc", "/proc/self/x").CheckMounted()), "STATE_MISSING");
}

TEST(StatePlace, KnowsAMountedFileSystemThatLasts) {
  const TempDir folder = TempDir::Create("sealift-place").value();
  EXPECT_EQ(ReasonIdFrom(MountedStatePlace(folder.path(), folder.path()).CheckMounted()), "STATE_MISSING");
  EXPECT_EQ(ReasonIdFrom(MountedStatePlace(folder.path() / "no", folder.path()).CheckMounted()),
            "STATE_MISSING");
  // A file system of its own, and not in memory as far as its kind tells.
  EXPECT_TRUE(MountedStatePlace("/proc", "/proc/x").CheckMounted().ok());
  if (fs::exists("/dev/shm")) {
    EXPECT_EQ(ReasonIdFrom(MountedStatePlace("/dev/shm", "/dev/shm/x").CheckMounted()), "STATE_MISSING");
  }
}

}  // namespace
}  // namespace sealift::agent
