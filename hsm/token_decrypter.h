// Decrypts with a key in a token: what the escrow key is for.
//
// RSAES-OAEP with the hash that the blob names, where the token offers it (CKM_RSA_PKCS_OAEP; PKCS#11 2.40
// mechanisms, 2.1.8). Each use is in the signing journal before the plaintext leaves: an intent over the
// SHA-256 of the ciphertext, and an outcome. Thread-safe.
#pragma once

#include <memory>
#include <string>

#include "hsm/journal.h"
#include "hsm/token.h"
#include "shared/escrow/escrow.h"

namespace sealift::hsm {

class TokenDecrypter final : public escrow::OaepDecrypter {
 public:
  // The private key with this CKA_ID. `intent`: for the journal, of every decryption by this object.
  // Errors: NOT_FOUND/HSM_KEY_MISSING.
  static Result<std::unique_ptr<TokenDecrypter>> Open(std::shared_ptr<Token> token,
                                                      const Sha256Digest& key_id, std::string intent);

  // Errors: INVALID_ARGUMENT/ESCROW_MALFORMED when it does not decrypt; HSM_MECHANISM_MISSING for a hash that
  // the token does not offer; those of the session pool; JOURNAL_UNWRITABLE.
  Result<SecretBytes> Decrypt(ByteView ciphertext, escrow::OaepHash oaep) override;

 private:
  TokenDecrypter(std::shared_ptr<Token> token, const Sha256Digest& key_id, std::string intent)
      : token_(std::move(token)), key_id_(key_id), intent_(std::move(intent)) {}
  Result<SecretBytes> Try(ByteView ciphertext, escrow::OaepHash oaep, const SessionPool::Lease& lease);

  const std::shared_ptr<Token> token_;
  const Sha256Digest key_id_;
  const std::string intent_;
};

}  // namespace sealift::hsm
