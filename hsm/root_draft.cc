#include "hsm/root_draft.h"

#include <fmt/format.h>

#include <algorithm>

#include "hsm/next_root.h"
#include "shared/base/files.h"

namespace sealift::hsm {
namespace {

using tuf::Role;

constexpr std::size_t kShortestId = 8;
constexpr Role kRoles[] = {Role::kRoot, Role::kTargets, Role::kSnapshot, Role::kTimestamp};

Status Refused(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, fmt::format("draft root: {}", what));
}

bool Has(const std::vector<std::string>& ids, const std::string& id) {
  return std::ranges::find(ids, id) != ids.end();
}

std::uint32_t CountSignatures(const tuf::Envelope& envelope, tuf::Root root) {
  std::uint32_t& threshold = root.roles.at(Role::kRoot).threshold;
  std::uint32_t count = 0;
  for (threshold = 1; tuf::VerifyThreshold(envelope, root, Role::kRoot).ok(); ++threshold) count = threshold;
  return count;
}

std::vector<std::string> Changes(const tuf::Root& present, const tuf::Root& next) {
  std::vector<std::string> changes;
  for (const Role role : kRoles) {
    const tuf::RoleKeys& before = present.roles.at(role);
    const tuf::RoleKeys& after = next.roles.at(role);
    for (const std::string& id : after.key_ids) {
      if (!Has(before.key_ids, id)) {
        changes.push_back(fmt::format("{}: key {} joins", tuf::RoleName(role), id.substr(0, 16)));
      }
    }
    for (const std::string& id : before.key_ids) {
      if (!Has(after.key_ids, id)) {
        changes.push_back(fmt::format("{}: key {} leaves", tuf::RoleName(role), id.substr(0, 16)));
      }
    }
    if (before.threshold != after.threshold) {
      changes.push_back(
          fmt::format("{}: threshold {} becomes {}", tuf::RoleName(role), before.threshold, after.threshold));
    }
  }
  if (present.consistent_snapshot != next.consistent_snapshot) {
    changes.emplace_back("consistent snapshots change");
  }
  changes.push_back(
      fmt::format("expires {} instead of {}", FormatRfc3339(next.expires), FormatRfc3339(present.expires)));
  return changes;
}

RootDraft Describe(const tuf::Root& present, const tuf::Root& next, const tuf::Envelope& envelope) {
  return {.version = next.version,
          .json = envelope.Serialize(),
          .by_present = CountSignatures(envelope, present),
          .needed_present = present.roles.at(Role::kRoot).threshold,
          .by_next = CountSignatures(envelope, next),
          .needed_next = next.roles.at(Role::kRoot).threshold,
          .changes = Changes(present, next)};
}

struct Pair {
  tuf::Root present;
  tuf::Root next;
  tuf::Envelope envelope;
};

Result<Pair> ReadDraft(const std::filesystem::path& folder, std::string_view json) {
  Pair pair;
  SEALIFT_ASSIGN_OR_RETURN(pair.present, PresentRoot(folder));
  SEALIFT_ASSIGN_OR_RETURN(pair.envelope, tuf::ParseEnvelope(json, tuf::kMaxRootBytes));
  SEALIFT_ASSIGN_OR_RETURN(pair.next, tuf::ParseRoot(pair.envelope));
  if (pair.next.version == pair.present.version + 1) return pair;
  return MakeError(
      Code::kFailedPrecondition, Reason::kTufRollback,
      fmt::format("read root draft: version {} does not follow {}", pair.next.version, pair.present.version));
}

// The one key whose id begins so.
Result<std::string> FindKey(const tuf::Root& root, const std::string& beginning) {
  if (beginning.size() < kShortestId)
    return Refused(fmt::format("'{}' is too short for a key id", beginning));
  std::vector<std::string> found;
  for (const auto& [id, key] : root.keys) {
    if (id.starts_with(beginning)) found.push_back(id);
  }
  if (found.size() == 1) return found.front();
  return Refused(fmt::format("{} keys of root version {} have ids that begin with '{}'", found.size(),
                             root.version, beginning));
}

}  // namespace

Result<RootDraft> DraftRoot(const std::filesystem::path& folder, const RootChange& change) {
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Root present, PresentRoot(folder));
  tuf::Root next = present;
  ++next.version;
  next.expires = std::max(present.expires, change.expires);
  for (const PublicKey& added : change.added) {
    tuf::Key key = tuf::Key::FromPublicKey(added);
    std::vector<std::string>& ids = next.roles.at(Role::kRoot).key_ids;
    if (!Has(ids, key.id)) ids.push_back(key.id);
    next.keys.insert_or_assign(key.id, std::move(key));
  }
  for (const std::string& beginning : change.dropped) {
    SEALIFT_ASSIGN_OR_RETURN(const std::string id, FindKey(present, beginning));
    next.keys.erase(id);
    for (const Role role : kRoles) std::erase(next.roles.at(role).key_ids, id);
  }
  if (change.threshold.has_value()) next.roles.at(Role::kRoot).threshold = *change.threshold;
  for (const Role role : kRoles) {
    const tuf::RoleKeys& keys = next.roles.at(role);
    if (keys.threshold >= 1 && keys.key_ids.size() >= keys.threshold) continue;
    return Refused(fmt::format("{} would have {} keys, and {} must sign", tuf::RoleName(role),
                               keys.key_ids.size(), keys.threshold));
  }
  return Describe(present, next, tuf::MakeEnvelope(next));
}

Result<RootDraft> DescribeRootDraft(const std::filesystem::path& folder, std::string_view json) {
  SEALIFT_ASSIGN_OR_RETURN(const Pair pair, ReadDraft(folder, json));
  return Describe(pair.present, pair.next, pair.envelope);
}

Result<RootDraft> SignRootDraft(const std::filesystem::path& folder, std::string_view json,
                                const std::vector<std::shared_ptr<Signer>>& signers) {
  SEALIFT_ASSIGN_OR_RETURN(Pair pair, ReadDraft(folder, json));
  bool counted = false;
  for (const std::shared_ptr<Signer>& signer : signers) {
    const std::string id = tuf::Key::FromPublicKey(signer->public_key()).id;
    if (!Has(pair.present.roles.at(Role::kRoot).key_ids, id) &&
        !Has(pair.next.roles.at(Role::kRoot).key_ids, id)) {
      continue;
    }
    SEALIFT_RETURN_IF_ERROR(tuf::SignMetadata(Role::kRoot, pair.envelope, *signer,
                                              fmt::format("version {} of a draft", pair.next.version)));
    counted = true;
  }
  if (counted) return Describe(pair.present, pair.next, pair.envelope);
  return MakeError(
      Code::kFailedPrecondition, Reason::kRepositoryKeyUnknown,
      fmt::format("sign root version {}: neither it nor the present root lists a key of the tokens "
                  "given",
                  pair.next.version));
}

}  // namespace sealift::hsm
