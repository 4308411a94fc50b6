#include "shared/base/subprocess.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
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

// Reads what is there; false at the end of the stream.
bool Drain(int fd, std::string& into, std::size_t limit) {
  std::array<char, 65536> buffer{};
  const ssize_t got = ::read(fd, buffer.data(), buffer.size());
  if (got < 0) return errno == EINTR || errno == EAGAIN;
  const std::size_t room = limit - std::min(limit, into.size());
  into.append(buffer.data(), std::min(room, static_cast<std::size_t>(got)));
  return got > 0;
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

}  // namespace

Result<CommandOutput> RunCommand(const Command& command) {
  SEALIFT_CHECK(!command.argv.empty());
  SEALIFT_ASSIGN_OR_RETURN(Pipe in, MakePipe());
  SEALIFT_ASSIGN_OR_RETURN(Pipe out, MakePipe());
  SEALIFT_ASSIGN_OR_RETURN(Pipe err, MakePipe());

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.read.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out.write.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.write.get(), STDERR_FILENO);
  std::vector<std::string> argv = command.argv;
  std::vector<std::string> environment = MergedEnvironment(command);
  pid_t pid = 0;
  const int spawned = ::posix_spawnp(&pid, argv[0].c_str(), &actions, nullptr, Pointers(argv).data(),
                                     Pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  if (spawned != 0) {
    return ErrnoError(Code::kNotFound, Reason::kToolMissing, fmt::format("run '{}'", argv[0]), "posix_spawn",
                      spawned);
  }
  SEALIFT_RETURN_IF_ERROR(in.read.Close());
  SEALIFT_RETURN_IF_ERROR(out.write.Close());
  SEALIFT_RETURN_IF_ERROR(err.write.Close());
  ::fcntl(in.write.get(), F_SETFL, O_NONBLOCK);

  CommandOutput output;
  std::string_view pending = command.stdin_text;
  if (pending.empty()) SEALIFT_RETURN_IF_ERROR(in.write.Close());
  const auto deadline = std::chrono::steady_clock::now() + command.timeout;
  bool out_open = true;
  bool err_open = true;
  while (out_open || err_open) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      ::kill(pid, SIGKILL);
      WaitFor(pid);
      return MakeError(Code::kDeadlineExceeded, Reason::kTimeout,
                       fmt::format("run '{}': no end after {} ms", argv[0], command.timeout.count()));
    }
    std::array<pollfd, 3> polled{{{out_open ? out.read.get() : -1, POLLIN, 0},
                                  {err_open ? err.read.get() : -1, POLLIN, 0},
                                  {in.write.valid() ? in.write.get() : -1, POLLOUT, 0}}};
    ::poll(polled.data(), polled.size(), static_cast<int>(std::min<std::int64_t>(left.count(), 1000)));
    if (polled[0].revents != 0) out_open = Drain(out.read.get(), output.out, command.max_output_bytes);
    if (polled[1].revents != 0) err_open = Drain(err.read.get(), output.err, command.max_output_bytes);
    if (polled[2].revents != 0) {
      const ssize_t written = ::write(in.write.get(), pending.data(), pending.size());
      if (written > 0) pending.remove_prefix(static_cast<std::size_t>(written));
      // A program that closes its input early has read what it wanted.
      if (pending.empty() || (written < 0 && errno != EAGAIN && errno != EINTR))
        SEALIFT_RETURN_IF_ERROR(in.write.Close());
    }
  }
  const int state = WaitFor(pid);
  if (WIFSIGNALED(state)) {
    return MakeError(
        Code::kInternal, Reason::kToolFailed,
        fmt::format("run '{}': ended by signal {}: {}", argv[0], WTERMSIG(state), LastLine(output.err)));
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
