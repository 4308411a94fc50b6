#include "hsm/journal.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "tests/unit/hsm/journal_fixture.h"

// In place of libc's, for everything linked into this program.
extern "C" int fdatasync(int fd) {
  if (const auto& hook = sealift::hsm::FlushHook(); hook) {
    if (const int error = hook(fd); error != 0) {
      errno = error;
      return -1;
    }
  }
  return static_cast<int>(syscall(SYS_fdatasync, fd));
}

namespace sealift::hsm {

std::function<int(int)>& FlushHook() {
  static std::function<int(int)> hook;
  return hook;
}

namespace {

TEST_F(JournalTest, RecordsIntentThenOutcomeInOneChain) {
  {
    const auto journal = Open();
    Sha256Digest key_id;
    key_id.bytes[0] = 1;
    journal->NameKey(key_id, "db-1");
    ASSERT_TRUE(Use(*journal, "authenticode a.efi").ok());
    const auto failed = journal->RecordIntent(key_id, Request("authenticode b.efi"));
    ASSERT_TRUE(failed.ok());
    ASSERT_TRUE(
        journal->RecordOutcome(*failed, MakeError(Code::kInternal, Reason::kHsmFailed, "refused")).ok());
  }
  std::vector<JournalRecord> records;
  ASSERT_TRUE(ReadJournal(file(), [&](const JournalRecord& record) {
                records.push_back(record);
                return true;
              }).ok());
  ASSERT_EQ(records.size(), 6u);
  EXPECT_EQ(std::get<JournalIntent>(records[1].body).intent, "authenticode a.efi");
  EXPECT_EQ(std::get<JournalIntent>(records[1].body).key_name, "db-1");
  EXPECT_EQ(std::get<JournalOutcome>(records[2].body).of, 2u);
  EXPECT_EQ(std::get<JournalOutcome>(records[2].body).signature, Sha256(AsBytes("authenticode a.efi")));
  EXPECT_EQ(std::get<JournalOutcome>(records[4].body).reason, "HSM_FAILED");
  EXPECT_EQ(std::get<JournalCheckpoint>(records[5].body).sequence, 5u);
  const auto report = Verify();
  ASSERT_TRUE(report.ok()) << Describe(report.status());
  EXPECT_TRUE(report->findings.empty());
  EXPECT_EQ(report->proven_up_to, 5u);
  ASSERT_EQ(report->uses.size(), 1u);
  EXPECT_EQ(report->uses.begin()->second.ok, 1u);
  EXPECT_EQ(report->uses.begin()->second.failed, 1u);
}

TEST_F(JournalTest, GoesOnWhereItStopped) {
  for (int run = 0; run < 3; ++run) ASSERT_TRUE(Use(*Open(), "run").ok());
  const auto report = Verify();
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->findings.empty());
  EXPECT_EQ(report->records, 10u);
  EXPECT_EQ(report->checkpoints, 3u);
  // Nothing new, no new checkpoint.
  { const auto journal = Open(); }
  EXPECT_EQ(Lines().size(), 10u);
}

TEST_F(JournalTest, WithoutACheckpointKeyItGoesOnToo) {
  for (int run = 0; run < 3; ++run) {
    const auto journal = Journal::Open(file());
    ASSERT_TRUE(journal.ok());
    ASSERT_TRUE(Use(**journal, "run").ok());
    EXPECT_EQ((*journal)->Checkpoint().value(), std::nullopt);
    EXPECT_EQ((*journal)->Head().value().head, Sha256(AsBytes(Lines().back())));
  }
  const auto report = Verify();
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->findings.empty());
  EXPECT_EQ(report->proven_up_to, 0u);
}

TEST_F(JournalTest, NothingIsCommittedThatAPowerCutWouldTake) {
  const auto journal = Open();
  // What is on the disk, by what was flushed.
  std::mutex mutex;
  std::string durable;
  FlushHook() = [&](int) {
    const std::lock_guard lock(mutex);
    durable = ReadTextFile(file()).value();
    return 0;
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        for (int n = 0; n < 25; ++n) {
          const std::string intent = "thread " + std::to_string(i) + " number " + std::to_string(n);
          ASSERT_TRUE(Use(*journal, intent).ok());
          const std::string outcome = Sha256(AsBytes(intent)).hex();
          const std::lock_guard lock(mutex);
          EXPECT_NE(durable.find("\"" + intent + "\""), std::string::npos);
          EXPECT_NE(durable.find(outcome), std::string::npos);
        }
      });
    }
  }
  FlushHook() = nullptr;
}

