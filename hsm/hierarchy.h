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

namespace sealift::hsm {

// Each group is a token of its own, with its own PIN and its own keepers.
enum class Group { kRoot, kRelease, kOnline, kCustody };
std::span<const Group> AllGroups();
// "root", "release", "online", "custody".
std::string_view GroupName(Group group);
// Errors: INVALID_ARGUMENT naming the groups there are.
Result<Group> ParseGroup(std::string_view name);

enum class KeyAlgorithm { kRsa2048, kRsa3072, kEcP256 };
// "rsa-2048", "rsa-3072", "ec-p256".
std::string_view AlgorithmName(KeyAlgorithm algorithm);
std::optional<KeyAlgorithm> AlgorithmFromName(std::string_view name);

enum class KeyUse { kSign, kDecrypt };

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

// CKA_LABEL: "sealift:<set>:<role>:<generation>".
std::string KeyLabel(std::string_view set, std::string_view role, std::uint32_t generation);
// "db-1": in the signing journal and in file names.
std::string KeyName(std::string_view role, std::uint32_t generation);
// 1 to 32 of [a-z0-9-], led by a letter: it is part of labels, of certificate names and of file names.
bool IsValidSetName(std::string_view name);

}  // namespace sealift::hsm
