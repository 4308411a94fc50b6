#include "node-agent/esp/os_release.h"

#include "shared/base/ids.h"

namespace sealift::agent {

std::string OsReleaseValue(std::string_view text, std::string_view key) {
  std::string value;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    if (line.size() <= key.size() || !line.starts_with(key) || line[key.size()] != '=') continue;
    line.remove_prefix(key.size() + 1);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.size() >= 2 && (line.front() == '"' || line.front() == '\'') && line.back() == line.front()) {
      line = line.substr(1, line.size() - 2);
    }
    value = line;
  }
  return value;
}

Result<std::string> OsReleaseVersion(std::string_view text) {
  std::string version = OsReleaseValue(text, "IMAGE_VERSION");
  if (version.empty()) version = OsReleaseValue(text, "VERSION_ID");
  if (!IsValidVersion(version)) {
    return MakeError(Code::kInvalidArgument, Reason::kImageMalformed,
                     "read os-release: neither IMAGE_VERSION nor VERSION_ID is a version");
  }
  return version;
}

}  // namespace sealift::agent