TEST_F(JournalTest, OneFlushServesAllThatWait) {
  const auto journal = Open();
  std::atomic<int> flushes{0};
  std::atomic<int> appended{0};
  constexpr int kThreads = 8;
  // The first flush lasts until every other thread has something to flush.
  FlushHook() = [&](int) {
    if (flushes++ == 0) {
      while (appended < kThreads) std::this_thread::yield();
    }
    return 0;
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        const auto intent = journal->RecordIntent({}, Request("together"));
        ASSERT_TRUE(intent.ok());
        const auto place = journal->RecordOutcome(*intent, Bytes{1});
        ASSERT_TRUE(place.ok());
        ++appended;
        EXPECT_TRUE(journal->Commit(*place).ok());
      });
    }
  }
  FlushHook() = nullptr;
  EXPECT_LE(flushes, 2);
}

TEST_F(JournalTest, AFailedFlushReleasesNothingEverAgain) {
  const auto journal = Open();
  int failures = 1;
  FlushHook() = [&](int) { return failures-- > 0 ? EIO : 0; };
  EXPECT_EQ(ReasonOf(Use(*journal, "lost")), Reason::kJournalUnwritable);
  // The second flush would say yes, and would not know of the pages the first one dropped.
  EXPECT_EQ(ReasonOf(Use(*journal, "next")), Reason::kJournalUnwritable);
  SigningRequest handshake = Request("tls");
  handshake.tls_handshake = true;
  journal->NameKey({}, "controller-tls-1");
  EXPECT_EQ(ReasonOf(journal->CountHandshake({}, handshake).status()), Reason::kJournalUnwritable);
  FlushHook() = nullptr;
}

TEST_F(JournalTest, AFullDiskStopsSigningAndSpaceLetsItGoOn) {
  const auto journal = Open();
  ASSERT_TRUE(Use(*journal, "fits").ok());
  const auto under_way = journal->RecordIntent({}, Request("under way"));
  ASSERT_TRUE(under_way.ok());
  const std::size_t lines = Lines().size();
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto ignored = signal(SIGXFSZ, SIG_IGN);
  // Room for half a line.
  const rlimit full{std::filesystem::file_size(file()) + 60, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &full), 0);
  const auto refused = journal->RecordIntent({}, Request("does not fit"));
  const auto withheld = journal->RecordOutcome(*under_way, Bytes{1, 2, 3});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, ignored);
  EXPECT_EQ(ReasonOf(refused.status()), Reason::kJournalUnwritable);
  EXPECT_EQ(ReasonOf(withheld.status()), Reason::kJournalUnwritable);
  EXPECT_EQ(Lines().size(), lines);
  ASSERT_TRUE(Use(*journal, "fits again").ok());
  const auto report = Verify();
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->findings.empty()) << report->findings.front().message;
  EXPECT_EQ(report->open, 0u);
  EXPECT_NE(ReadTextFile(file())->find(R"("reason":"JOURNAL_UNWRITABLE","result":"failed")"),
            std::string::npos);
}

TEST_F(JournalTest, AnUnwritablePlaceIsNamed) {
  const auto journal = Journal::Open(folder_.path() / "missing" / "journal");
  EXPECT_EQ(ReasonOf(journal.status()), Reason::kJournalUnwritable);
  EXPECT_EQ(ReasonOf(Journal::Open(folder_.path()).status()), Reason::kJournalUnwritable);
}

TEST_F(JournalTest, ATornLastLineIsCutAndSaid) {
  ASSERT_TRUE(Use(*Open(), "first").ok());
  const std::size_t lines = Lines().size();
  for (const std::string& torn : {std::string("{\"at\":17"), std::string(300, '\0')}) {
    std::ofstream(file(), std::ios::app) << torn;
    EXPECT_EQ(Verify()->unfinished_bytes, torn.size());
    { const auto journal = Open(); }
    const auto report = Verify();
    ASSERT_TRUE(report.ok());
    EXPECT_TRUE(report->findings.empty());
    EXPECT_EQ(report->unfinished_bytes, 0u);
  }
  EXPECT_EQ(Verify()->recoveries, 2u);
  const auto record = JournalRecord::Parse(Lines()[lines]);
  ASSERT_TRUE(record.ok());
  EXPECT_EQ(std::get<JournalRecovery>(record->body).cut_bytes, 8u);
}

TEST_F(JournalTest, ATornFirstLineBeginsTheFileAnew) {
  std::ofstream(file()) << "{\"at\":1";
  ASSERT_TRUE(Use(*Open(), "first").ok());
  EXPECT_EQ(Finding(), "none");
  EXPECT_EQ(Verify()->recoveries, 1u);
}

