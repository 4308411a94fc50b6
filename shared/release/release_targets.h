// A release among TUF targets: what is written at publication and read by controller and node.
//
// Pure functions; thread-safe. The custom member of each target is an object with "role" ("manifest" or a
// FileRole), "channel", "version", "published_unix_ms", "schema_version", "minimum_agent_version",
// "hardware_class", "security_epoch", "secure_boot_certificates", "pcr_keys", "pcr11" and, of PE images,
// "authenticode_sha256", all as in the manifest. Readers that need more than a listing read the manifest,
// whose digest the targets sign.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/clock.h"
#include "shared/base/ids.h"
#include "shared/base/status.h"
#include "shared/release/manifest.h"
#include "shared/tuf/metadata.h"

namespace sealift {

// A release that nobody may take any more: it stays listed by its manifest alone, which says so under
// "withdrawn" of its custom member. It never comes back.
struct Withdrawal {
  UnixMillis at;
  // For people; at most 200 bytes.
  std::string because;
};

struct ListedRelease {
  std::string channel;
  std::string version;
  ReleaseId id;
  std::uint64_t manifest_size = 0;
  // Of all files and the manifest.
  std::uint64_t total_bytes = 0;
  // Absent where the publisher did not say.
  std::optional<UnixMillis> published;
  std::optional<Withdrawal> withdrawn;
};

// What the target of a manifest says. A mark that cannot be read is one.
std::optional<Withdrawal> WithdrawalOf(const tuf::Target& manifest);

// Marks the release and leaves its files out. Errors: NOT_FOUND/TUF_TARGET_UNKNOWN;
// FAILED_PRECONDITION/RELEASE_WITHDRAWN when it is withdrawn already; INVALID_ARGUMENT for `because`.
Status WithdrawRelease(tuf::Targets& targets, std::string_view channel, std::string_view version,
                       const Withdrawal& withdrawal);

// The targets of one release, by name. `manifest.channel` is set. `journal_checkpoint`: JSON object, the
// newest checkpoint of the publisher's signing journal; the manifest's target carries it under
// "x-sealift-journal".
std::map<std::string, tuf::Target> TargetsOfRelease(const Manifest& manifest, std::string_view manifest_json,
                                                    UnixMillis published,
                                                    std::string_view journal_checkpoint = {});

// Every release, by channel, then version, oldest first. Targets that belong to no release are left out.
std::vector<ListedRelease> ListReleases(const tuf::Targets& targets);
// Errors: NOT_FOUND/TUF_TARGET_UNKNOWN.
Result<ListedRelease> FindRelease(const tuf::Targets& targets, std::string_view channel,
                                  std::string_view version);

// Manifest and targets say the same of every file, and of channel and version.
// Errors: INVALID_ARGUMENT/RELEASE_MIXED naming the first difference.
Status CheckManifestListed(const Manifest& manifest, const ListedRelease& release,
                           const tuf::Targets& targets);

// Whether `next` may be published after `current`: its version is higher, targets that stay keep size and
// digest, and a version that is new in a channel is higher than all that were there. Leaving out is allowed,
// but for what was withdrawn: that stays, as such.
// Errors: FAILED_PRECONDITION/TUF_ROLLBACK; ALREADY_EXISTS/RELEASE_EXISTS,
// FAILED_PRECONDITION/RELEASE_CHANGED, FAILED_PRECONDITION/RELEASE_WITHDRAWN,
// FAILED_PRECONDITION/RELEASE_VERSION_LOWER.
Status CheckSuccessor(const tuf::Targets& current, const tuf::Targets& next);

// Whether `version` may be added to `channel`. Errors: RELEASE_EXISTS and RELEASE_VERSION_LOWER, as there.
Status CheckNewVersion(const tuf::Targets& targets, std::string_view channel, std::string_view version);

}  // namespace sealift
