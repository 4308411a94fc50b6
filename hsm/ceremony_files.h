// The folder a ceremony writes: there completely, or not at all.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/files.h"
#include "shared/base/status.h"

namespace sealift::hsm {

// Errors: ALREADY_EXISTS/KEY_SET_EXISTS, also for an empty folder.
Status CheckAbsent(const std::filesystem::path& folder);

// Writes `files` (paths inside the folder) beside the folder, makes them durable, and renames the whole into
// place without replacing anything. Key references (*.key.pem) are readable by their owner only.
// Errors: KEY_SET_EXISTS; those of WriteFileAtomically. Nothing stays behind.
Status WriteFolderAtOnce(const std::filesystem::path& folder, const std::map<std::string, Bytes>& files);

// Adds and replaces files of a folder that is there (paths inside it): all contents are written beside the
// old ones and made durable, then renamed into place in the order given, the last when the others are
// durable. A failure before the first rename changes nothing. Errors: FILE_UNWRITABLE, DISK_FULL.
Status ReplaceFiles(const std::filesystem::path& folder,
                    const std::vector<std::pair<std::string, Bytes>>& files);

// Keeps other programs that take it out of a set's folder, until it goes away; waits for them. Move-only.
class FolderLock {
 public:
  // Errors: FILE_UNREADABLE.
  static Result<FolderLock> Take(const std::filesystem::path& folder);

 private:
  explicit FolderLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace sealift::hsm
