// Recovery keys as people read and type them: 256 random bits as eight groups of seven characters.
//
// Crockford's base 32 (no i, l, o, u) of the 32 bytes and three bytes of their SHA-256, so that a typing
// mistake is found before any slot is tried. The text itself, lower-case with dashes, is the LUKS passphrase:
// `cryptsetup open` takes it on a rescue system. Thread-safe functions.
#pragma once

#include <string_view>

#include "shared/base/secret.h"
#include "shared/base/status.h"

namespace sealift::escrow {

// "0f3k9qz-...": 63 characters.
SecretBytes MakeRecoveryKey();

// The canonical text of what somebody typed: case, blanks, missing dashes, o for 0, i or l for 1 are mended.
// Errors: INVALID_ARGUMENT/RECOVERY_KEY_WRONG for a wrong length, character or checksum.
Result<SecretBytes> ReadRecoveryKey(std::string_view typed);

}  // namespace sealift::escrow
