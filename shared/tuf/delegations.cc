#include "shared/tuf/delegations.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/crypto/hash.h"

namespace sealift::tuf {
namespace {

// Of a name on a Linux file system, with room for what an atomic write appends.
constexpr std::size_t kMaxStoredName = 200;

bool IsUnreserved(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
         c == '~' || c == '.';
}

std::string Escaped(char c) { return fmt::format("%{:02X}", static_cast<unsigned char>(c)); }

std::string SuccinctRoleName(const SuccinctRoles& roles, std::string_view target_path) {
  const Sha256Digest digest = Sha256(AsBytes(target_path));
  std::uint32_t number = 0;
  for (std::size_t i = 0; i < 4; ++i) number = (number << 8) | digest.bytes[i];
  number >>= 32 - roles.bit_length;
  const std::size_t digits = fmt::format("{:x}", (std::uint64_t{1} << roles.bit_length) - 1).size();
  return fmt::format("{}-{:0{}x}", roles.name_prefix, number, digits);
}

bool Matches(const DelegatedRole& role, std::string_view target_path, const std::string& path_hash) {
  if (role.path_hash_prefixes.has_value()) {
    return std::any_of(role.path_hash_prefixes->begin(), role.path_hash_prefixes->end(),
                       [&](const std::string& prefix) { return path_hash.starts_with(prefix); });
  }
  return std::any_of(role.paths->begin(), role.paths->end(),
                     [&](const std::string& pattern) { return MatchesPathPattern(pattern, target_path); });
}

}  // namespace

bool MatchesPathPattern(std::string_view pattern, std::string_view path) {
  std::size_t p = 0;
  std::size_t t = 0;
  // Where to go on when what follows the last '*' does not fit: that '*' takes one byte more.
  std::size_t star = std::string_view::npos;
  std::size_t taken = 0;
  while (t < path.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      taken = t;
    } else if (p < pattern.size() && (pattern[p] == path[t] || (pattern[p] == '?' && path[t] != '/'))) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos && path[taken] != '/') {
      p = star + 1;
      t = ++taken;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::vector<Delegate> DelegatesFor(const Delegations& delegations, std::string_view target_path) {
  std::vector<Delegate> found;
  if (delegations.succinct.has_value()) {
    found.push_back({.name = SuccinctRoleName(*delegations.succinct, target_path),
                     .keys = &delegations.succinct->keys,
                     .terminating = false});
    return found;
  }
  const std::string path_hash = Sha256(AsBytes(target_path)).hex();
  for (const DelegatedRole& role : delegations.roles) {
    if (!Matches(role, target_path, path_hash)) continue;
    found.push_back({.name = role.name, .keys = &role.keys, .terminating = role.terminating});
  }
  return found;
}

std::string PercentEncodeName(std::string_view name) {
  std::string encoded;
  for (const char c : name) encoded += IsUnreserved(c) ? std::string(1, c) : Escaped(c);
  return encoded;
}

std::string StoredFileName(std::string_view role_name) {
  std::string encoded;
  for (const char c : role_name) encoded += IsUnreserved(c) && c != '.' ? std::string(1, c) : Escaped(c);
  if (encoded == "rotated" || encoded == "journals") encoded = Escaped(encoded.front()) + encoded.substr(1);
  if (encoded.size() > kMaxStoredName) encoded = "sha256-" + Sha256(AsBytes(role_name)).hex();
  return encoded + ".json";
}

}  // namespace sealift::tuf
