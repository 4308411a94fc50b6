// Moves private keys from one token to another, never in the clear outside of either.
//
// The receiving token makes an RSA key pair that can unwrap and nothing else. The giving token makes an
// AES-256 key for the one time, wraps each private key with it (CKM_AES_KEY_WRAP_PAD over PKCS#8, RFC 5649)
// and the AES key with the RSA public half (CKM_RSA_PKCS_OAEP with SHA-1: what tokens have in common; OAEP
// does not need its hash to resist collisions). docs/decisions/0033.
//
// Thread-safe: no state. The AES key exists in sessions of the two tokens only.
#pragma once

#include <string>
#include <vector>

#include "hsm/hierarchy.h"
#include "hsm/token.h"
#include "shared/crypto/public_key.h"

namespace sealift::hsm {

struct WrappedKeys {
  // The AES key, for the transport key alone.
  Bytes wrapped_aes;
  // In the order in which they were asked for.
  std::vector<Bytes> wrapped_keys;
};

// RSA-3072, born in the token, for unwrapping alone, destroyable; the one that is there under this label, if
// it is such a key. Errors: HSM_KEY_EXISTS for another key's label; those of KeyStore::Generate.
Result<PublicKey> MakeTransportKey(Token& token, const std::string& label);

// Errors: FAILED_PRECONDITION/KEY_NOT_WRAPPABLE when the token keeps one of the keys to itself;
// HSM_MECHANISM_MISSING; HSM_KEY_MISSING; INVALID_ARGUMENT for a transport key that is not RSA.
Result<WrappedKeys> WrapKeys(Token& token, const PublicKey& transport, const std::vector<Sha256Digest>& ids);

struct RestoredKey {
  PublicKey public_key;
  KeyUse use = KeyUse::kSign;
  std::string label;
};

// Puts the private key into the token beside its public half, for its use and mechanism alone, not
// extractable unless `leaving` says so, not modifiable where the token can do that, and proves that the two
// belong together. A key that is there already, as a killed call leaves it, gets its public half and is
// proven likewise. Nothing that this call placed stays after an error. Errors: KEY_BACKUP_INVALID when
// nothing, or another key, comes out of the wrapped bytes, or is there; HSM_KEY_MISSING without the transport
// key; others of the token.
Status UnwrapKey(const std::shared_ptr<Token>& token, const Sha256Digest& transport, ByteView wrapped_aes,
                 ByteView wrapped_key, const RestoredKey& key, Leaving leaving);

}  // namespace sealift::hsm
