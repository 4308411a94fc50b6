// The controller's TUF repository: takes targets that the build host signed, signs snapshot and timestamp.
//
// A folder of immutable files "<n>.root.json", "<n>.targets.json", "<n>.snapshot.json" and the one file that
// changes, timestamp.json. Every file is replaced atomically and timestamp.json comes last, so after a power
// cut the publication before or the new one stands, never a mixture.
//
// Thread-safe. One process owns the folder. Signing happens within the call, one publication at a time;
// readers never wait for it.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "controller/publish/content_store.h"
#include "shared/base/clock.h"
#include "shared/base/status.h"
#include "shared/crypto/signer.h"
#include "shared/release/manifest.h"
#include "shared/release/release_targets.h"
#include "shared/tuf/metadata.h"

namespace sealift::controller {

struct TufRepositoryOptions {
  std::filesystem::path directory;
  // Where custodians put "<n>.root.json" that follow the first; new ones are taken over at the start. Empty:
  // none.
  std::filesystem::path newer_roots;
  // How long a signature holds. A timestamp is renewed when half of its time has passed, a snapshot likewise.
  std::chrono::hours snapshot_lifetime{24 * 7};
  std::chrono::hours timestamp_lifetime{24};
  // The newest checkpoint of the signing journal as a JSON object, or empty. Called at each timestamp.
  std::function<std::string()> journal_checkpoint;
};

// The `online` keys of these roles.
struct OnlineSigners {
  std::shared_ptr<Signer> snapshot;
  std::shared_ptr<Signer> timestamp;
};

struct PublishedVersions {
  std::uint32_t targets = 0;
  std::uint32_t snapshot = 0;
  std::uint32_t timestamp = 0;
};

// What an import brings beside the objects, which are in the store by then: the metadata that the build host
// signed travels with its signatures.
struct ReleaseImport {
  std::string channel;
  std::string version;
  // Every root from the first on, or from one that this repository has.
  std::vector<std::string> roots;
  std::string targets_json;
};

// A release as published, proven by digest against targets that proved themselves. Only TufRepository makes
// it.
class PublishedRelease {
 public:
  const ListedRelease& listed() const { return listed_; }
  const Manifest& manifest() const { return manifest_; }

 private:
  friend class TufRepository;
  PublishedRelease(ListedRelease listed, Manifest manifest)
      : listed_(std::move(listed)), manifest_(std::move(manifest)) {}
  ListedRelease listed_;
  Manifest manifest_;
};

// In a repository's folder after a restore: a decimal number. Snapshot and timestamp are signed anew with
// higher versions when the repository is opened; the file goes away then.
inline constexpr std::string_view kLiftFile = "lift-versions-above";

class TufRepository {
 public:
  // `trusted_root`: the first root of this set of keys (DIR/tuf/1.root.json of `keys init`). Borrows content
  // and clock. Proves what lies in the folder before it serves any of it. Errors:
  // INVALID_ARGUMENT/TUF_MALFORMED and UNAUTHENTICATED/TUF_SIGNATURE_THRESHOLD for the given root;
  // FAILED_PRECONDITION/REPOSITORY_KEY_UNKNOWN; DATA_LOSS/REPOSITORY_DAMAGED; FILE_UNWRITABLE.
  static Result<std::unique_ptr<TufRepository>> Open(TufRepositoryOptions options,
                                                     std::string_view trusted_root, OnlineSigners signers,
                                                     ContentStore& content, const Clock& clock);

  // The next root of the chain, signed by the keys of the present one and its own. Adding one that is there
  // already is success. Snapshot and timestamp are signed anew when their keys changed.
  // Errors: TUF_MALFORMED, TUF_SIGNATURE_THRESHOLD, TUF_ROLLBACK (does not follow), REPOSITORY_KEY_UNKNOWN.
  Status AddRoot(std::string_view root_json);

