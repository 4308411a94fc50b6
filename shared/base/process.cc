#include "shared/base/process.h"

#include <sys/prctl.h>
#include <sys/resource.h>

#include <cerrno>

namespace sealift {

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

}  // namespace sealift
