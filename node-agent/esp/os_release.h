// The version in an os-release text (man os-release), which a UKI carries in .osrel and a running system in
// /etc/os-release: IMAGE_VERSION where there is one, else VERSION_ID.
#pragma once

#include <string>
#include <string_view>

#include "shared/base/status.h"

namespace sealift::agent {

// One value, without its quotes; empty when there is none. The last assignment counts, as in a shell.
std::string OsReleaseValue(std::string_view text, std::string_view key);
// Errors: INVALID_ARGUMENT/IMAGE_MALFORMED when there is no version, or not a valid one.
Result<std::string> OsReleaseVersion(std::string_view text);

}  // namespace sealift::agent
