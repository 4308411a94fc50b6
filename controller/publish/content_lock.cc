#include "controller/publish/content_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <cerrno>

namespace sealift::controller {

Result<UniqueFd> LockContent(const std::filesystem::path& directory, ContentLock kind) {
  const std::filesystem::path objects = directory / "objects";
  UniqueFd fd(::open(objects.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable, fmt::format("lock '{}'", objects.string()),
                      "open", errno);
  }
  while (::flock(fd.get(), kind == ContentLock::kUpload ? LOCK_SH : LOCK_EX) != 0) {
    if (errno == EINTR) continue;
    return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable, fmt::format("lock '{}'", objects.string()),
                      "flock", errno);
  }
  return fd;
}

}  // namespace sealift::controller
