// What the update machine asks of the world beside the ESP (node-agent/esp/staging.h) and its store.
//
// Narrow interfaces, plain types. Not thread-safe: called by the one thread that owns the machine.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/esp/staging.h"
#include "node-agent/update/state_store.h"
#include "shared/base/bytes.h"
#include "shared/base/ids.h"
#include "shared/base/status.h"
#include "shared/release/manifest.h"

namespace sealift::agent {

// The extensions that a release has for an image. Errors: INVALID_ARGUMENT/RELEASE_MANIFEST_INVALID when
// there are too many, or FAT takes two of their names for one.
Result<std::vector<Companion>> CompanionsOf(const Manifest& manifest, const ReleaseFile& image);

// What the controller says this node should run; zero release id: not said.
struct DesiredRelease {
  std::string channel;
  std::string version;
  Sha256Digest release_id;

  bool operator==(const DesiredRelease&) const = default;
};

// Evidence that trusted, unexpired metadata lists this release, manifest and image alike. Only a
// ReleaseCatalog makes it.
class TrustedRelease {
 public:
  const ReleaseId& id() const { return id_; }
  const Manifest& manifest() const { return manifest_; }
  // The one UKI; size and digest are those of the signed metadata.
  const ReleaseFile& image() const { return image_; }
  // What lies beside it, from the manifest, named as on the ESP; listed by the signed metadata as well.
  const std::vector<Companion>& companions() const { return companions_; }
  // What its measurements were predicted with; none in a release that has several, or none.
  const std::optional<BootLoader>& boot_loader() const { return boot_loader_; }
  // A time that has passed, as the metadata proves; the agent's clock never runs before it again.
  UnixMillis not_before() const { return not_before_; }
  // From then on it is evidence of nothing.
  UnixMillis expires() const { return expires_; }

 private:
  friend class ReleaseCatalog;
  TrustedRelease() = default;
  ReleaseId id_;
  Manifest manifest_;
  ReleaseFile image_;
  std::vector<Companion> companions_;
  std::optional<BootLoader> boot_loader_;
  UnixMillis not_before_{};
  UnixMillis expires_{};
};

// What trusted metadata and verified bytes say of a release, and nothing else: no peer has a say in it.
struct ReleaseVerdict {
  // Set when the release is usable.
  std::optional<TrustedRelease> release;
  // Otherwise why it never will be: RELEASE_MANIFEST_INVALID, RELEASE_FILE_MISSING, RELEASE_MIXED,
  // RELEASE_WITHDRAWN.
  Status unusable;
  // What the controller's signing journal looks like beside what was seen of it: JournalWatch::See. Says
  // nothing about the release.
  Status journal;
};

// Finds releases in signed metadata. TufReleaseCatalog (tuf_release_catalog.h) is the real one.
class ReleaseCatalog {
 public:
  virtual ~ReleaseCatalog() = default;
  // Brings the metadata up to date and finds the release. Asks the network; may take as long as its deadline.
  // Errors: those of TufClient::Refresh and of content::Download, RELEASE_MIXED when `desired` names another
  // release id. Whatever their reason, which may come from a peer, they say nothing about the version: trying
  // again later may help.
  virtual Result<ReleaseVerdict> Resolve(const DesiredRelease& desired) = 0;
  // A time that has passed, as signed metadata of earlier processes proves. Asks no network.
  virtual UnixMillis ProvenTime() = 0;

 protected:
  // The one place where the evidence comes into being. `companions`: as CompanionsOf gives them.
  static TrustedRelease Vouch(const ReleaseId& id, Manifest manifest, ReleaseFile image,
                              std::vector<Companion> companions, UnixMillis not_before, UnixMillis expires);
};

struct FetchProgress {
  std::uint64_t have = 0;
  std::uint64_t size = 0;
  // All of it, and its digest was checked.
  bool complete = false;
  // Where it lies on the state partition, once complete.
  std::filesystem::path file;
  // Not OK: the source gave out before it moved anything to speak of, and whatever it says of why is no more
  // than its word.
  Status source;
};

// Brings one object to the state partition, a bounded amount a call. ContentFetcher (content_fetcher.h) is
// the real one.
class ImageFetcher {
 public:
  virtual ~ImageFetcher() = default;
  // Goes on where the last call, or an earlier process, stopped.
  // Errors: of this machine and of bytes that are not the signed ones only: RESOURCE_EXHAUSTED/DISK_FULL
  // before a byte is fetched; those of content::Download but the source's.
  virtual Result<FetchProgress> FetchSome(const Sha256Digest& digest, std::uint64_t size) = 0;
  // Throws away what was fetched of everything but `keep`; null: of everything.
  virtual Status Discard(const Sha256Digest* keep) = 0;
};

// What lies beside an image extends these registers with; none: they stay zero.
struct NextEvents {
  std::optional<Sha256Digest> pcr12;
  std::optional<Sha256Digest> pcr13;
};

// Whether an image will open this machine's disks. MachineUnlockCheck (node-agent/app) is the real one.
class UnlockCheck {
 public:
  virtual ~UnlockCheck() = default;
  // `image`: lies whole on the ESP, under its root ("/EFI/kairos/..."). Errors:
  // FAILED_PRECONDITION/VOLUME_WOULD_STAY_LOCKED, final for this image; others say nothing about it.
  virtual Status WillUnlock(const StagedImage& image, const NextEvents& events) = 0;
};

class Rebooter {
 public:
  virtual ~Rebooter() = default;
  // Asks the system manager for an orderly reboot; returns before it happens. `why` goes to the log.
  virtual Status RequestReboot(const std::string& why) = 0;
};

struct Health {
  bool healthy = false;
  // What fails, for a person; empty when healthy.
  std::string problem;
};

// The checks of node.toml, run to an end within their own time-outs.
class HealthCheck {
 public:
  virtual ~HealthCheck() = default;
  virtual Health Check() = 0;
};

// Where the state lies.
class StatePlace {
 public:
  virtual ~StatePlace() = default;
  // Cheap; asked before every step. Errors: FAILED_PRECONDITION/STATE_MISSING when it is not the mounted
  // state partition.
  virtual Status CheckMounted() = 0;
  struct Opened {
    std::unique_ptr<StateStore> store;
    // What was there was not usable and was put aside: why. OK otherwise.
    Status put_aside;
  };
  // Opens the store; a broken one is put aside and a fresh one opened.
  // Errors: UNAVAILABLE/STATE_IO, RESOURCE_EXHAUSTED/DISK_FULL.
  virtual Result<Opened> Open() = 0;
};

}  // namespace sealift::agent
