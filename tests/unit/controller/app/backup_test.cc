// Backups of a controller that goes on publishing, and what a restored one is worth.
#include "controller/app/backup.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "controller/publish/release_publisher.h"
#include "controller/store/sqlite_backup.h"
#include "controller/store/sqlite_stores.h"
#include "shared/base/files.h"
#include "tests/unit/controller/publish/publish_fixture.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;

class BackupTest : public PublishTest {
 protected:
  BackupTest() {
    config_.state_dir = folder_.path();
    config_.journal = folder_.path() / "journal";
    stores_ = SqliteStores::Open(folder_.path()).value();
    Sql("INSERT INTO nodes VALUES ('n1', x'01', x'02', 2, '{}', 0, NULL, 0, 0, '', NULL, NULL, NULL, 0, "
        "NULL, "
        "NULL, NULL, NULL, 0);"
        "INSERT INTO node_check_ins VALUES ('n1', '{}', 0, x'aa', 99, 0);"
        "INSERT INTO rollouts VALUES ('r1', 'stable', '1.0', x'00', '', 1, 0, 0, 'op', NULL, '', 7);"
        "INSERT INTO rollouts VALUES ('r2', 'stable', '1.0', x'00', '', 4, 0, 0, 'op', NULL, '', 7);");
    for (int state = 1; state <= 6; ++state) {
      Sql(fmt::format(
          "INSERT INTO change_requests VALUES (NULL, 'q{0}', 'n1', '{{}}', x'0{0}', {0}, x'', x'', "
          "x'', x'', '', 0, 'signed order', NULL, 1, x'', 0)",
          state));
    }
    SEALIFT_CHECK(WriteFileAtomically(config_.journal, AsBytes("{\"sequence\":1}\n")).ok());
  }
  void Sql(const std::string& script) {
    const Status status =
        stores_->db().Write([&](SqliteConnection& connection) { return connection.Script(script.c_str()); });
    ASSERT_TRUE(status.ok()) << Describe(status);
  }
  std::int64_t Count(const char* sql) {
    std::int64_t count = -1;
    const Status status = stores_->db().Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query, connection.Prepare(sql));
      SEALIFT_RETURN_IF_ERROR(query.Step().status());
      count = query.IntegerAt(0);
      return OkStatus();
    });
    EXPECT_TRUE(status.ok()) << Describe(status);
    return count;
  }
  // The machine is lost, and another one gets the backup.
  void LoseAndRestore() {
    repository_.reset();
    content_.reset();
    stores_.reset();
    config_.state_dir = folder_.path() / "again";
    config_.journal = config_.state_dir / "journal";
    const auto restored = Restore(config_, backup_, {}, clock_);
    ASSERT_TRUE(restored.ok()) << Describe(restored.status());
    stores_ = SqliteStores::Open(config_.state_dir).value();
    content_ = ContentStore::Open(config_.state_dir / "content").value();
    repository_ = TufRepository::Open({.directory = config_.state_dir / "tuf"}, root_json_,
                                      {signers_[tuf::Role::kSnapshot], signers_[tuf::Role::kTimestamp]},
                                      *content_, clock_)
                      .value();
  }

  ControllerConfig config_;
  std::unique_ptr<SqliteStores> stores_;
  const fs::path backup_ = folder_.path() / "backup";
};

