// Which delegated roles may speak for a target: sections 4.5 and 5.6.7 of the TUF specification.
//
// Thread-safe pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "shared/tuf/metadata.h"

namespace sealift::tuf {

// Shell-style: '*' is any text and '?' any one byte, neither a '/'. Everything else stands for itself. So a
// pattern and what it matches have equally many parts between slashes.
bool MatchesPathPattern(std::string_view pattern, std::string_view target_path);

// A delegation that a search follows.
struct Delegate {
  std::string name;
  const RoleKeys* keys;
  bool terminating;
};

// Those of `delegations` that are trusted with the target, in order. `keys` point into `delegations`. At most
// one for succinct roles.
std::vector<Delegate> DelegatesFor(const Delegations& delegations, std::string_view target_path);

// Everything but letters, digits, '_', '-', '~' and '.' as "%2F". What a role name becomes in a URL.
std::string PercentEncodeName(std::string_view name);

// The name of the file in which a client keeps a delegated role's metadata: "<percent-encoded>.json". Dots
// are encoded too, and so are the names of what else lies there, so it is never "..", a stored root or a
// marker. A name too long for a file is kept under its SHA-256.
std::string StoredFileName(std::string_view role_name);

}  // namespace sealift::tuf
