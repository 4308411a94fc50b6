// The build host's side of a publication: from build-uki's folder to signed targets at the controller.
//
// The targets key is never asked to sign what a controller says: the present targets are taken through the
// TUF client workflow, starting at the root of this set of keys and remembering in `state` what was seen
// before. A compromised controller can withhold, not forge or roll back.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "controller/publish/earlier_releases.h"
#include "controller/publish/tuf_repository.h"
#include "shared/base/clock.h"
#include "shared/base/status.h"
#include "shared/content/download.h"
#include "shared/crypto/signer.h"
#include "shared/release/manifest.h"
#include "shared/tuf/client.h"

namespace sealift::controller {

// One object to bring to the controller: a file, or bytes at hand.
struct UploadObject {
  Sha256Digest digest;
  std::uint64_t size = 0;
  // Empty: `bytes` is the object.
  std::filesystem::path file;
  std::string bytes;
};

// Hands the object to `sink` in pieces of at most `block` bytes. Errors: FILE_UNREADABLE,
// FAILED_PRECONDITION/RELEASE_CHANGED when the file has another size by now; those of `sink`.
Status ReadObject(const UploadObject& object, std::size_t block, const std::function<Status(ByteView)>& sink);

struct UploadResult {
  std::uint32_t stored = 0;
  // Were there already.
  std::uint32_t known = 0;
};

// The controller as the build host reaches it. Used by one thread. GrpcUploader (controller/cli) is the real
// one; LocalUploader stands beside a repository in the same process.
class Uploader {
 public:
  virtual ~Uploader() = default;
  // `progress`: bytes handed over so far. Errors: those of the transport and of ContentStore::Writer.
  virtual Result<UploadResult> Upload(const std::vector<UploadObject>& objects,
                                      const std::function<void(std::uint64_t)>& progress) = 0;
  // Errors: those of the transport and of TufRepository::PublishTargets.
  virtual Result<PublishedVersions> PublishTargets(std::string_view targets_json) = 0;
  // Errors: those of the transport and of TufRepository::ImportRelease.
  virtual Result<PublishedVersions> ImportRelease(const ReleaseImport& release) = 0;
  // Metadata as it stands.
  virtual tuf::MetadataSource& metadata() = 0;
  // Objects of the content store.
  virtual content::ContentSource& content() = 0;
};

// An uploader that is the repository: for a controller that publishes to itself, and for tests.
class LocalUploader final : public Uploader, private tuf::MetadataSource, private content::ContentSource {
 public:
  LocalUploader(TufRepository& repository, ContentStore& content)
      : repository_(repository), content_(content) {}
  Result<UploadResult> Upload(const std::vector<UploadObject>& objects,
                              const std::function<void(std::uint64_t)>& progress) override;
  Result<PublishedVersions> PublishTargets(std::string_view targets_json) override {
    return repository_.PublishTargets(targets_json);
  }
  Result<PublishedVersions> ImportRelease(const ReleaseImport& release) override {
    return repository_.ImportRelease(release);
  }
  tuf::MetadataSource& metadata() override { return *this; }
  content::ContentSource& content() override { return *this; }

 private:
  Result<std::string> Fetch(std::string_view name, std::size_t) override {
    return repository_.ReadMetadata(name);
  }
  Status Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) override;
  TufRepository& repository_;
  ContentStore& content_;
};

struct PublishRequest {
  // What build-uki wrote: release.json and the files it names.
  std::filesystem::path build_directory;
  std::string channel;
  // How long the new targets hold; the next publication renews them.
  std::chrono::hours targets_lifetime{24 * 365};
  // Bytes handed over so far, and all of them.
  std::function<void(std::uint64_t, std::uint64_t)> progress;
  // JSON of the newest checkpoint of the signing journal; the release carries it. Empty: none.
  std::string journal_checkpoint;
  // The controller was restored from a backup and does not list what this build host saw last. The new
  // targets extend what it lists, with a version above all seen here, and whatever was seen withdrawn stays
  // so. Without it such a controller is refused with TUF_ROLLBACK.
  bool after_restore = false;
  // Folders of earlier builds that nodes run; deltas from them and objects are made and published too
  // (release_content.h).
  std::vector<std::filesystem::path> earlier_builds = {};
  // Deltas are made from so many of the channel's newest releases, too, fetched from the controller. Where
  // one cannot be had or used it is left out. Without any earlier release nodes fetch whole files.
  std::size_t delta_against = 0;
};

struct WithdrawRequest {
  std::string channel;
  std::string version;
  std::string because;
  std::chrono::hours targets_lifetime{24 * 365};
  bool after_restore = false;
};

struct PublishOutcome {
  std::string channel;
  std::string version;
  ReleaseId id;
  PublishedVersions versions;
  UploadResult upload;
  std::uint64_t total_bytes = 0;
  // As ReleaseContent::delta_bytes.
  std::vector<std::uint64_t> delta_bytes = {};
  // Of the `delta_against` newest releases.
  std::vector<LeftOutRelease> left_out = {};
  // What the controller's signing journal looks like beside what this build host saw of it:
  // JournalWatch::See. No reason not to publish, but to find out what happened.
  Status journal;
};

// Reads and hashes every file of the release, uploads them and the manifest, extends and signs the targets,
// publishes, and looks at the result as a node would. Safe to repeat after a failure: a release that is
// published already with the same files is refused with RELEASE_EXISTS. Errors: RELEASE_MANIFEST_INVALID,
// RELEASE_FILE_MISSING and RELEASE_CHANGED (a file is not what release.json says) for the folder;
// RELEASE_EXISTS, RELEASE_VERSION_LOWER; those of MakeReleaseContent; TUF_ reasons for the controller's
// metadata; REPOSITORY_KEY_UNKNOWN when the root does not name the key of `targets_signer`; those of the
// uploader.
Result<PublishOutcome> PublishRelease(const PublishRequest& request, std::string_view trusted_root,
                                      tuf::TrustedMetadataStore& state, Signer& targets_signer,
                                      Uploader& uploader, const Clock& clock);

// New targets in which the release is withdrawn (WithdrawRelease of shared/release), published and looked at
// as PublishRelease does. Errors: those of WithdrawRelease and, but for the folder's, of PublishRelease.
Result<PublishedVersions> PublishWithdrawal(const WithdrawRequest& request, std::string_view trusted_root,
                                            tuf::TrustedMetadataStore& state, Signer& targets_signer,
                                            Uploader& uploader, const Clock& clock);

// What the controller lists, as it says and unproven: for people to look at.
// Errors: those of the transport; TUF_MALFORMED, TUF_TOO_LARGE.
Result<tuf::Targets> ListedTargets(Uploader& uploader);

}  // namespace sealift::controller