TEST_F(BackupTest, EveryNodeTakesTheNextReleaseOfARestoredController) {
  ASSERT_TRUE(Publish("1.0").ok());
  const auto made = BackUp(config_, backup_, clock_);
  ASSERT_TRUE(made.ok()) << Describe(made.status());
  EXPECT_EQ(made->targets_version, 1u);
  // Publications the backup does not know, seen by a node and the build host; another node saw none of them.
  tuf::MemoryStore slow_node;
  std::swap(slow_node, node_state_);
  ASSERT_TRUE(Refresh().ok());
  std::swap(slow_node, node_state_);
  ASSERT_TRUE(Publish("1.1").ok());
  ASSERT_TRUE(Publish("1.2").ok());
  ASSERT_TRUE(Refresh().ok());

  LoseAndRestore();
  EXPECT_EQ(repository_->Releases().size(), 1u);
  EXPECT_TRUE(repository_->LoadRelease("stable", "1.0").ok()) << "its content is there";
  LocalUploader uploader(*repository_, *content_);
  const auto published = PublishRelease(
      {.build_directory = Build("1.3"), .channel = "stable", .progress = {}, .after_restore = true},
      root_json_, state_, *signers_[tuf::Role::kTargets], uploader, clock_);
  ASSERT_TRUE(published.ok()) << Describe(published.status());
  EXPECT_GT(published->versions.timestamp, 1'000'000u);
  for (tuf::MemoryStore* node : {&node_state_, &slow_node}) {
    const auto seen = tuf::TufClient(root_json_, uploader.metadata(), *node, clock_).Refresh();
    ASSERT_TRUE(seen.ok()) << Describe(seen.status());
    EXPECT_TRUE(FindRelease(seen->targets(), "stable", "1.3").ok());
  }
}

TEST_F(BackupTest, WhatWasOpenIsVoidAndTheAuditLogSaysSo) {
  ASSERT_TRUE(Publish("1.0").ok());
  ASSERT_TRUE(BackUp(config_, backup_, clock_).ok());
  EXPECT_EQ(Count("SELECT COUNT(*) FROM change_requests WHERE state = 1"), 1)
      << "the running one is untouched";
  LoseAndRestore();
  EXPECT_EQ(Count("SELECT COUNT(*) FROM node_check_ins WHERE quote_nonce IS NOT NULL"), 0);
  EXPECT_EQ(Count("SELECT COUNT(*) FROM change_requests WHERE state <= 3"), 0);
  EXPECT_EQ(
      Count("SELECT COUNT(*) FROM change_requests WHERE state = 6 AND deliverable = 0 AND envelope = ''"), 3);
  EXPECT_EQ(Count("SELECT COUNT(*) FROM change_requests WHERE state IN (4, 5)"), 2) << "what ended stays";
  EXPECT_EQ(Count("SELECT COUNT(*) FROM rollouts WHERE state = 2 AND revision = 8"), 1);
  EXPECT_EQ(Count("SELECT COUNT(*) FROM rollouts WHERE state = 4"), 1);
  EXPECT_EQ(Count("SELECT COUNT(*) FROM audit WHERE rpc = 'restore'"), 1);
  EXPECT_EQ(ReadTextFile(config_.journal / "journal").ok() || ReadTextFile(config_.journal).ok(), true);
}

TEST_F(BackupTest, TakenWhileReleasesArePublishedItIsWhole) {
  ASSERT_TRUE(Publish("1.0").ok());
  std::atomic<bool> stop = false;
  int published = 0;
  std::thread publisher([&] {
    for (int i = 1; !stop && i < 1000; ++i, ++published) SEALIFT_CHECK(Publish(fmt::format("1.{}", i)).ok());
  });
  for (int i = 0; i < 5; ++i) {
    const fs::path out = folder_.path() / fmt::format("backup-{}", i);
    const auto made = BackUp(config_, out, clock_);
    ASSERT_TRUE(made.ok()) << Describe(made.status());
    ControllerConfig other = config_;
    other.state_dir = folder_.path() / fmt::format("again-{}", i);
    other.journal = other.state_dir / "journal";
    ASSERT_TRUE(Restore(other, out, {}, clock_).ok());
    const auto content = ContentStore::Open(other.state_dir / "content").value();
    const auto repository = TufRepository::Open(
        {.directory = other.state_dir / "tuf"}, root_json_,
        {signers_[tuf::Role::kSnapshot], signers_[tuf::Role::kTimestamp]}, *content, clock_);
    ASSERT_TRUE(repository.ok()) << Describe(repository.status());
    EXPECT_FALSE((*repository)->Releases().empty());
    for (const ListedRelease& release : (*repository)->Releases()) {
      const auto loaded = (*repository)->LoadRelease(release.channel, release.version);
      ASSERT_TRUE(loaded.ok()) << Describe(loaded.status());
      for (const ReleaseFile& file : loaded->manifest().files) EXPECT_TRUE(content->Read(file.digest).ok());
    }
  }
  stop = true;
  publisher.join();
  EXPECT_GT(published, 0);
}

