// The client workflow of the TUF specification 1.0 (section 5), in its order, up to a verified target.
//
//   TufClient client(image_root_json, source, store, clock);
//   SEALIFT_ASSIGN_OR_RETURN(const VerifiedTargets targets, client.Refresh());
//   SEALIFT_ASSIGN_OR_RETURN(const Target manifest, targets.Find("stable/1.2.0/manifest.json"));
//
// Nothing that is stored on the machine is trusted for being there: every refresh starts at the root given to
// the constructor and proves the stored roots, timestamp, snapshot and targets again. Lost or damaged state
// costs a download and the memory of versions seen, never trust in something unsigned.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "shared/base/clock.h"
#include "shared/base/status.h"
#include "shared/tuf/metadata.h"

namespace sealift::tuf {

// Where metadata comes from. Used by one thread at a time.
class MetadataSource {
 public:
  virtual ~MetadataSource() = default;
  // The file of that name: "timestamp.json", "7.root.json", "12.targets.json". Reads no more than `max_bytes`
  // + 1 bytes from the other side.
  // Errors: NOT_FOUND when there is no such file (this ends a root chain); INVALID_ARGUMENT/TUF_TOO_LARGE;
  // others pass through the client unchanged.
  virtual Result<std::string> Fetch(std::string_view name, std::size_t max_bytes) = 0;
};

// What was trusted before. Used by one thread at a time. Names are "<N>.root.json", "timestamp.json",
// "snapshot.json", "targets.json", "rotated.json", and for delegated roles those of StoredFileName.
class TrustedMetadataStore {
 public:
  virtual ~TrustedMetadataStore() = default;
  // Empty when there is none, or none of use. Errors only where that cannot be told.
  virtual Result<std::optional<std::string>> Load(std::string_view name) = 0;
  // Durable on return; after a power cut the old or the new bytes are there.
  virtual Status Store(std::string_view name, std::string_view bytes) = 0;
  // Durable on return. Success when there is none.
  virtual Status Remove(std::string_view name) = 0;
};

// One file each in a folder, which is made when missing. What cannot be read, or is no file, counts as none
// and makes way for the next.
class FileMetadataStore final : public TrustedMetadataStore {
 public:
  explicit FileMetadataStore(std::filesystem::path directory) : directory_(std::move(directory)) {}
  Result<std::optional<std::string>> Load(std::string_view name) override;
  Status Store(std::string_view name, std::string_view bytes) override;
  Status Remove(std::string_view name) override;

 private:
  std::filesystem::path directory_;
};

// Evidence that a whole refresh succeeded. Only TufClient makes one. An immutable value.
class VerifiedTargets {
 public:
  // Errors: NOT_FOUND/TUF_TARGET_UNKNOWN.
  Result<Target> Find(std::string_view name) const;
  const Targets& targets() const { return targets_; }
  std::uint32_t root_version() const { return root_version_; }
  std::uint32_t snapshot_version() const { return snapshot_version_; }
  // When the first of the four files stops being valid.
  UnixMillis expires() const { return expires_; }
  // With its signed_at() and journal checkpoint.
  const Timestamp& timestamp() const { return timestamp_; }

 private:
  friend class TufClient;
  VerifiedTargets(Targets targets, Timestamp timestamp, std::uint32_t snapshot_version,
                  std::uint32_t root_version, UnixMillis expires)
      : targets_(std::move(targets)),
        timestamp_(std::move(timestamp)),
        snapshot_version_(snapshot_version),
        root_version_(root_version),
        expires_(expires) {}
  Targets targets_;
  Timestamp timestamp_;
  std::uint32_t snapshot_version_;
  std::uint32_t root_version_;
  UnixMillis expires_;
};

struct TufClientOptions {
  // New roots taken in one refresh; more come with the next one.
  std::uint32_t max_root_rotations = 256;
  // Delegated roles asked for one target; beyond them it counts as unknown.
  std::uint32_t max_delegations = 64;
};

// A target that the top-level targets role or one it delegates to vouches for.
struct FoundTarget {
  Target target;
  // Then the file is published as "<SHA-256>.<name>" in the folder of its path (section 3.6).
  bool consistent_snapshot = true;
};

class Cycle;

// Not thread-safe. Borrows source, store and clock.
class TufClient {
 public:
  // `trusted_root` comes with the software, authenticated by other means (it is measured with the image).
  TufClient(std::string trusted_root, MetadataSource& source, TrustedMetadataStore& store, const Clock& clock,
            TufClientOptions options = {});

  // One update cycle. All expiry checks use the time at its start. What was proven before a failing step
  // stays stored.
  // Errors: UNAUTHENTICATED/TUF_SIGNATURE_THRESHOLD; FAILED_PRECONDITION with TUF_ROLLBACK, TUF_EXPIRED or
  // TUF_MIX_AND_MATCH; INVALID_ARGUMENT with TUF_TOO_LARGE or TUF_MALFORMED;
  // FAILED_PRECONDITION/TUF_SPEC_UNSUPPORTED; those of source and store. Trying again helps once the
  // repository is put right or can be reached.
  Result<VerifiedTargets> Refresh();

  // One update cycle, then the search for a target among the delegated roles too, in their order: depth
  // first, each role once, up to a terminating one. Delegated metadata is stored like the other. Errors:
  // those of Refresh; NOT_FOUND/TUF_TARGET_UNKNOWN; FAILED_PRECONDITION/TUF_DELEGATION_INVALID for a role
  // that no snapshot lists.
  Result<FoundTarget> Find(std::string_view target_path);

  // A time that has passed, as the stored metadata proves by its signatures, expired or not: when its
  // timestamp was signed, but no later than its targets expire. 1970 when nothing is stored that proves
  // itself.
  UnixMillis ProvenTime();

 private:
  Status Run(Cycle& cycle) const;

  std::string trusted_root_;
  MetadataSource& source_;
  TrustedMetadataStore& store_;
  const Clock& clock_;
  TufClientOptions options_;
};

}  // namespace sealift::tuf
