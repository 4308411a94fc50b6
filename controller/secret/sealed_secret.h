// A secret at rest: encrypted to a key in the token (role `secrets`), with all conditions of its release
// authenticated beside it.
//
// An AES-256-GCM key of the moment, encrypted by RSA-OAEP to the token's key, and the value encrypted by it.
// Whoever can write the database can neither read a value nor loosen what it takes to get it. Thread-safe.
#pragma once

#include <memory>
#include <string>

#include "controller/secret/secret.h"
#include "shared/base/secret.h"
#include "shared/crypto/public_key.h"
#include "shared/escrow/escrow.h"

namespace sealift::controller {

// The token's keys for secrets at rest. Thread-safe.
class SecretKeys {
 public:
  virtual ~SecretKeys() = default;
  // New values are encrypted to it.
  virtual const PublicKey& Current() const = 0;
  // The private half of a generation, which decrypts in the token. `intent`: for the signing journal.
  // Errors: NOT_FOUND/HSM_KEY_MISSING.
  virtual Result<std::unique_ptr<escrow::OaepDecrypter>> Open(const Sha256Digest& key_id,
                                                              const std::string& intent) = 0;
};

// The value for `record`, whose other members are set: JSON, one line. `value`: 1 to kMaxSecretBytes. Errors:
// INVALID_ARGUMENT; those of OaepEncrypt.
Result<std::string> SealSecret(const SecretRecord& record, const SecretBytes& value, const PublicKey& key);
// Errors: DATA_LOSS/STORE_FAILED where the record's conditions or its value were changed; those of `keys`.
Result<SecretBytes> UnsealSecret(const SecretRecord& record, SecretKeys& keys, const std::string& intent);

}  // namespace sealift::controller
