// Backups of a set's wrappable keys: a file of keys that are encrypted for one other token, and its way back.
//
// The explicit exception to "a key never leaves its token": only sets made with Leaving::kWrapped have such
// keys, and what was done with them stays in inventory and journal. The file is one JSON object, signed by
// one of the keys inside, so that nobody without a key of the set can make one that is accepted.
// docs/keys.md describes it. Run by one person at a time.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hsm/key_ring.h"
#include "hsm/key_transport.h"
#include "shared/base/clock.h"

namespace sealift::hsm {

inline constexpr std::size_t kMaxBackupBytes = 1u << 20;

struct BackupEntry {
  std::string role;
  std::uint32_t generation = 1;
  Sha256Digest key_id;
  // CKM_AES_KEY_WRAP_PAD of the PKCS#8.
  Bytes wrapped;
};

struct KeyBackup {
  std::string set;
  UnixMillis made;
  // CKA_ID of the key in the token that can take it.
  Sha256Digest transport;
  Bytes wrapped_aes;
  std::vector<BackupEntry> entries;
  // Of the signer, which is one of `entries`.
  Sha256Digest signed_by;
  Bytes signature;

  // What the signature is over: a fixed prefix, then the JSON without "signature".
  Bytes SignedBytes() const;
  std::string Json() const;
  // Bounded and strict; proves nothing about who signed. Errors: INVALID_ARGUMENT/KEY_BACKUP_INVALID.
  static Result<KeyBackup> Parse(std::string_view json);
};

// Of the keys of `roles`, the generations that `ring` was opened with a choice of, else all that its tokens
// hold; all in one token. Recorded as "backed-up" before it is returned.
// Errors: FAILED_PRECONDITION/KEY_NOT_WRAPPABLE before anything is wrapped; INVALID_ARGUMENT for keys in
// several tokens or none that signs, and for a role that none of them is of; HSM_KEY_MISSING; those of
// WrapKeys and the journal.
Result<KeyBackup> BackUpKeys(KeyRing& ring, const std::vector<std::string>& roles, const PublicKey& transport,
                             UnixMillis now);

// Puts every key of the backup into `token`, which `ring` was given for the groups of the keys, and notes it
// in journal (before) and inventory (after). A failed or killed call can be made again.
// Errors: FAILED_PRECONDITION/KEY_BACKUP_INVALID for another set's, an unsigned or a damaged one, and
// INVALID_ARGUMENT for keys of a group that the token is not of, before anything is placed; those of
// UnwrapKey.
Result<Inventory> RestoreKeys(KeyRing& ring, const std::shared_ptr<Token>& token, const KeyBackup& backup,
                              Leaving leaving);

}  // namespace sealift::hsm
