// Where a PIN comes from. Never from an argument, a URI or an environment variable.
#pragma once

#include "hsm/token_uri.h"
#include "shared/base/secret.h"
#include "shared/base/status.h"

namespace sealift::hsm {

// In this order: the URI's pin-source file; the systemd credential "sealift.pin.<token label>" in
// $CREDENTIALS_DIRECTORY; a prompt without echo, when the process has a terminal. One trailing line end is
// not part of the PIN. Errors: FAILED_PRECONDITION/HSM_PIN_MISSING when there is no source; those of
// CheckSecretFile.
Result<SecretBytes> ReadPin(const TokenUri& uri);

// A PIN file: readable by its owner only, 1 to 255 bytes, one line.
Result<SecretBytes> ReadPinFile(const std::string& path);

}  // namespace sealift::hsm
