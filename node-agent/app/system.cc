#include "node-agent/app/system.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "shared/base/log.h"
#include "shared/base/subprocess.h"

namespace sealift::agent {
namespace {

struct flock WholeFile(short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

}  // namespace

Result<std::string> ReadBootId(const std::filesystem::path& file) {
  SEALIFT_ASSIGN_OR_RETURN(std::string text, ReadTextFile(file, 128));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

Result<UnixMillis> ReadImageBuildTime(const std::filesystem::path& file) {
  SEALIFT_ASSIGN_OR_RETURN(std::string text, ReadTextFile(file, 64));
  if (!text.empty() && text.back() == '\n') text.pop_back();
  const auto built = ParseRfc3339(text);
  if (!built.ok())
    return Annotate(built.status(), fmt::format("read the image's build time '{}'", file.string()));
  return *built;
}

std::optional<HardwareModel> ReadHardwareModel(const std::filesystem::path& folder) {
  constexpr std::size_t kMaxBytes = 64;
  const auto read = [&](const char* name) {
    std::string clean;
    for (const char c : ReadTextFile(folder / name, 4096).value_or("")) {
      if (c == '\n' || clean.size() == kMaxBytes) break;
      clean.push_back(c >= ' ' && c <= '~' ? c : '?');
    }
    while (clean.ends_with(' ')) clean.pop_back();
    return clean;
  };
  HardwareModel model{.vendor = read("sys_vendor"),
                      .product = read("product_name"),
                      .firmware_version = read("bios_version")};
  if (model.vendor.empty() && model.product.empty()) return std::nullopt;
  return model;
}

Result<UniqueFd> LockAgent(const std::filesystem::path& runtime_directory) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(runtime_directory, 0755));
  const std::filesystem::path path = runtime_directory / kLockFileName;
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd.valid()) {
    return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("lock '{}'", path.string()),
                      "open", errno);
  }
  struct flock whole = WholeFile(F_WRLCK);
  if (::fcntl(fd.get(), F_OFD_SETLK, &whole) != 0) {
    return MakeError(Code::kFailedPrecondition, Reason::kAgentRunning,
                     fmt::format("lock '{}': another sealift-agent holds it", path.string()));
  }
  return fd;
}

bool AgentRuns(const std::filesystem::path& runtime_directory) {
  const UniqueFd fd(::open((runtime_directory / kLockFileName).c_str(), O_RDONLY | O_CLOEXEC));
  // Asks only: taking the lock for a moment would turn away an agent that starts in that moment.
  struct flock whole = WholeFile(F_RDLCK);
  return fd.valid() && ::fcntl(fd.get(), F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
}

Status CommandRebooter::RequestReboot(const std::string& why) {
  log::Info("asking for a reboot", {{"reason", why}});
  return RunCommandChecked({.argv = command_, .timeout = std::chrono::seconds(60)}).status();
}

}  // namespace sealift::agent
