// Secrets that a controller encrypts for a node: their names, and what is authenticated beside them. Pure.
#pragma once

#include <string_view>

#include "shared/base/bytes.h"

namespace sealift::tpm {

// 1 to 64 of [a-z0-9._-], led by a letter or digit: it becomes part of file names.
bool IsSecretName(std::string_view name);

// "sealift secret 1", name and id, each with a line feed.
Bytes SecretContext(std::string_view name, std::string_view id);

}  // namespace sealift::tpm
