// The keys of a set: which roles there are, which token group holds each, and what kind of key each is.
//
// Constants and pure functions; thread-safe. Names and labels are stored in tokens and inventories: never
// rename one.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "shared/base/status.h"
#include "shared/crypto/public_key.h"

namespace sealift::hsm {

// Each group is a token of its own, with its own PIN and its own keepers.
enum class Group { kRoot, kRelease, kOnline, kCustody };
std::span<const Group> AllGroups();
// "root", "release", "online", "custody".
std::string_view GroupName(Group group);
// Errors: INVALID_ARGUMENT naming the groups there are.
Result<Group> ParseGroup(std::string_view name);

enum class KeyAlgorithm { kRsa2048, kRsa3072, kRsa4096, kEcP256, kEcP384 };
// "rsa-2048", "rsa-3072", "rsa-4096", "ec-p256", "ec-p384".
std::string_view AlgorithmName(KeyAlgorithm algorithm);
std::optional<KeyAlgorithm> AlgorithmFromName(std::string_view name);
// As people write it: "rsa2048", "p384", or one of the names above.
// Errors: INVALID_ARGUMENT/KEY_ALGORITHM_UNSUPPORTED naming those there are.
Result<KeyAlgorithm> ParseAlgorithm(std::string_view text);
bool IsEc(KeyAlgorithm algorithm);
// Of the modulus or of the curve.
unsigned BitsOf(KeyAlgorithm algorithm);
// What a public half is; nothing for an RSA key of another size.
std::optional<KeyAlgorithm> AlgorithmOf(const PublicKey& key);

// kUnwrap: of transport keys, which belong to no role (key_backup.h).
enum class KeyUse { kSign, kDecrypt, kUnwrap };

// Whether a key may ever leave its token, and then only encrypted by another key that lives in one.
enum class Leaving { kNever, kWrapped };

struct Role {
  std::string_view name;
  Group group;
  KeyAlgorithm algorithm;
  KeyUse use = KeyUse::kSign;
  // TLS 1.3 through the key provider needs ECDSA.
  bool needs_ec = false;
};

// Root first, in the order in which a ceremony makes them.
std::span<const Role> AllRoles();
const Role* FindRole(std::string_view name);

// The role's algorithm, or RSA-2048 where the token cannot do EC.
// Errors: FAILED_PRECONDITION/HSM_MECHANISM_MISSING for a role that cannot live without EC.
Result<KeyAlgorithm> AlgorithmFor(const Role& role, bool token_has_ec);

// Those that the standards behind the role allow; docs/keys.md has the table with its reasons.
std::span<const KeyAlgorithm> AllowedAlgorithms(const Role& role);
// Errors: FAILED_PRECONDITION/KEY_ALGORITHM_UNSUPPORTED naming the allowed ones and why.
Status CheckAlgorithm(const Role& role, KeyAlgorithm algorithm);
// One line of warning for an allowed choice that some machines do not take; empty for others.
std::string AlgorithmRemark(const Role& role, KeyAlgorithm algorithm);

// CKA_LABEL: "sealift:<set>:<role>:<generation>".
std::string KeyLabel(std::string_view set, std::string_view role, std::uint32_t generation);
// "db-1": in the signing journal and in file names.
std::string KeyName(std::string_view role, std::uint32_t generation);
// 1 to 32 of [a-z0-9-], led by a letter: it is part of labels, of certificate names and of file names.
bool IsValidSetName(std::string_view name);

}  // namespace sealift::hsm
