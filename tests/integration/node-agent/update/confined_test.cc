// What a child that works on foreign bytes may do, and what comes of it when it does something else.
#include "node-agent/update/confined.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <thread>

#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/delta/open_file.h"
#include "tests/support/status_matchers.h"

namespace sealift::agent {
namespace {

using test::ReasonIdFrom;

// What the work wrote, all of it.
Result<std::string> Output(const std::function<Status(const ConfinedSink&)>& work,
                           const Confinement& limits = {}) {
  std::string out;
  SEALIFT_RETURN_IF_ERROR(RunConfined(limits, OkStatus, work, [&out](ByteView piece) {
    out += AsText(piece);
    return OkStatus();
  }));
  return out;
}

// "0" where the call succeeded, else its errno.
Result<std::string> Try(const std::function<long()>& call) {
  return Output([&call](const ConfinedSink& sink) {
    errno = 0;
    const long result = call();
    return sink(AsBytes(std::to_string(result < 0 ? errno : 0)));
  });
}

TEST(ConfinedTest, BytesComeInOrderAndStatusesWithTheirReasons) {
  std::string text;
  for (int i = 0; i < 200000; ++i) text += std::to_string(i);
  EXPECT_EQ(Output([&text](const ConfinedSink& sink) { return sink(AsBytes(text)); }).value(), text);
  const auto refused = Output([](const ConfinedSink&) {
    return MakeError(Code::kInvalidArgument, Reason::kDeltaInvalid, "apply delta: no\n\x1b[2J");
  });
  EXPECT_EQ(ReasonIdFrom(refused), "DELTA_INVALID");
  EXPECT_EQ(MessageOf(refused.status()), "apply delta: no??[2J") << "what it says is foreign";
}

TEST(ConfinedTest, TheSinksErrorEndsIt) {
  const Status status = RunConfined(
      {}, OkStatus,
      [](const ConfinedSink& sink) {
        while (true) static_cast<void>(sink(Bytes(1000)));
        return OkStatus();
      },
      [](ByteView) { return MakeError(Code::kResourceExhausted, Reason::kDiskFull, "write: full"); });
  EXPECT_EQ(ReasonIdFrom(Result<int>(status)), "DISK_FULL");
}

TEST(ConfinedTest, ItCanDoNothingButCompute) {
  const std::string denied = std::to_string(EPERM);
  // Arguments that work without the filter: root runs these tests as a rule.
  const TempDir temp = TempDir::Create("sealift-confined").value();
  const std::string file = (temp.path() / "file").string();
  std::ofstream(file) << "x";
  const std::map<std::string, std::function<long()>> calls = {
      {"open", [&] { return ::open(file.c_str(), O_RDONLY); }},
      {"create", [&] { return ::open((file + "2").c_str(), O_WRONLY | O_CREAT, 0600); }},
      {"stat",
       [&] {
         struct stat info {};
         return ::stat(file.c_str(), &info);
       }},
      {"unlink", [&] { return ::unlink(file.c_str()); }},
      {"socket", [] { return ::socket(AF_INET, SOCK_STREAM, 0); }},
      {"socketpair",
       [] {
         int ends[2];
         return ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
       }},
      {"fork",
       [] {
         const pid_t pid = ::fork();
         if (pid == 0) ::_exit(0);
         return pid;
       }},
      {"exec",
       [] {
         const char* const arguments[] = {"true", nullptr};
         return ::execve("/bin/true", const_cast<char* const*>(arguments), nullptr);
       }},
      {"kill the parent", [] { return ::kill(::getppid(), 0); }},
      {"signal itself by number", [] { return ::kill(::getpid(), 0); }},
      {"map code",
       [] {
         return ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
                    ? -1
                    : 0;
       }},
      {"make code of data",
       [] {
         void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
         return ::mprotect(page, 4096, PROT_READ | PROT_EXEC);
       }},
      {"trace", [] { return ::prctl(PR_SET_DUMPABLE, 1); }},
      {"setuid", [] { return ::setuid(0); }},
      {"chdir", [] { return ::chdir("/"); }},
      {"ioctl", [] { return ::syscall(SYS_ioctl, 0, 0, 0); }},
  };
  for (const auto& [what, call] : calls) {
    EXPECT_EQ(Try(call).value(), denied) << what;
  }
  EXPECT_TRUE(std::filesystem::exists(file));
}

TEST(ConfinedTest, ItHasNoCapabilityAndNoWayToGainRights) {
  // Read before the filter, of what the limits leave.
  const auto seen =
      Output([](const ConfinedSink& sink) { return sink(AsBytes(std::to_string(::getpid()))); });
  ASSERT_TRUE(seen.ok());
  std::string status;
  ASSERT_TRUE(RunConfined(
                  {}, OkStatus,
                  [](const ConfinedSink& sink) {
                    // Until the parent has looked.
                    SEALIFT_RETURN_IF_ERROR(sink(AsBytes(std::to_string(::getpid()))));
                    return sink(AsBytes(std::string(1 << 20, 'x')));
                  },
                  [&status](ByteView piece) {
                    if (piece.size() < 20)
                      status = ReadTextFile(fmt::format("/proc/{}/status", AsText(piece)), 1u << 20).value();
                    return OkStatus();
                  })
                  .ok());
  EXPECT_NE(status.find("CapEff:\t0000000000000000"), std::string::npos) << status;
  EXPECT_NE(status.find("CapPrm:\t0000000000000000"), std::string::npos);
  EXPECT_NE(status.find("NoNewPrivs:\t1"), std::string::npos);
  EXPECT_NE(status.find("Seccomp:\t2"), std::string::npos);
}

TEST(ConfinedTest, ItKeepsTheFilesThatAreNamedAndNoOthers) {
  const TempDir temp = TempDir::Create("sealift-confined").value();
  std::ofstream(temp.path() / "kept") << "kept";
  std::ofstream(temp.path() / "other") << "other";
  const UniqueFd kept(::open((temp.path() / "kept").c_str(), O_RDONLY | O_CLOEXEC));
  const UniqueFd other(::open((temp.path() / "other").c_str(), O_RDWR | O_CLOEXEC));
  const auto read = [](int fd) {
    return [fd](const ConfinedSink& sink) {
      char bytes[16];
      const ssize_t got = ::pread(fd, bytes, sizeof bytes, 0);
      return sink(
          AsBytes(got < 0 ? std::to_string(errno) : std::string(bytes, static_cast<std::size_t>(got))));
    };
  };
  EXPECT_EQ(Output(read(kept.get()), {.keep = {kept.get()}}).value(), "kept");
  EXPECT_EQ(Output(read(other.get()), {.keep = {kept.get()}}).value(), std::to_string(EBADF));
  EXPECT_EQ(Output(read(2)).value(), std::to_string(EBADF));
  // What is prepared before may open more.
  delta::OpenFile* opened = nullptr;
  std::string out;
  EXPECT_TRUE(RunConfined(
                  {},
                  [&]() -> Status {
                    SEALIFT_ASSIGN_OR_RETURN(auto file, delta::OpenFile::Open(temp.path() / "other"));
                    opened = new delta::OpenFile(std::move(file));
                    return OkStatus();
                  },
                  [&](const ConfinedSink& sink) { return opened->ForEach(0, opened->size(), sink); },
                  [&out](ByteView piece) {
                    out += AsText(piece);
                    return OkStatus();
                  })
                  .ok());
  EXPECT_EQ(out, "other");
}

TEST(ConfinedTest, LargeReferencesStillFindAFileWithoutAName) {
  const TempDir temp = TempDir::Create("sealift-confined").value();
  EXPECT_EQ(Output([&](const ConfinedSink& sink) -> Status {
              SEALIFT_ASSIGN_OR_RETURN(auto file, delta::OpenFile::Temporary(temp.path()));
              SEALIFT_RETURN_IF_ERROR(file.Append(AsBytes("unpacked")));
              return file.ForEach(0, file.size(), sink);
            }).value(),
            "unpacked");
}

TEST(ConfinedTest, ItsMemoryTimeAndSilenceAreBounded) {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const auto greedy = Output(
      [](const ConfinedSink& sink) {
        std::vector<Bytes> all;
        while (true) {
          all.emplace_back(1u << 20);
          if (all.size() > 4096) break;
        }
        return sink(AsBytes("all of it"));
      },
      {.memory_bytes = 64u << 20});
  EXPECT_EQ(ReasonIdFrom(greedy), "DELTA_INVALID");
  EXPECT_NE(MessageOf(greedy.status()).find("memory"), std::string::npos) << greedy.status();
#endif
  const auto endless = [](const ConfinedSink& sink) {
    for (std::atomic<bool> stop{false}; !stop;) continue;
    return sink({});
  };
  const auto busy = Output(endless, {.processor_time = std::chrono::seconds(1)});
  EXPECT_EQ(ReasonIdFrom(busy), "DELTA_INVALID");
  EXPECT_NE(MessageOf(busy.status()).find("signal"), std::string::npos) << busy.status();
  const auto silent = Output(endless, {.silence = std::chrono::milliseconds(50)});
  EXPECT_EQ(ReasonIdFrom(silent), "DELTA_INVALID");
  EXPECT_NE(MessageOf(silent.status()).find("too long"), std::string::npos) << silent.status();
}

TEST(ConfinedTest, ACrashIsAnErrorAndLeavesNoProcess) {
  const auto crashed = Output([](const ConfinedSink&) -> Status { ::abort(); });
  EXPECT_EQ(ReasonIdFrom(crashed), "DELTA_INVALID");
  EXPECT_NE(MessageOf(crashed.status()).find("signal 6"), std::string::npos) << crashed.status();
  const auto ended = Output([](const ConfinedSink&) -> Status { ::_exit(0); });
  EXPECT_EQ(ReasonIdFrom(ended), "DELTA_INVALID");
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(ConfinedTest, OtherThreadsDoNotKeepItFromHashing) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> others;
  for (int i = 0; i < 2; ++i) {
    others.emplace_back([&stop] {
      while (!stop) static_cast<void>(Sha256(Bytes(100)));
    });
  }
  const std::string right = Sha256(AsBytes("text")).hex();
  for (int i = 0; i < 50; ++i) {
    const auto hash =
        Output([](const ConfinedSink& sink) { return sink(AsBytes(Sha256(AsBytes("text")).hex())); },
               {.silence = std::chrono::seconds(20)});
    EXPECT_EQ(hash.value_or(Describe(hash.status())), right);
  }
  stop = true;
  for (std::thread& thread : others) thread.join();
}

}  // namespace
}  // namespace sealift::agent
