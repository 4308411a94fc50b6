#include "shared/base/subprocess.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "shared/base/files.h"

extern char** environ;

namespace sealift {
namespace {

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Result<Pipe> MakePipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return ErrnoError(Code::kUnavailable, Reason::kInternal, "run program", "pipe2", errno);
  }
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// Reads what is there now; false at the end of the stream.
bool Drain(int fd, std::string& into, std::size_t limit) {
  std::array<char, 65536> buffer{};
  for (;;) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return false;
    const std::size_t room = limit - std::min(limit, into.size());
    into.append(buffer.data(), std::min(room, static_cast<std::size_t>(got)));
    // A program that writes faster than this reads must not outlast its time here.
    if (static_cast<std::size_t>(got) < buffer.size()) return true;
  }
}

std::string LastLine(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  const auto at = text.rfind('\n');
  return (at == std::string::npos ? text : text.substr(at + 1)).substr(0, 400);
}

std::vector<std::string> MergedEnvironment(const Command& command) {
  std::vector<std::string> merged;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    if (command.environment.count(std::string(text.substr(0, text.find('=')))) == 0)
      merged.emplace_back(text);
  }
  for (const auto& [name, value] : command.environment) merged.push_back(name + "=" + value);
  return merged;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (auto& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

int WaitFor(pid_t pid) {
  int state = 0;
  while (::waitpid(pid, &state, 0) < 0 && errno == EINTR) {
  }
  return state;
}

// Starts the program at the head of a process group of its own, so that all of it can be ended. Closes the
// ends that are the child's.
Result<pid_t> Spawn(const Command& command, Pipe& in, Pipe& out, Pipe& err) {
  for (const UniqueFd* end : {&in.write, &out.read, &err.read}) ::fcntl(end->get(), F_SETFL, O_NONBLOCK);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.read.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out.write.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.write.get(), STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  std::vector<std::string> argv = command.argv;
  std::vector<std::string> environment = MergedEnvironment(command);
  pid_t pid = 0;
  const int spawned = ::posix_spawnp(&pid, argv[0].c_str(), &actions, &attributes, Pointers(argv).data(),
                                     Pointers(environment).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (spawned != 0) {
    return ErrnoError(Code::kNotFound, Reason::kToolMissing, fmt::format("run '{}'", argv[0]), "posix_spawn",
                      spawned);
  }
  in.read = UniqueFd();
  out.write = UniqueFd();
  err.write = UniqueFd();
  return pid;
}

}  // namespace

Result<CommandOutput> RunCommand(const Command& command) {
  SEALIFT_CHECK(!command.argv.empty());
  SEALIFT_ASSIGN_OR_RETURN(Pipe in, MakePipe());
  SEALIFT_ASSIGN_OR_RETURN(Pipe out, MakePipe());
  SEALIFT_ASSIGN_OR_RETURN(Pipe err, MakePipe());

  SEALIFT_ASSIGN_OR_RETURN(const pid_t pid, Spawn(command, in, out, err));
  // The child is waited for and not its streams: it may close them and live on, or leave them to a child of
  // its own.
  // By number: glibc 2.36 declares pidfd_open for C only.
  const UniqueFd ended(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  SEALIFT_CHECK(ended.valid());
  CommandOutput output;
  std::string_view pending = command.stdin_text;
  if (pending.empty()) in.write = UniqueFd();
  const auto deadline = std::chrono::steady_clock::now() + command.timeout;
  bool out_open = true;
  bool err_open = true;
  for (bool running = true; running;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      ::kill(-pid, SIGKILL);
      WaitFor(pid);
      return MakeError(Code::kDeadlineExceeded, Reason::kTimeout,
                       fmt::format("run '{}': no end after {} ms", command.argv[0], command.timeout.count()));
    }
    std::array<pollfd, 4> polled{{{out_open ? out.read.get() : -1, POLLIN, 0},
                                  {err_open ? err.read.get() : -1, POLLIN, 0},
                                  {in.write.valid() ? in.write.get() : -1, POLLOUT, 0},
                                  {ended.get(), POLLIN, 0}}};
    ::poll(polled.data(), polled.size(), static_cast<int>(std::min<std::int64_t>(left.count(), 1000)));
    // What it wrote before it ended is in the pipes.
    running = polled[3].revents == 0;
    if (polled[0].revents != 0) out_open = Drain(out.read.get(), output.out, command.max_output_bytes);
    if (polled[1].revents != 0) err_open = Drain(err.read.get(), output.err, command.max_output_bytes);
    if (polled[2].revents != 0) {
      const ssize_t written = ::write(in.write.get(), pending.data(), pending.size());
      if (written > 0) pending.remove_prefix(static_cast<std::size_t>(written));
      // A program that closes its input early has read what it wanted.
      if (pending.empty() || (written < 0 && errno != EAGAIN && errno != EINTR)) in.write = UniqueFd();
    }
  }
  if (out_open) Drain(out.read.get(), output.out, command.max_output_bytes);
  if (err_open) Drain(err.read.get(), output.err, command.max_output_bytes);
  const int state = WaitFor(pid);
  if (WIFSIGNALED(state)) {
    return MakeError(Code::kInternal, Reason::kToolFailed,
                     fmt::format("run '{}': ended by signal {}: {}", command.argv[0], WTERMSIG(state),
                                 LastLine(output.err)));
  }
  output.exit_code = WEXITSTATUS(state);
  return output;
}

Result<CommandOutput> RunCommandChecked(const Command& command) {
  SEALIFT_ASSIGN_OR_RETURN(CommandOutput output, RunCommand(command));
  if (output.exit_code != 0) {
    return MakeError(Code::kFailedPrecondition, Reason::kToolFailed,
                     fmt::format("run '{}': exit code {}: {}", command.argv[0], output.exit_code,
                                 LastLine(output.err.empty() ? output.out : output.err)));
  }
  return output;
}

}  // namespace sealift
