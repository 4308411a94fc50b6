// A controller's repository and a build host beside it, on temporary folders.
#pragma once

#include <gtest/gtest.h>

#include "controller/publish/release_publisher.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "tests/unit/shared/tuf/test_repository.h"

namespace sealift::controller {

class PublishTest : public testing::Test {
 protected:
  PublishTest() {
    for (const tuf::Role role :
         {tuf::Role::kRoot, tuf::Role::kTargets, tuf::Role::kSnapshot, tuf::Role::kTimestamp}) {
      signers_[role] = SoftwareSigner::Generate(KeyType::kEcP256).value();
    }
    root_json_ = SignedRoot(1, *signers_[tuf::Role::kRoot]);
    repository_ = OpenRepository().value();
  }

  std::string SignedRoot(std::uint32_t version, Signer& signer) {
    std::map<tuf::Role, PublicKey> keys;
    for (const auto& [role, key] : signers_) keys.emplace(role, key->public_key());
    tuf::Envelope file = tuf::MakeEnvelope(tuf::MakeRoot(version, tuf::At("2035-01-01T00:00:00Z"), keys));
    SEALIFT_CHECK(tuf::SignMetadata(tuf::Role::kRoot, file, signer, "test").ok());
    return file.Serialize();
  }

  Result<std::unique_ptr<TufRepository>> OpenRepository() {
    return TufRepository::Open({.directory = folder_.path() / "tuf", .journal_checkpoint = checkpoint_},
                               root_json_, {signers_[tuf::Role::kSnapshot], signers_[tuf::Role::kTimestamp]},
                               *content_, clock_);
  }

  // A folder as build-uki leaves it, with files small enough for a test.
  std::filesystem::path Build(const std::string& version, const std::string& more = {}) {
    const std::filesystem::path out = folder_.path() / ("out-" + version);
    Manifest manifest;
    manifest.version = version;
    manifest.hardware_class = "generic-x86_64";
    manifest.pcr11 = {{"", Sha256(AsBytes("pcr"))}};
    const auto add = [&](const std::string& path, FileRole role, const std::string& text) {
      SEALIFT_CHECK(MakeDirectories((out / path).parent_path()).ok());
      SEALIFT_CHECK(WriteFileAtomically(out / path, AsBytes(text)).ok());
      manifest.files.push_back({path, role, Sha256(AsBytes(text)), text.size(), std::nullopt});
    };
    add("EFI/kairos/norole.efi", FileRole::kUki, "uki " + version + more);
    add("EFI/BOOT/BOOTX64.EFI", FileRole::kBootLoader, "the same boot loader");
    SEALIFT_CHECK(WriteFileAtomically(out / "release.json", AsBytes(SerializeManifest(manifest))).ok());
    return out;
  }

  Result<PublishOutcome> Publish(const std::string& version, const std::string& channel = "stable") {
    LocalUploader uploader(*repository_, *content_);
    return PublishRelease({.build_directory = Build(version), .channel = channel, .progress = {}}, root_json_,
                          state_, *signers_[tuf::Role::kTargets], uploader, clock_);
  }

  // What a node sees.
  Result<tuf::VerifiedTargets> Refresh() {
    LocalUploader uploader(*repository_, *content_);
    return tuf::TufClient(root_json_, uploader.metadata(), node_state_, clock_).Refresh();
  }

  TempDir folder_ = TempDir::Create("publish").value();
  FakeClock clock_{tuf::At("2030-01-01T00:00:00Z")};
  std::map<tuf::Role, std::shared_ptr<SoftwareSigner>> signers_;
  std::string root_json_;
  std::function<std::string()> checkpoint_;
  std::unique_ptr<ContentStore> content_ = ContentStore::Open(folder_.path() / "content").value();
  std::unique_ptr<TufRepository> repository_;
  tuf::MemoryStore state_;
  tuf::MemoryStore node_state_;
};

}  // namespace sealift::controller
