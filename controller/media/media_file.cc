#include "controller/media/media_file.h"

#include <fmt/format.h>

#include <algorithm>

namespace sealift::media {

namespace fs = std::filesystem;

Result<std::vector<MediaFile>> ListFiles(const fs::path& folder, const std::string& prefix) {
  std::error_code error;
  std::vector<MediaFile> files;
  for (auto at = fs::recursive_directory_iterator(folder, error);
       !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    const std::string name = at->path().lexically_relative(folder).generic_string();
    const fs::file_status status = at->symlink_status();
    if (fs::is_directory(status)) continue;
    if (!fs::is_regular_file(status)) {
      return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                       fmt::format("take '{}' onto the medium: it is neither a file nor a folder", name));
    }
    files.push_back({.path = prefix + name, .source = at->path()});
  }
  if (error) {
    return MakeError(Code::kNotFound, Reason::kFileUnreadable,
                     fmt::format("read folder '{}': {}", folder.string(), error.message()));
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
  return files;
}

}  // namespace sealift::media
