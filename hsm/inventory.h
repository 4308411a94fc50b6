// inventory.json: which keys a set has and where each lives. Public material only.
//
// Plain values. Written by the ceremony that makes the set and by what signs Secure Boot variables later
// (hsm/secure_boot.h), read by everything that uses it. The format number is in the file; a newer one is
// refused.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "hsm/hierarchy.h"
#include "shared/base/clock.h"
#include "shared/efi/guid.h"

namespace sealift::hsm {

inline constexpr int kInventoryFormat = 1;
inline constexpr char kInventoryFile[] = "inventory.json";

struct InventoryKey {
  std::string role;
  Group group = Group::kRoot;
  // From 1; generations of a role live side by side.
  std::uint32_t generation = 1;
  KeyAlgorithm algorithm = KeyAlgorithm::kEcP256;
  // SHA-256 of the SubjectPublicKeyInfo, and CKA_ID in the token.
  Sha256Digest key_id;
  // CKA_LABEL.
  std::string label;
  // Without PIN source; the store or module may have moved since.
  std::string token_uri;
  // As the token said when the key was made.
  bool born_in_token = false;
  // Made so that it can leave its token in a backup: for ever, whatever was done with it.
  bool wrappable = false;
  // Tokens into which a backup of it was restored, as token_uri.
  std::vector<std::string> copies;
  // Of the certificate where the role has one; zero otherwise.
  Sha256Digest certificate_fingerprint;
  bool has_certificate = false;
  UnixMillis not_before;
  UnixMillis not_after;
};

struct Inventory {
  std::string set;
  // Owner of the set's entries in PK, KEK and db.
  efi::Guid owner;
  UnixMillis created;
  std::vector<InventoryKey> keys;
  // The time stamp of the last authenticated write made for "PK", "KEK", "db", "dbx": the next must be later.
  std::map<std::string, UnixMillis> variable_times;

  // The newest generation; null when the set has no such role.
  const InventoryKey* Newest(std::string_view role) const;
  std::vector<const InventoryKey*> Generations(std::string_view role) const;

  std::string Serialize() const;
  // Bounded and strict. Errors: FAILED_PRECONDITION/KEY_SET_INVALID naming the first problem.
  static Result<Inventory> Parse(std::string_view json);
  static Result<Inventory> Load(const std::filesystem::path& keys_folder);
};

}  // namespace sealift::hsm
