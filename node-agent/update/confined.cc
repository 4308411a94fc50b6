#include "node-agent/update/confined.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <poll.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <new>

#include "shared/base/files.h"

namespace sealift::agent {
namespace {

// What comes through the pipe: a tag, a length of four bytes, so many bytes.
constexpr std::uint8_t kPiece = 'p';
constexpr std::uint8_t kStatus = 's';
constexpr std::size_t kHeadBytes = 5;
constexpr std::size_t kMaxPieceBytes = 256u << 10;
constexpr std::size_t kMaxStatusBytes = 1024;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#else
constexpr bool kSanitized = false;
#endif

Status NotConfined(std::string_view call, int error) {
  return ErrnoError(Code::kFailedPrecondition, Reason::kToolFailed, "confine the work on a delta", call,
                    error);
}

Status Misbehaved(std::string_view how) {
  return MakeError(Code::kInvalidArgument, Reason::kDeltaInvalid,
                   fmt::format("work on a delta in its confinement: {}", how));
}

// ---- the child ----

void WriteOrEnd(int fd, ByteView bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::write(fd, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) ::_exit(1);
    bytes = bytes.subspan(static_cast<std::size_t>(wrote));
  }
}

void Tell(int fd, std::uint8_t tag, ByteView bytes) {
  std::array<std::uint8_t, kHeadBytes> head{tag};
  const auto size = static_cast<std::uint32_t>(bytes.size());
  std::memcpy(head.data() + 1, &size, sizeof size);
  WriteOrEnd(fd, head);
  WriteOrEnd(fd, bytes);
}

// Code, reason, message; a blank between them.
void TellStatus(int fd, const Status& status) {
  const std::string text = fmt::format("{} {} {}", static_cast<int>(status.code()),
                                       ReasonId(ReasonOf(status)), status.ok() ? "" : MessageOf(status));
  Tell(fd, kStatus, AsBytes(text).first(std::min(text.size(), kMaxStatusBytes)));
}

Status KeepOnly(std::vector<int> keep) {
  std::ranges::sort(keep);
  unsigned next = 0;
  for (const int fd : keep) {
    const auto one = static_cast<unsigned>(fd);
    if (one > next && ::syscall(SYS_close_range, next, one - 1, 0) != 0)
      return NotConfined("close_range", errno);
    next = std::max(next, one + 1);
  }
  return ::syscall(SYS_close_range, next, ~0u, 0) == 0 ? OkStatus() : NotConfined("close_range", errno);
}

Status Limit(int resource, std::uint64_t value) {
  const rlimit limit{.rlim_cur = value, .rlim_max = value};
  // An enumeration to glibc's C++ declarations.
  return ::setrlimit(static_cast<__rlimit_resource>(resource), &limit) == 0 ? OkStatus()
                                                                            : NotConfined("setrlimit", errno);
}

Status DropCapabilities() {
  __user_cap_header_struct head{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  const std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> none{};
  return ::syscall(SYS_capset, &head, none.data()) == 0 ? OkStatus() : NotConfined("capset", errno);
}

using FilterPtr = std::unique_ptr<void, decltype(&seccomp_release)>;

Status Allow(void* filter, int call, const std::vector<scmp_arg_cmp>& conditions = {}) {
  const int error = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call,
                                           static_cast<unsigned>(conditions.size()), conditions.data());
  return error == 0 ? OkStatus() : NotConfined("seccomp_rule_add", -error);
}

scmp_arg_cmp Masked(unsigned argument, std::uint64_t mask, std::uint64_t value) {
  return {.arg = argument, .op = SCMP_CMP_MASKED_EQ, .datum_a = mask, .datum_b = value};
}

Status AllowComputingOnly() {
  const FilterPtr filter(seccomp_init(SCMP_ACT_ERRNO(EPERM)), &seccomp_release);
  if (filter == nullptr) return NotConfined("seccomp_init", ENOMEM);
  for (const int call :
       {SCMP_SYS(read),           SCMP_SYS(pread64),      SCMP_SYS(write),          SCMP_SYS(lseek),
        SCMP_SYS(fstat),          SCMP_SYS(close),        SCMP_SYS(munmap),         SCMP_SYS(mremap),
        SCMP_SYS(madvise),        SCMP_SYS(brk),          SCMP_SYS(futex),          SCMP_SYS(exit),
        SCMP_SYS(exit_group),     SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask), SCMP_SYS(clock_gettime),
        SCMP_SYS(getrandom),      SCMP_SYS(getpid),       SCMP_SYS(gettid),         SCMP_SYS(sched_yield),
        SCMP_SYS(restart_syscall)})
    SEALIFT_RETURN_IF_ERROR(Allow(filter.get(), call));
  // No code; abort() only itself; a file only without a name, for references that are large.
  for (const int call : {SCMP_SYS(mmap), SCMP_SYS(mprotect)})
    SEALIFT_RETURN_IF_ERROR(Allow(filter.get(), call, {Masked(2, PROT_EXEC, 0)}));
  SEALIFT_RETURN_IF_ERROR(
      Allow(filter.get(), SCMP_SYS(tgkill), {Masked(0, ~0ull, static_cast<std::uint64_t>(::getpid()))}));
  SEALIFT_RETURN_IF_ERROR(
      Allow(filter.get(), SCMP_SYS(newfstatat), {Masked(3, AT_EMPTY_PATH, AT_EMPTY_PATH)}));
  SEALIFT_RETURN_IF_ERROR(Allow(filter.get(), SCMP_SYS(openat), {Masked(2, O_TMPFILE, O_TMPFILE)}));
  // Sets PR_SET_NO_NEW_PRIVS as well.
  const int error = seccomp_load(filter.get());
  return error == 0 ? OkStatus() : NotConfined("seccomp_load", -error);
}

