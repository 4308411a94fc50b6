// What a build host reads for others: below listed folders, and from listed registries, only.
//
// Immutable; thread-safe.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "controller/buildhost/build_request.h"

namespace sealift::controller {

class SourceRules {
 public:
  // `allowed`: absolute folders, and "docker://HOST[/PATH]" for images of that registry, below that path or
  // of that name. Folders are resolved now. Errors: INVALID_ARGUMENT for another text; NOT_FOUND or
  // FAILED_PRECONDITION with FILE_UNREADABLE for a folder that is none.
  static Result<SourceRules> Parse(const std::vector<std::string>& allowed);

  // Resolves every path of the request, symbolic links included, and writes the result back: what was checked
  // is what is read. Whether a place outside exists does not show. Errors:
  // PERMISSION_DENIED/BUILD_SOURCE_FORBIDDEN naming the field; those of build::ParseSource.
  Status Admit(BuildRequest& request) const;

 private:
  Status AdmitPath(std::string_view field, std::filesystem::path& path) const;
  bool AdmitsImage(std::string_view place) const;

  std::vector<std::filesystem::path> folders_;
  // "//registry.example/team".
  std::vector<std::string> registries_;
};

}  // namespace sealift::controller