TEST_F(BackupTest, DamagedOrIncompleteOnesAreRefusedWhole) {
  ASSERT_TRUE(Publish("1.0").ok());
  ASSERT_TRUE(BackUp(config_, backup_, clock_).ok());
  ControllerConfig other = config_;
  other.state_dir = folder_.path() / "again";
  other.journal = other.state_dir / "journal";
  const std::string list = ReadTextFile(backup_ / "backup.json").value();
  const auto restore = [&] { return ReasonOf(Restore(other, backup_, {}, clock_).status()); };
  const auto with_list = [&](std::string_view from, std::string_view to) {
    std::string changed = list;
    changed.replace(changed.find(from), from.size(), to);
    SEALIFT_CHECK(WriteFileAtomically(backup_ / "backup.json", AsBytes(changed)).ok());
    const Reason reason = restore();
    SEALIFT_CHECK(WriteFileAtomically(backup_ / "backup.json", AsBytes(list)).ok());
    return reason;
  };
  EXPECT_EQ(with_list("\"format\": 1", "\"format\": 2"), Reason::kBackupInvalid);
  EXPECT_EQ(with_list("state/controller.db", "state/../escaped"), Reason::kBackupInvalid);
  EXPECT_EQ(with_list("state/controller.db", "/etc/passwd"), Reason::kBackupInvalid);
  EXPECT_EQ(with_list("state/controller.db", "state/another.db"), Reason::kBackupInvalid);
  EXPECT_EQ(with_list("\"files\"", "\"flies\""), Reason::kBackupInvalid);
  EXPECT_EQ(with_list("\"timestamp_version\": 1", "\"timestamp_version\": -1"), Reason::kBackupInvalid);
  for (const char* file : {"state/controller.db", "state/tuf/timestamp.json", "state/tuf/1.targets.json"}) {
    const Bytes good = ReadFile(backup_ / file).value();
    Bytes bad = good;
    bad[bad.size() / 2] ^= 1;
    ASSERT_TRUE(WriteFileAtomically(backup_ / file, bad).ok());
    EXPECT_EQ(restore(), Reason::kBackupInvalid) << file;
    fs::remove(backup_ / file);
    EXPECT_EQ(restore(), Reason::kBackupInvalid) << file << " is missing";
    ASSERT_TRUE(WriteFileAtomically(backup_ / file, good).ok());
  }
  EXPECT_FALSE(fs::exists(other.state_dir)) << "nothing of a refused one is there";
  EXPECT_EQ(restore(), Reason::kNone);
}

TEST_F(BackupTest, NothingIsOverwritten) {
  ASSERT_TRUE(Publish("1.0").ok());
  ASSERT_TRUE(BackUp(config_, backup_, clock_).ok());
  EXPECT_EQ(BackUp(config_, backup_, clock_).status().code(), Code::kAlreadyExists);
  EXPECT_EQ(ReasonOf(Restore(config_, backup_, {}, clock_).status()), Reason::kRestoreRefused);
  ControllerConfig other = config_;
  other.state_dir = folder_.path() / "again";
  EXPECT_EQ(ReasonOf(Restore(other, backup_, {}, clock_).status()), Reason::kRestoreRefused)
      << "the journal is another's";
}

}  // namespace
}  // namespace sealift::controller
