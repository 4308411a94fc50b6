// Escrowed recovery keys: a secret that a node makes and only the custodians' key can read.
//
// An AES-256-GCM key of the moment, encrypted by RSA-OAEP to the escrow key, and the secret encrypted by it;
// what the secret is for is authenticated beside it. A JSON object (docs/volumes.md). Thread-safe functions
// over plain values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/secret.h"
#include "shared/base/status.h"
#include "shared/crypto/public_key.h"

namespace sealift::escrow {

// Hash of OAEP and of its MGF1. Recorded in each blob, since tokens differ: SoftHSM 2.6 offers SHA-1 only
// (OAEP needs no collision resistance of it).
enum class OaepHash { kSha1, kSha256 };
std::string_view OaepHashName(OaepHash hash);
// "sha1", "sha256". Errors: INVALID_ARGUMENT/INVALID_ARGUMENT.
Result<OaepHash> ParseOaepHash(std::string_view name);

// What the secret opens.
struct Subject {
  // The machine: SHA-256 of its endorsement key's SubjectPublicKeyInfo, as the controller names it.
  Sha256Digest ek_digest;
  // "oem", "persistent".
  std::string volume;
  // Lower-case UUID of the LUKS header.
  std::string luks_uuid;
  std::uint32_t slot = 0;
  bool operator==(const Subject&) const = default;
};

struct EscrowedKey {
  Subject subject;
  // SHA-256 of the SubjectPublicKeyInfo of the escrow key.
  Sha256Digest escrow_key_id;
  OaepHash oaep = OaepHash::kSha1;
  Bytes encrypted_key;
  Bytes nonce;
  // With its 16-byte tag at the end.
  Bytes ciphertext;
  bool operator==(const EscrowedKey&) const = default;
};

// `escrow_key`: RSA. `secret`: at most 1 KiB. Errors: FAILED_PRECONDITION/KEY_MISMATCH for a key that is not
// RSA.
Result<EscrowedKey> Escrow(const SecretBytes& secret, const Subject& subject, const PublicKey& escrow_key,
                           OaepHash oaep);

// A private key that decrypts, wherever it is kept: a token, or a file in tests.
class OaepDecrypter {
 public:
  virtual ~OaepDecrypter() = default;
  // RSAES-OAEP, empty label. Errors: ESCROW_MALFORMED when it does not decrypt; the token's own.
  virtual Result<SecretBytes> Decrypt(ByteView ciphertext, OaepHash oaep) = 0;
};

// Errors: INVALID_ARGUMENT/ESCROW_MALFORMED, also when the subject was changed; those of `key`.
Result<SecretBytes> Open(const EscrowedKey& escrowed, OaepDecrypter& key);

// One line of JSON. Parsing is bounded (16 KiB). Errors: INVALID_ARGUMENT/ESCROW_MALFORMED.
std::string Format(const EscrowedKey& escrowed);
Result<EscrowedKey> Parse(std::string_view json);

}  // namespace sealift::escrow
