// A TUF repository in memory for tests, whose every file can be bent before it is signed.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "shared/crypto/hash.h"
#include "shared/tuf/client.h"
#include "shared/tuf/metadata.h"

namespace sealift::tuf {

// Serves a map of files; what is not in it is NOT_FOUND. `fetched` keeps the order of requests.
class MemorySource final : public MetadataSource {
 public:
  Result<std::string> Fetch(std::string_view name, std::size_t) override {
    fetched.emplace_back(name);
    if (on_fetch) {
      const Status status = on_fetch(name);
      if (!status.ok()) return status;
    }
    const auto found = files.find(std::string(name));
    if (found != files.end()) return found->second;
    return MakeError(Code::kNotFound, Reason::kFileUnreadable, fmt::format("no file '{}'", name));
  }

  std::map<std::string, std::string> files;
  std::vector<std::string> fetched;
  std::function<Status(std::string_view)> on_fetch;
};

// Keeps files in a map. `writes_left` below zero: no limit; at zero every change fails, as after a power cut.
class MemoryStore final : public TrustedMetadataStore {
 public:
  Result<std::optional<std::string>> Load(std::string_view name) override {
    const auto found = files.find(std::string(name));
    if (found == files.end()) return std::optional<std::string>();
    return std::optional<std::string>(found->second);
  }
  Status Store(std::string_view name, std::string_view bytes) override {
    SEALIFT_RETURN_IF_ERROR(Spend());
    files.insert_or_assign(std::string(name), std::string(bytes));
    return OkStatus();
  }
  Status Remove(std::string_view name) override {
    SEALIFT_RETURN_IF_ERROR(Spend());
    files.erase(std::string(name));
    return OkStatus();
  }

  std::map<std::string, std::string> files;
  int writes_left = -1;

 private:
  Status Spend() {
    if (writes_left == 0) return MakeError(Code::kUnavailable, Reason::kFileUnwritable, "power is cut");
    if (writes_left > 0) --writes_left;
    return OkStatus();
  }
};

inline UnixMillis At(std::string_view rfc3339) { return ParseRfc3339(rfc3339).value(); }

// Change the models, the signers or `bend`, then call Publish.
class TestRepository {
 public:
  TestRepository() {
    for (const Role role : {Role::kRoot, Role::kTargets, Role::kSnapshot, Role::kTimestamp}) NewKey(role);
    root = MakeRoot(1, At("2031-01-01T00:00:00Z"), PublicKeys());
    targets = {.version = 1, .expires = At("2030-06-01T00:00:00Z"), .targets = {}};
    snapshot.expires = At("2030-03-01T00:00:00Z");
    timestamp.expires = At("2030-02-01T00:00:00Z");
    timestamp.signed_at = At("2029-12-31T00:00:00Z");
    AddTarget("stable/1.0/manifest.json", "{}");
    PublishRoot();
    Publish();
  }

  void NewKey(Role role) { signers[role] = SoftwareSigner::Generate(KeyType::kEcP256).value(); }

  std::map<Role, PublicKey> PublicKeys() const {
    std::map<Role, PublicKey> keys;
    for (const auto& [role, signer] : signers) keys.emplace(role, signer->public_key());
    return keys;
  }

  void AddTarget(const std::string& name, std::string_view content, const std::string& custom = "") {
    targets.targets[name] = {.length = content.size(), .sha256 = Sha256(AsBytes(content)), .custom = custom};
  }

  // Signed by the present root key and, where given, by an earlier one.
  void PublishRoot(Signer* previous = nullptr) {
    Envelope file = MakeEnvelope(root);
    SEALIFT_CHECK(SignMetadata(Role::kRoot, file, *signers[Role::kRoot], "test").ok());
    if (previous != nullptr) SEALIFT_CHECK(SignMetadata(Role::kRoot, file, *previous, "test").ok());
    source.files[fmt::format("{}.root.json", root.version)] = file.Serialize();
  }

  // A new root version in which `roles` have new keys; the old root key signs too.
  void Rotate(const std::vector<Role>& roles) {
    const std::shared_ptr<Signer> old_root = signers[Role::kRoot];
    for (const Role role : roles) NewKey(role);
    root = MakeRoot(root.version + 1, root.expires, PublicKeys());
    PublishRoot(old_root.get());
  }

  // Targets, snapshot and timestamp as they stand, with matching lengths and digests.
  void Publish() {
    const std::string targets_text = Sign(Role::kTargets, MakeEnvelope(targets));
    source.files[fmt::format("{}.targets.json", targets.version)] = targets_text;
    snapshot.meta["targets.json"] = Listed(targets.version, targets_text);
    if (bend_snapshot) bend_snapshot(snapshot);
    const std::string snapshot_text = Sign(Role::kSnapshot, MakeEnvelope(snapshot));
    source.files[fmt::format("{}.snapshot.json", snapshot.version)] = snapshot_text;
    timestamp.snapshot = Listed(snapshot.version, snapshot_text);
    if (bend_timestamp) bend_timestamp(timestamp);
    source.files["timestamp.json"] = Sign(Role::kTimestamp, MakeEnvelope(timestamp));
  }

  // The next version of all three.
  void PublishNext() {
    ++targets.version;
    ++snapshot.version;
    ++timestamp.version;
    Publish();
  }

  std::string FirstRoot() const { return source.files.at("1.root.json"); }

  std::map<Role, std::shared_ptr<SoftwareSigner>> signers;
  Root root;
  Targets targets;
  Snapshot snapshot;
  Timestamp timestamp;
  std::function<void(Snapshot&)> bend_snapshot;
  std::function<void(Timestamp&)> bend_timestamp;
  MemorySource source;

 private:
  static MetaFile Listed(std::uint32_t version, std::string_view text) {
    return {.version = version, .length = text.size(), .sha256 = Sha256(AsBytes(text))};
  }
  std::string Sign(Role role, Envelope file) {
    SEALIFT_CHECK(SignMetadata(role, file, *signers[role], "test").ok());
    return file.Serialize();
  }
};

}  // namespace sealift::tuf
