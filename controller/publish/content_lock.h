// Keeps collections and uploads apart on one content folder, across threads and processes.
//
// An upload holds the lock shared while it renews an object or makes it visible; a collection holds it
// exclusively from its look at an object's age to the object's removal. Released with the descriptor, so
// also by a kill. Each call opens its own descriptor: holders in one process exclude each other as well.
#pragma once

#include <filesystem>

#include "shared/base/files.h"
#include "shared/base/status.h"

namespace sealift::controller {

enum class ContentLock { kUpload, kCollection };

// Waits until it is free, which takes moments. `directory`: that of the store. Errors: FILE_UNREADABLE.
Result<UniqueFd> LockContent(const std::filesystem::path& directory, ContentLock kind);

}  // namespace sealift::controller
