// A secret that somebody types or pipes in.
#pragma once

#include <cstddef>
#include <string_view>

#include "shared/base/secret.h"
#include "shared/base/status.h"

namespace sealift::agent {

// One line of standard input, at most `max_bytes`; at a terminal after "<prompt>: " and without echo. Empty
// at the end of the input. Errors: UNAVAILABLE/INTERNAL when the terminal cannot be set.
Result<SecretBytes> ReadSecretLine(std::string_view prompt, std::size_t max_bytes);

}  // namespace sealift::agent
