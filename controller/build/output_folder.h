// A result that appears whole or not at all: made beside its place, moved there at the end.
//
// Not thread-safe. A build that is killed leaves ".NAME.partial-XXXXXX" beside the place; the next one to the
// same place removes it.
#pragma once

#include <filesystem>

#include "shared/base/files.h"

namespace sealift::build {

class OutputFolder {
 public:
  // Makes the folder to work in, on the file system of `place`. Errors: FILE_UNWRITABLE.
  static Result<OutputFolder> Create(const std::filesystem::path& place);
  OutputFolder(OutputFolder&& other) noexcept = default;
  OutputFolder& operator=(OutputFolder&&) = delete;
  // What was not committed goes away.
  ~OutputFolder();

  const std::filesystem::path& path() const { return path_; }
  // Moves the folder to its place. A folder that is there is replaced in one step, then removed. Errors:
  // FILE_UNWRITABLE, also where the place is a mount point, which cannot be replaced.
  Status Commit();
  // Moves the one file `name` of the folder beside the place instead; a file of that name is replaced. It
  // is on disk before it gets its name. Errors: FILE_UNWRITABLE, DISK_FULL.
  Status CommitFile(const std::string& name);

 private:
  OutputFolder(std::filesystem::path place, std::filesystem::path path, UniqueFd lock)
      : place_(std::move(place)), path_(std::move(path)), lock_(std::move(lock)) {}

  std::filesystem::path place_;
  // Empty once moved away.
  std::filesystem::path path_;
  // Held while the folder is in use.
  UniqueFd lock_;
};

}  // namespace sealift::build
