#include "node-agent/app/system.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>
#include <sstream>

#include "shared/base/log.h"
#include "shared/base/subprocess.h"

namespace sealift::agent {
namespace {

std::string FirstLine(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')).substr(0, 300));
}

// mountinfo writes blanks and the like as \040.
std::string Unescape(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 3 >= text.size()) {
      plain += text[i];
      continue;
    }
    int value = 0;
    for (std::size_t digit = 1; digit <= 3; ++digit) value = value * 8 + (text[i + digit] - '0');
    plain += static_cast<char>(value);
    i += 3;
  }
  return plain;
}

}  // namespace

Result<std::string> ReadBootId() {
  SEALIFT_ASSIGN_OR_RETURN(std::string text, ReadTextFile("/proc/sys/kernel/random/boot_id", 128));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

Result<UnixMillis> ReadImageBuildTime(const std::filesystem::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) {
    return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable,
                      fmt::format("read the time of '{}'", file.string()), "stat", errno);
  }
  return FromUnixMs(static_cast<std::int64_t>(info.st_mtim.tv_sec) * 1000);
}

Status ForbidCoreDumps() {
  const struct rlimit none {};
  if (::setrlimit(RLIMIT_CORE, &none) != 0) {
    return ErrnoError(Code::kUnavailable, Reason::kInternal, "forbid core dumps", "setrlimit", errno);
  }
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) {
    return ErrnoError(Code::kUnavailable, Reason::kInternal, "forbid core dumps", "prctl", errno);
  }
  return OkStatus();
}

Result<UniqueFd> LockAgent(const std::filesystem::path& runtime_directory) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(runtime_directory, 0755));
  const std::filesystem::path path = runtime_directory / "agent.lock";
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) {
    return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("lock '{}'", path.string()),
                      "open", errno);
  }
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return MakeError(Code::kFailedPrecondition, Reason::kAgentRunning,
                     fmt::format("lock '{}': another sealift-agent holds it", path.string()));
  }
  return fd;
}

Status CommandRebooter::RequestReboot(const std::string& why) {
  log::Info("asking for a reboot", {{"reason", why}});
  return RunCommandChecked({.argv = command_, .timeout = std::chrono::seconds(60)}).status();
}

Health CommandHealthCheck::CheckUnits() const {
  const Result<CommandOutput> units = RunCommandChecked(
      {.argv = {"systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager"},
       .timeout = timeout_});
  if (!units.ok()) return {.healthy = false, .problem = Describe(units.status())};
  if (units->out.empty()) return {.healthy = true};
  return {.healthy = false, .problem = fmt::format("failed unit: {}", FirstLine(units->out))};
}

Health CommandHealthCheck::Check() {
  if (commands_.empty()) return CheckUnits();
  for (const std::vector<std::string>& command : commands_) {
    const Result<CommandOutput> output = RunCommandChecked({.argv = command, .timeout = timeout_});
    if (!output.ok()) return {.healthy = false, .problem = Describe(output.status())};
  }
  return {.healthy = true};
}

Result<bool> IsMountPoint(const std::filesystem::path& path) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string table, ReadTextFile("/proc/self/mountinfo", 8u << 20));
  std::istringstream lines(table);
  std::string line;
  while (std::getline(lines, line)) {
    // "36 35 98:0 /root /mount/point options ...": the fifth field.
    std::istringstream fields(line);
    std::string field;
    for (int i = 0; i < 5 && fields >> field; ++i) {
    }
    if (fields && Unescape(field) == path.lexically_normal().string()) return true;
  }
  return false;
}

}  // namespace sealift::agent
