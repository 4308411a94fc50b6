// Paths as they stay from version to version.
#pragma once

#include <string>
#include <string_view>

namespace sealift::content {

// Each run of digits becomes one '#': version numbers in paths change with every upgrade, the file is the
// same. Thread-safe.
std::string WithoutNumbers(std::string_view path);

}  // namespace sealift::content
