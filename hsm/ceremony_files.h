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

// How writing ended, and how much is in place by then. What files that are in place speak of, keys above all,
// must stay, whatever `status` says.
struct Written {
  enum class InPlace { kNothing, kSome, kAll };
  Status status;
  // kAll with an error: it may be gone again after a power cut.
  InPlace in_place = InPlace::kNothing;
};

// Writes `files` (paths inside the folder) beside the folder, makes them durable, and renames the whole into
// place without replacing anything. Key references (*.key.pem) are readable by their owner only.
// Errors: KEY_SET_EXISTS; those of WriteFileAtomically. In place is all or nothing.
Written WriteFolderAtOnce(const std::filesystem::path& folder, const std::map<std::string, Bytes>& files);

// Adds and replaces files of a folder that is there (paths inside it): all contents are written beside the
// old ones and made durable, then renamed into place in the order given, the last when the others are
// durable. A folder inside that is not there yet appears whole, by one rename, at its first file's turn; the
// last file is to be in one that is there. A failure before the first rename changes nothing.
// Errors: FILE_UNWRITABLE, DISK_FULL.
Written ReplaceFiles(const std::filesystem::path& folder,
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