TEST_F(JournalTest, AnIntentWithoutOutcomeIsClosedAsUnfinished) {
  {
    const auto journal = Open();
    ASSERT_TRUE(journal->RecordIntent({}, Request("killed here")).ok());
    // Covered by the checkpoint at closing, and still open in it.
  }
  EXPECT_EQ(Verify()->open, 1u);
  { const auto journal = Open(); }
  const auto report = Verify();
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->findings.empty());
  EXPECT_EQ(report->open, 0u);
  EXPECT_EQ(report->uses.begin()->second.unfinished, 1u);
}

TEST_F(JournalTest, OpeningAgainProvesTheEndAndRefusesADamagedOne) {
  {
    const auto journal = Open();
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(Use(*journal, "before").ok());
    ASSERT_TRUE(journal->Checkpoint().ok());
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(Use(*journal, "after").ok());
    journal->SetCheckpointSigner(nullptr);
  }
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 14u);
  for (const std::size_t line : {std::size_t{8}, std::size_t{10}, std::size_t{12}}) {
    auto damaged = lines;
    damaged[line][damaged[line].size() / 2] ^= 1;
    Write(damaged);
    EXPECT_EQ(ReasonOf(TryOpen().status()), Reason::kJournalDamaged) << line;
    damaged = lines;
    damaged.erase(damaged.begin() + static_cast<std::ptrdiff_t>(line));
    Write(damaged);
    EXPECT_EQ(ReasonOf(TryOpen().status()), Reason::kJournalDamaged) << line;
  }
  Write(lines);
  const auto stranger = SoftwareSigner::Generate(KeyType::kEcP256).value();
  EXPECT_EQ(ReasonOf(TryOpen({.trusted = {stranger->public_key()}}).status()), Reason::kJournalDamaged);
  EXPECT_TRUE(TryOpen({.trusted = {key_->public_key()}}).ok());
}

TEST_F(JournalTest, TheLastCheckpointIsFoundFarFromTheEnd) {
  {
    const auto journal = Open({.checkpoint_records = 1'000'000});
    ASSERT_TRUE(Use(*journal, "before").ok());
    ASSERT_TRUE(journal->Checkpoint().ok());
    const std::string long_intent(kMaxIntentBytes, 'x');
    for (int i = 0; i < 600; ++i) {
      const auto intent = journal->RecordIntent({}, Request(long_intent));
      ASSERT_TRUE(journal->RecordOutcome(*intent, Bytes{1}).ok());
    }
    ASSERT_TRUE(journal->Head().ok());
    journal->SetCheckpointSigner(nullptr);
  }
  const auto lines = Lines();
  auto damaged = lines;
  // Covered and not read again; the first one after it is.
  damaged[1][20] ^= 1;
  Write(damaged);
  { EXPECT_TRUE(TryOpen().ok()); }
  damaged = lines;
  damaged[4][20] ^= 1;
  Write(damaged);
  EXPECT_FALSE(TryOpen().ok());
}

TEST_F(JournalTest, OneWriterAFile) {
  const auto journal = Open();
  ASSERT_TRUE(Use(*journal, "first").ok());
  EXPECT_EQ(Open(), journal);
  const pid_t child = fork();
  if (child == 0) {
    // Another process: it inherits the descriptor, not the right to a second one.
    auto file = JournalFile::Open(this->file());
    _exit(ReasonOf(file.status()) == Reason::kJournalInUse ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST_F(JournalTest, HandshakesOfTheControllerAreCountedByCheckpointAndNothingElseIs) {
  const auto journal = Open();
  Sha256Digest tls;
  Sha256Digest db;
  db.bytes[0] = 1;
  journal->NameKey(tls, "controller-tls-1");
  Sha256Digest newer;
  newer.bytes[0] = 2;
  journal->NameKey(db, "db-1");
  journal->NameKey(newer, "controller-tls-2");
  SigningRequest handshake = Request("tls handshake");
  handshake.tls_handshake = true;
  EXPECT_FALSE(journal->CountHandshake(db, handshake).value());
  EXPECT_FALSE(journal->CountHandshake(tls, Request("certificate")).value());
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(journal->CountHandshake(tls, handshake).value());
  EXPECT_EQ(journal->Checkpoint().value()->tls_handshakes, 5u);
  EXPECT_TRUE(journal->CountHandshake(tls, handshake).value());
  EXPECT_TRUE(journal->CountHandshake(newer, handshake).value());
  EXPECT_EQ(journal->Checkpoint().value()->tls_handshakes, 2u);
  const auto report = Verify();
  EXPECT_EQ(report->tls_handshakes, 7u);
  EXPECT_EQ(report->handshakes_by_key, (std::map<Sha256Digest, std::uint64_t>{{tls, 6}, {newer, 1}}));
}

TEST_F(JournalTest, CheckpointsComeWithUseAndWithTime) {
  const auto journal = Open({.checkpoint_records = 10});
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(Use(*journal, "use").ok());
    journal->CheckpointIfDue();
  }
  EXPECT_EQ(journal->last_checkpoint(), std::nullopt);
  ASSERT_TRUE(Use(*journal, "use").ok());
  journal->CheckpointIfDue();
  ASSERT_NE(journal->last_checkpoint(), std::nullopt);
  EXPECT_EQ(journal->last_checkpoint()->sequence, 11u);
  const auto other = Journal::Open(folder_.path() / "other", {.checkpoint_interval = {}}).value();
  other->SetCheckpointSigner(key_);
  ASSERT_TRUE(Use(*other, "use").ok());
  other->CheckpointIfDue();
  EXPECT_NE(other->last_checkpoint(), std::nullopt);
}

TEST_F(JournalTest, CheckpointsMadeWhileOthersRecordCoverWhatTheySay) {
  {
    const auto journal = Open({.checkpoint_records = 3});
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int n = 0; n < 20; ++n) {
          ASSERT_TRUE(Use(*journal, "use").ok());
          journal->CheckpointIfDue();
        }
      });
    }
  }
  const auto report = Verify();
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->findings.empty()) << report->findings.front().message;
  EXPECT_EQ(report->uses.begin()->second.ok, 80u);
  EXPECT_GT(report->checkpoints, 5u);
  EXPECT_TRUE(TryOpen({.trusted = {key_->public_key()}}).ok());
}

