// Makes keys in a token and tells what is there. Nothing private ever comes out of it.
//
// Thread-safe: each call leases its own session. Keys are found by CKA_ID, which is the SHA-256 of their
// SubjectPublicKeyInfo; labels are for people.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hsm/hierarchy.h"
#include "hsm/session_pool.h"
#include "shared/crypto/public_key.h"

namespace sealift::hsm {

// What the token says about a private key; nothing where it does not know the attribute.
struct KeyCustody {
  std::optional<bool> sensitive;
  std::optional<bool> always_sensitive;
  std::optional<bool> extractable;
  std::optional<bool> never_extractable;
  std::optional<bool> local;
  std::optional<bool> modifiable;
  std::optional<bool> copyable;
  std::optional<bool> destroyable;
  std::optional<bool> sign;
  std::optional<bool> decrypt;
  std::optional<bool> unwrap;

  // Made in this token and never readable outside it: a restored backup is not.
  bool born_in_token() const {
    return local == true && always_sensitive == true && never_extractable == true;
  }
};

struct StoredKey {
  Bytes id;
  std::string label;
};

struct TokenView;

class KeyStore {
 public:
  // How a key gets its final CKA_ID, which is known only once the key exists.
  enum class Placement {
    // Generated for the session, then copied into the token as an object that nothing can change any more.
    kCopy,
    // Generated in the token, CKA_ID set afterwards; the object stays modifiable. For tokens without
    // C_CopyObject.
    kInPlace,
    // kCopy, and kInPlace where the token refuses that.
    kBest,
  };

  explicit KeyStore(std::shared_ptr<SessionPool> pool) : pool_(std::move(pool)) {}

  // For `use` alone; not extractable unless `leaving` says so. Returns the public half; its key_id() is the
  // CKA_ID. Errors: ALREADY_EXISTS/HSM_KEY_EXISTS when the label is taken; HSM_FAILED, also when the token
  // made a key that it would give out.
  Result<PublicKey> Generate(KeyAlgorithm algorithm, KeyUse use, const std::string& label,
                             Placement placement = Placement::kBest, Leaving leaving = Leaving::kNever);
  // Private keys, in the token's order.
  Result<std::vector<StoredKey>> List();
  Result<bool> HoldsPrivateKey(const Sha256Digest& id);
  Result<std::vector<StoredKey>> FindByLabel(std::string_view label);
  // Errors: NOT_FOUND/HSM_KEY_MISSING.
  Result<PublicKey> ReadPublicHalf(const Sha256Digest& id);
  Result<KeyCustody> ReadCustody(const Sha256Digest& id);
  // Takes both halves away. False when the token forbids it (CKA_DESTROYABLE false); true also when neither
  // is there.
  Result<bool> Destroy(const Sha256Digest& id);
  // Whether the token generates EC keys.
  Result<bool> HasEc();
  // Whether it generates such a key and then does with it what it is for. Makes nothing.
  // Errors: FAILED_PRECONDITION/HSM_MECHANISM_MISSING naming mechanism and token.
  Status CheckMechanisms(KeyAlgorithm algorithm, KeyUse use);

 private:
  // Reads on a session of its own, which is mended when it was lost.
  template <typename T>
  Result<T> OnToken(const std::function<Result<T>(const TokenView& view)>& read);
  Status CheckMechanism(CK_MECHANISM_TYPE mechanism, std::string_view name, CK_FLAGS flag, CK_ULONG bits);
  Result<PublicKey> GenerateOnce(KeyAlgorithm algorithm, KeyUse use, const std::string& label,
                                 Placement placement, Leaving leaving);

  std::shared_ptr<SessionPool> pool_;
};

}  // namespace sealift::hsm
