#include "controller/extension/extension_release.h"

#include <fmt/format.h>

namespace sealift::extension {
namespace {

std::string_view Unquoted(std::string_view value) {
  if (value.size() >= 2 && value.front() == value.back() && (value.front() == '"' || value.front() == '\''))
    return value.substr(1, value.size() - 2);
  return value;
}

}  // namespace

std::string ExtensionReleasePath(std::string_view name) {
  return fmt::format("usr/lib/extension-release.d/extension-release.{}", name);
}

ExtensionRelease ParseExtensionRelease(std::string_view text) {
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
    if (key == "SYSEXT_VERSION_ID") release.version = value;
  }
  return release;
}

std::string FormatExtensionRelease(const ExtensionRelease& release) {
  std::string text = fmt::format("ID={}\n", release.os_id);
  if (!release.os_version_id.empty()) text += fmt::format("VERSION_ID={}\n", release.os_version_id);
  return text + fmt::format("SYSEXT_VERSION_ID={}\n", release.version);
}

}  // namespace sealift::extension
