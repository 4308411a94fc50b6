// Encrypts small secrets to an RSA key whose private half decrypts elsewhere: OaepDecrypter (escrow.h).
#pragma once

#include "shared/base/secret.h"
#include "shared/crypto/public_key.h"
#include "shared/escrow/escrow.h"

namespace sealift::escrow {

// RSAES-OAEP (RFC 8017, 7.1), empty label. Errors: FAILED_PRECONDITION/KEY_MISMATCH for a key that is not
// RSA.
Result<Bytes> OaepEncrypt(const PublicKey& key, OaepHash oaep, const SecretBytes& secret);

}  // namespace sealift::escrow
