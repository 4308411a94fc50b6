#include "controller/extension/extension_release.h"

#include <fmt/format.h>

namespace sealift::extension {
namespace {

std::string_view Unquoted(std::string_view value) {
  if (value.size() >= 2 && value.front() == value.back() && (value.front() == '"' || value.front() == '\''))
    return value.substr(1, value.size() - 2);
  return value;
}

std::string_view VersionKey(ExtensionKind kind) {
  return kind == ExtensionKind::kConfiguration ? "CONFEXT_VERSION_ID" : "SYSEXT_VERSION_ID";
}

}  // namespace

std::string ExtensionReleasePath(ExtensionKind kind, std::string_view name) {
  return fmt::format("{}/extension-release.d/extension-release.{}",
                     kind == ExtensionKind::kConfiguration ? "etc" : "usr/lib", name);
}

ExtensionRelease ParseExtensionRelease(ExtensionKind kind, std::string_view text) {
  ExtensionRelease release;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    const std::size_t equals = line.find('=');
    if (equals == std::string_view::npos) continue;
    const std::string_view key = line.substr(0, equals);
    const std::string value(Unquoted(line.substr(equals + 1)));
    if (key == "ID") release.os_id = value;
    if (key == "VERSION_ID") release.os_version_id = value;
    if (key == VersionKey(kind)) release.version = value;
  }
  return release;
}

std::string FormatExtensionRelease(ExtensionKind kind, const ExtensionRelease& release) {
  std::string text = fmt::format("ID={}\n", release.os_id);
  if (!release.os_version_id.empty()) text += fmt::format("VERSION_ID={}\n", release.os_version_id);
  return text + fmt::format("{}={}\n", VersionKey(kind), release.version);
}

}  // namespace sealift::extension
