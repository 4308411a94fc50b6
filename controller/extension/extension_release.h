// The extension-release file inside an extension: which OS it is for, and its own version (os-release(5),
// systemd-sysext(8)).
//
// Plain values and pure functions; thread-safe.
#pragma once

#include <string>
#include <string_view>

#include "shared/release/extension_list.h"

namespace sealift::extension {

inline constexpr std::size_t kMaxExtensionReleaseBytes = 64u << 10;

struct ExtensionRelease {
  // ID; "_any" for any.
  std::string os_id;
  // VERSION_ID; empty: not asked for.
  std::string os_version_id;
  // SYSEXT_VERSION_ID or CONFEXT_VERSION_ID: of the extension.
  std::string version;
};

// "usr/lib/extension-release.d/extension-release.NAME"; of a configuration extension in "etc" instead of
// "usr/lib".
std::string ExtensionReleasePath(ExtensionKind kind, std::string_view name);
// KEY=value lines, unquoted; others are skipped.
ExtensionRelease ParseExtensionRelease(ExtensionKind kind, std::string_view text);
std::string FormatExtensionRelease(ExtensionKind kind, const ExtensionRelease& release);

}  // namespace sealift::extension
