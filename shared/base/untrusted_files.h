// Files in a folder that may hold anything: what lies there under a name need not be a file. Opening it
// follows no link in the last component and waits for nobody at the other end of a pipe.
//
// Thread-safe functions. The folders above are the caller's to check.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "shared/base/bytes.h"
#include "shared/base/files.h"
#include "shared/base/status.h"

namespace sealift {

// For reading. Errors: NOT_FOUND, PERMISSION_DENIED or UNAVAILABLE with FILE_UNREADABLE;
// FAILED_PRECONDITION/FILE_UNREADABLE for a link, a folder, a pipe and the like.
Result<UniqueFd> OpenRegularFile(const std::filesystem::path& path);

// The whole file. Errors: as OpenRegularFile; INVALID_ARGUMENT/FILE_TOO_LARGE above `max_bytes`.
Result<Bytes> ReadRegularFile(const std::filesystem::path& path,
                              std::uint64_t max_bytes = kDefaultMaxFileBytes);
Result<std::string> ReadRegularTextFile(const std::filesystem::path& path,
                                        std::uint64_t max_bytes = kDefaultMaxFileBytes);

// Removes whatever lies there, a folder with all that is in it; of a link only the link. Success when there
// is nothing. Errors: UNAVAILABLE/FILE_UNWRITABLE.
Status RemoveAnything(const std::filesystem::path& path);
// The same, but leaves a regular file alone.
Status RemoveUnlessRegular(const std::filesystem::path& path);

}  // namespace sealift