  // Verifies targets against the root, then that they may follow the present ones (CheckSuccessor) and that
  // every target's content is in the store with its size; then publishes them.
  // Errors: TUF_MALFORMED, TUF_TOO_LARGE, TUF_SIGNATURE_THRESHOLD, TUF_EXPIRED, those of CheckSuccessor;
  // FAILED_PRECONDITION/CONTENT_UNKNOWN naming the target; RELEASE_MANIFEST_INVALID and RELEASE_MIXED;
  // FILE_UNWRITABLE, DISK_FULL; those of the signers. Nothing changed then.
  Result<PublishedVersions> PublishTargets(std::string_view targets_json);

  // Publishes targets that were published elsewhere with this set of keys, of which one release came with all
  // its files; of the others nothing but the manifests has to be in the store. Targets no newer than the
  // present ones are not published again: they are fine when the present ones list the same release.
  // Errors: those of AddRoot and PublishTargets; NOT_FOUND/TUF_TARGET_UNKNOWN,
  // FAILED_PRECONDITION/RELEASE_WITHDRAWN, FAILED_PRECONDITION/TUF_ROLLBACK.
  Result<PublishedVersions> ImportRelease(const ReleaseImport& release);
  // Whether all files of a release that is listed, and what its content list names, are in the store: of an
  // import they need not be. Errors: FAILED_PRECONDITION/CONTENT_UNKNOWN naming one that is missing.
  Status CheckComplete(std::string_view channel, std::string_view version) const;

  // Signs timestamp and snapshot anew where half of their time has passed. Call it every few minutes; it does
  // nothing before the first publication. True when it signed. Errors: FILE_UNWRITABLE, those of the signers.
  Result<bool> RefreshIfDue();

  // One file by name, for GetMetadata. Errors: NOT_FOUND/REPOSITORY_EMPTY when there is no such file (the end
  // of a root chain, or nothing published yet); INVALID_ARGUMENT for a name that no metadata file has.
  Result<std::string> ReadMetadata(std::string_view name) const;

  // Empty before the first publication. With those withdrawn.
  std::vector<ListedRelease> Releases() const;
  // Errors: NOT_FOUND/TUF_TARGET_UNKNOWN; those of ContentStore::Read.
  Result<PublishedRelease> LoadRelease(std::string_view channel, std::string_view version) const;

 private:
  struct Current {
    tuf::Targets targets;
    std::string targets_json;
    tuf::Snapshot snapshot;
    tuf::Timestamp timestamp;
    std::string snapshot_json;
  };

  TufRepository(TufRepositoryOptions options, OnlineSigners signers, ContentStore& content,
                const Clock& clock)
      : options_(std::move(options)), signers_(std::move(signers)), content_(content), clock_(clock) {}
  // Of the repository, or of the custodians, who may have made it since the last start.
  Result<std::string> FindRoot(std::uint32_t version) const;
  Status LoadRoots(std::string_view trusted_root);
  Status LoadCurrent();
  Status LiftVersions();
  Result<tuf::Root> VerifyNextRoot(std::string_view root_json) const;
  // With publishing_ held.
  Status TakeRoot(std::string_view root_json);
  Status CheckSigners() const;
  // `alone`: the release ("channel/version/") whose files have to be here; null: those of all.
  Result<tuf::Targets> CheckTargets(const tuf::Envelope& envelope, const Current* current,
                                    const std::string* alone) const;
  Status CheckContent(const tuf::Targets& targets, const Current* current, const std::string* alone) const;
  Status CheckHere(const std::string& name, const tuf::Target& target) const;
  Result<PublishedVersions> Publish(std::string_view targets_json, const std::string* alone);
  Status SignSnapshot(Current& current);
  Status SignTimestamp(Current& current);
  Status Save(std::string_view name, std::string_view text) const;
  std::shared_ptr<const Current> current() const;
  void SetCurrent(Current current);

  const TufRepositoryOptions options_;
  const OnlineSigners signers_;
  ContentStore& content_;
  const Clock& clock_;

  // Held while publishing, refreshing or adding a root: signing included, which is why readers do not take
  // it.
  std::mutex publishing_;
  // Guarded by publishing_.
  tuf::Root root_;

  // Taken after publishing_, never before.
  mutable std::mutex mutex_;
  // Guarded by mutex_. Null before the first publication.
  std::shared_ptr<const Current> current_;
};

}  // namespace sealift::controller
