#include "node-agent/tpm/tls_guard.h"

#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/base/untrusted_files.h"
#include "shared/crypto/hash.h"

namespace sealift::agent {

SecretBytes MakeTlsGuard() { return SecretBytes(RandomBytes(kTlsGuardBytes)); }

Result<SecretBytes> LoadOrMakeTlsGuard(const std::filesystem::path& file) {
  auto read = ReadRegularFile(file, kTlsGuardBytes);
  if (read.ok() && read->size() == kTlsGuardBytes) return SecretBytes(std::move(*read));
  if (read.ok() || read.status().code() != Code::kNotFound) {
    log::Warning("the TLS key's guard is of no use; making another key", {{"path", file.string()}});
  }
  SecretBytes guard = MakeTlsGuard();
  SEALIFT_RETURN_IF_ERROR(RemoveUnlessRegular(file));
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(file, guard.ExposeSecret(), 0600));
  return guard;
}

}  // namespace sealift::agent
