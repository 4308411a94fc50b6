// The next TUF root as a file that goes from custodian to custodian until enough have signed it.
//
// Whoever signs reads what changes first (DescribeRootDraft); each token adds the signatures of the tuf-root
// keys it holds. Thread-safe: no state. TUF specification 1.0, sections 5.3.4 and 6.1.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/clock.h"
#include "shared/crypto/signer.h"
#include "shared/tuf/metadata.h"

namespace sealift::hsm {

struct RootChange {
  // How many tuf-root keys must sign from then on.
  std::optional<std::uint32_t> threshold;
  // tuf-root keys that join, and ids of keys (or beginnings, at least 8 digits) that leave every role.
  std::vector<PublicKey> added;
  std::vector<std::string> dropped;
  UnixMillis expires;
};

struct RootDraft {
  std::uint32_t version = 0;
  std::string json;
  // Valid signatures by keys of the present root, and of this one; what each asks for.
  std::uint32_t by_present = 0;
  std::uint32_t needed_present = 0;
  std::uint32_t by_next = 0;
  std::uint32_t needed_next = 0;
  // What changes beside the version, one sentence each.
  std::vector<std::string> changes;
  bool complete() const { return by_present >= needed_present && by_next >= needed_next; }
};

// Follows the newest "<n>.root.json" in `folder`, whose chain is proven from 1.root.json on. Unsigned.
// Errors: KEY_SET_INVALID for roots that do not prove themselves; INVALID_ARGUMENT for a change that leaves a
// role with fewer keys than its threshold, or names no key.
Result<RootDraft> DraftRoot(const std::filesystem::path& folder, const RootChange& change);

// Where a draft stands. Errors: TUF_MALFORMED, TUF_TOO_LARGE; FAILED_PRECONDITION/TUF_ROLLBACK when it does
// not follow the newest root in `folder`; those of reading that.
Result<RootDraft> DescribeRootDraft(const std::filesystem::path& folder, std::string_view json);

// Adds the signatures of those of `signers` that either root lists for the root role; others are left out.
// Errors: those of DescribeRootDraft and of the signers; FAILED_PRECONDITION/REPOSITORY_KEY_UNKNOWN when none
// of them counts.
Result<RootDraft> SignRootDraft(const std::filesystem::path& folder, std::string_view json,
                                const std::vector<std::shared_ptr<Signer>>& signers);

}  // namespace sealift::hsm