// --- killed at any point

// A writer in a process of its own: every signature that left it comes through the pipe.
pid_t StartWriter(const std::filesystem::path& path, int pipe_fd, int run) {
  const pid_t child = fork();
  if (child != 0) return child;
  auto journal = Journal::Open(path);
  if (!journal.ok()) _exit(3);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] {
      for (int n = 0;; ++n) {
        const std::string signature =
            "run " + std::to_string(run) + " thread " + std::to_string(i) + " number " + std::to_string(n);
        const auto intent = (*journal)->RecordIntent(
            {}, {.scheme = SignatureScheme::kEcdsaSha256, .digest = {}, .intent = signature});
        if (!intent.ok()) _exit(4);
        const auto place = (*journal)->RecordOutcome(*intent, ToBytes(signature));
        if (!place.ok() || !(*journal)->Commit(*place).ok()) _exit(5);
        const std::string line = Sha256(AsBytes(signature)).hex() + "\n";
        if (write(pipe_fd, line.data(), line.size()) != static_cast<ssize_t>(line.size())) _exit(6);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  _exit(0);
}

TEST_F(JournalTest, EverySignatureThatLeftAKilledProgramIsInItsJournal) {
  constexpr int kRuns = 25;
  std::vector<std::string> left;
  std::size_t unfinished = 0;
  for (int run = 0; run < kRuns; ++run) {
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe(ends.data()), 0);
    const pid_t child = StartWriter(file(), ends[1], run);
    close(ends[1]);
    UniqueFd reader(ends[0]);
    std::string received;
    std::array<char, 4096> buffer{};
    // Killed after another number of signatures each time, wherever its threads are then.
    const std::size_t enough = static_cast<std::size_t>(65 * (1 + run * 7 % 19));
    bool killed = false;
    for (ssize_t got = 0; (got = read(reader.get(), buffer.data(), buffer.size())) > 0;) {
      received.append(buffer.data(), static_cast<std::size_t>(got));
      if (received.size() >= enough && !killed) killed = kill(child, SIGKILL) == 0;
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "exit " << WEXITSTATUS(status);
    for (std::size_t at = 0; at + 65 <= received.size(); at += 65) left.push_back(received.substr(at, 64));
    const auto report = Verify();
    ASSERT_TRUE(report.ok());
    ASSERT_TRUE(report->findings.empty()) << report->findings.front().message;
    unfinished += report->open;
  }
  { const auto journal = Open(); }
  const std::string text = ReadTextFile(file()).value();
  for (const std::string& signature : left) {
    EXPECT_NE(text.find("\"signature_sha256\":\"" + signature + "\""), std::string::npos);
  }
  const auto report = Verify();
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->findings.empty());
  EXPECT_EQ(report->open, 0u);
  EXPECT_EQ(report->uses.begin()->second.unfinished, unfinished);
  EXPECT_GE(report->uses.begin()->second.ok, left.size());
  EXPECT_GE(left.size(), static_cast<std::size_t>(kRuns));
}

}  // namespace
}  // namespace sealift::hsm
