// One update cycle of the client: the steps of section 5 of the TUF specification. Not for use outside this
// folder.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "shared/tuf/client.h"
#include "shared/tuf/delegations.h"

namespace sealift::tuf {

// Where a role's keys are listed, and what it is called in messages: "tuf role 'site-a'".
struct Authority {
  const std::map<std::string, Key>& keys;
  const RoleKeys& allowed;
  std::string what;
};

// One update cycle. Each method is a numbered step of section 5 and says which.
class Cycle {
 public:
  Cycle(MetadataSource& source, TrustedMetadataStore& store, UnixMillis start, TufClientOptions options)
      : source_(source), store_(store), start_(start), options_(options) {}

  Status LoadRoot(std::string_view trusted_root);
  Status UpdateRoot();
  Status UpdateTimestamp();
  Status UpdateSnapshot();
  Status UpdateTargets();
  // 5.6.7, once the four files are there. Errors: NOT_FOUND/TUF_TARGET_UNKNOWN; where a role that had to be
  // asked cannot be fetched or proven, what is wrong with it.
  Result<Target> Search(std::string_view target_path);
  Result<UnixMillis> StoredTime();

  Root root;
  std::optional<Timestamp> timestamp;
  std::optional<Snapshot> snapshot;
  std::optional<Targets> targets;

 private:
  Result<std::string> Download(const std::string& name, std::size_t max_bytes);
  // `name` without version and ".json", as it stands in a URL.
  Result<std::string> DownloadListed(std::string_view name, const MetaFile& listed, std::size_t max_bytes);
  Result<Root> VerifyNextRoot(std::string_view text, std::size_t max_bytes) const;
  Status AcceptRoot(Root next);
  Status CheckExpiry(std::string_view what, std::uint32_t version, UnixMillis expires) const;
  Status CheckTimestampRollback(const Timestamp& candidate) const;
  Status CheckSnapshotRollback(const Snapshot& candidate) const;
  Authority TopLevel(Role role) const;
  // A stored file that still proves itself; one that does not is as good as none.
  template <typename T>
  Result<std::optional<T>> LoadStored(const std::string& name, const Authority& authority,
                                      Result<T> (*parse)(const Envelope&), const MetaFile* listed);
  // 5.6 for any targets role: stored as `file`, called `name` in URLs.
  Result<Targets> LoadTargets(const std::string& file, std::string_view name, const Authority& authority,
                              const MetaFile& listed);
  Result<Targets> LoadDelegated(const Delegations& by, const Delegate& role);
  // What a search still has to remember.
  struct Visit {
    std::string_view target_path;
    std::set<std::string> roles;
    bool ended = false;
  };
  // The target in `role` or below it.
  Result<std::optional<Target>> SearchIn(const Targets& role, Visit& visit);

  MetadataSource& source_;
  TrustedMetadataStore& store_;
  const UnixMillis start_;
  const TufClientOptions options_;
  bool keys_rotated_ = false;
};

}  // namespace sealift::tuf
