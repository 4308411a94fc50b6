// What keeps the TLS key to this machine's own system: a secret on the state partition, without which the key
// neither signs nor can be made again, so that another OS on the box cannot speak as the node.
//
// Where the volumes are encrypted, only an image of this fleet reads it (docs/volumes.md). Where they are
// not, it is as safe as the disk. docs/decisions/0085.
#pragma once

#include <filesystem>

#include "shared/base/secret.h"
#include "shared/base/status.h"

namespace sealift::agent {

inline constexpr std::size_t kTlsGuardBytes = 32;
inline constexpr std::string_view kTlsGuardFileName = "tls-guard";

// A guard for as long as this process runs: where there is no state partition, the TLS key and its
// certificate are those of one boot.
SecretBytes MakeTlsGuard();
// Reads the file as untrusted; writes a new guard where it is missing or no guard. Errors: those of
// WriteFileAtomically.
Result<SecretBytes> LoadOrMakeTlsGuard(const std::filesystem::path& file);

}  // namespace sealift::agent