Status Enter(const Confinement& limits, std::uint64_t mapped) {
  SEALIFT_RETURN_IF_ERROR(Limit(RLIMIT_CORE, 0));
  SEALIFT_RETURN_IF_ERROR(Limit(RLIMIT_CPU, static_cast<std::uint64_t>(limits.processor_time.count())));
  if (!kSanitized) SEALIFT_RETURN_IF_ERROR(Limit(RLIMIT_AS, mapped + limits.memory_bytes));
  SEALIFT_RETURN_IF_ERROR(DropCapabilities());
  return AllowComputingOnly();
}

Status Work(const Confinement& limits, std::uint64_t mapped, int pipe, const std::function<Status()>& prepare,
            const std::function<Status(const ConfinedSink&)>& work) {
  std::vector<int> keep = limits.keep;
  keep.push_back(pipe);
  SEALIFT_RETURN_IF_ERROR(KeepOnly(std::move(keep)));
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  SEALIFT_RETURN_IF_ERROR(prepare());
  SEALIFT_RETURN_IF_ERROR(Enter(limits, mapped));
  return work([pipe](ByteView bytes) {
    while (!bytes.empty()) {
      const ByteView piece = bytes.first(std::min(bytes.size(), kMaxPieceBytes));
      Tell(pipe, kPiece, piece);
      bytes = bytes.subspan(piece.size());
    }
    return OkStatus();
  });
}

[[noreturn]] void RunChild(const Confinement& limits, std::uint64_t mapped, int pipe,
                           const std::function<Status()>& prepare,
                           const std::function<Status(const ConfinedSink&)>& work) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGPIPE}) ::signal(signal, SIG_DFL);
  try {
    TellStatus(pipe, Work(limits, mapped, pipe, prepare, work));
  } catch (const std::bad_alloc&) {
    // Nothing that needs memory.
    constexpr std::string_view kText = "3 DELTA_INVALID work on a delta: it takes more memory than it may";
    Tell(pipe, kStatus, AsBytes(kText));
  } catch (...) {
    ::_exit(1);
  }
  ::_exit(0);
}

