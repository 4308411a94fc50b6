#include "node-agent/tpm/tpm.h"
#include "shared/base/files.h"
#include "shared/tpm/event_log.h"

namespace sealift::agent {

Result<Bytes> ReadEventLog(const std::filesystem::path& path) {
  return ReadFile(path, tpm::kMaxEventLogBytes);
}

}  // namespace sealift::agent
