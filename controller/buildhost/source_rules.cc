#include "controller/buildhost/source_rules.h"

#include <fmt/format.h>

#include <algorithm>

#include "controller/source/source.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kRegistry = "docker:";

bool IsBelow(const fs::path& path, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first == folder.end();
}

Status Forbidden(std::string_view field, std::string_view value) {
  return MakeError(
      Code::kPermissionDenied, Reason::kBuildSourceForbidden,
      fmt::format("read {} '{}': it is not below a place that this build host reads from", field, value));
}

}  // namespace

Result<SourceRules> SourceRules::Parse(const std::vector<std::string>& allowed) {
  SourceRules rules;
  for (const std::string& text : allowed) {
    if (text.starts_with("docker://")) {
      std::string place = text.substr(kRegistry.size());
      while (place.size() > 2 && place.back() == '/') place.pop_back();
      if (place.size() == 2) {
        return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                         fmt::format("allow source '{}': it names no registry", text));
      }
      rules.registries_.push_back(std::move(place));
      continue;
    }
    const fs::path folder(text);
    if (!folder.is_absolute()) {
      return MakeError(
          Code::kInvalidArgument, Reason::kInvalidArgument,
          fmt::format("allow source '{}': write an absolute folder or docker://HOST/PATH", text));
    }
    std::error_code error;
    const fs::path resolved = fs::canonical(folder, error);
    if (error || !fs::is_directory(resolved, error)) {
      return MakeError(Code::kFailedPrecondition, Reason::kFileUnreadable,
                       fmt::format("allow source '{}': it is no folder", text));
    }
    rules.folders_.push_back(resolved);
  }
  return rules;
}

// By parts of the name: a listed registry is not one whose name begins alike, nor the same host's other port.
bool SourceRules::AdmitsImage(std::string_view place) const {
  return std::any_of(registries_.begin(), registries_.end(), [&](const std::string& allowed) {
    if (!place.starts_with(allowed)) return false;
    const std::string_view rest = place.substr(allowed.size());
    if (rest.empty() || rest.front() == '/') return true;
    const bool names_image = allowed.find('/', 2) != std::string::npos;
    return names_image && (rest.front() == ':' || rest.front() == '@');
  });
}

Status SourceRules::AdmitPath(std::string_view field, fs::path& path) const {
  std::error_code error;
  const fs::path resolved = path.is_absolute() ? fs::canonical(path, error) : fs::path();
  const bool below = !error && std::any_of(folders_.begin(), folders_.end(),
                                           [&](const fs::path& folder) { return IsBelow(resolved, folder); });
  if (!below) return Forbidden(field, path.string());
  path = resolved;
  return OkStatus();
}

Status SourceRules::Admit(BuildRequest& request) const {
  SEALIFT_ASSIGN_OR_RETURN(build::SourceReference source, build::ParseSource(request.release.source));
  if (source.kind == "docker") {
    if (!AdmitsImage(source.place)) return Forbidden("source", request.release.source);
  } else {
    fs::path place = source.place;
    SEALIFT_RETURN_IF_ERROR(AdmitPath("source", place));
    source.place = place.string();
    request.release.source = source.Text();
    // The text is taken apart again by whoever reads it: a folder that is named like a place with a tag must
    // not make it another place.
    SEALIFT_ASSIGN_OR_RETURN(const auto again, build::ParseSource(request.release.source));
    if (again.place != source.place || again.tag != source.tag)
      return Forbidden("source", request.release.source);
  }
  Status status;
  ForEachInputPath(request, [&](std::string_view field, fs::path& path) {
    if (!path.empty() && status.ok()) status = AdmitPath(field, path);
  });
  return status;
}

}  // namespace sealift::controller