// ---- here ----

// Of the address space.
std::uint64_t MappedBytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t pages = 0;
  file >> pages;
  return pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

class Child {
 public:
  Child(pid_t pid, UniqueFd pipe, std::chrono::milliseconds silence)
      : pid_(pid), pipe_(std::move(pipe)), silence_(silence) {}
  ~Child() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    Reap();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // Until its status, or what else happens.
  Status Listen(const ConfinedSink& sink) {
    while (true) {
      std::array<std::uint8_t, kHeadBytes> head{};
      SEALIFT_RETURN_IF_ERROR(Read(head));
      std::uint32_t size = 0;
      std::memcpy(&size, head.data() + 1, sizeof size);
      const bool status = head[0] == kStatus;
      if ((!status && head[0] != kPiece) || size > (status ? kMaxStatusBytes : kMaxPieceBytes))
        return Misbehaved("it says what makes no sense");
      Bytes bytes(size);
      SEALIFT_RETURN_IF_ERROR(Read(bytes));
      if (status) return StatusFrom(AsText(bytes));
      SEALIFT_RETURN_IF_ERROR(sink(bytes));
    }
  }

 private:
  int Reap() {
    int state = 0;
    while (::waitpid(pid_, &state, 0) < 0 && errno == EINTR) continue;
    pid_ = 0;
    return state;
  }

  Status Read(std::span<std::uint8_t> out) {
    while (!out.empty()) {
      pollfd ready{.fd = pipe_.get(), .events = POLLIN, .revents = 0};
      const int count = ::poll(&ready, 1, static_cast<int>(silence_.count()));
      if (count < 0 && errno == EINTR) continue;
      if (count == 0) return Misbehaved("nothing came out of it for too long");
      const ssize_t got = ::read(pipe_.get(), out.data(), out.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return NotConfined("read", errno);
      if (got == 0) {
        const int state = Reap();
        return Misbehaved(WIFSIGNALED(state) ? fmt::format("it ended by signal {}", WTERMSIG(state))
                                             : "it ended in the midst of it");
      }
      out = out.subspan(static_cast<std::size_t>(got));
    }
    return OkStatus();
  }

  static Status StatusFrom(std::string_view text) {
    const std::size_t code_end = text.find(' ');
    const std::size_t reason_end =
        code_end == std::string_view::npos ? code_end : text.find(' ', code_end + 1);
    if (reason_end == std::string_view::npos) return Misbehaved("it says what makes no sense");
    const std::string_view code = text.substr(0, code_end);
    if (code == "0") return OkStatus();
    int number = 0;
    for (const char c : code) {
      if (c < '0' || c > '9' || number > 16) return Misbehaved("it says what makes no sense");
      number = number * 10 + (c - '0');
    }
    if (number < 1 || number > 16) return Misbehaved("it says what makes no sense");
    std::string message(text.substr(reason_end + 1));
    std::ranges::replace_if(
        message, [](char c) { return c < ' ' || c > '~'; }, '?');
    return MakeError(static_cast<Code>(number),
                     ReasonFromId(text.substr(code_end + 1, reason_end - code_end - 1)), message);
  }

  pid_t pid_;
  UniqueFd pipe_;
  const std::chrono::milliseconds silence_;
};

}  // namespace

Status RunConfined(const Confinement& limits, const std::function<Status()>& prepare,
                   const std::function<Status(const ConfinedSink&)>& work, const ConfinedSink& sink) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return NotConfined("pipe2", errno);
  UniqueFd read(ends[0]);
  UniqueFd write(ends[1]);
  const std::uint64_t mapped = MappedBytes();
  const pid_t pid = ::fork();
  if (pid < 0) return NotConfined("fork", errno);
  if (pid == 0) RunChild(limits, mapped, write.get(), prepare, work);
  Child child(pid, std::move(read), limits.silence);
  SEALIFT_RETURN_IF_ERROR(write.Close());
  return child.Listen(sink);
}

}  // namespace sealift::agent
