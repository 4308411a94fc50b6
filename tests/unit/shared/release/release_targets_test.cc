#include "shared/release/release_targets.h"

#include <gtest/gtest.h>

#include "shared/crypto/hash.h"

namespace sealift {
namespace {

Manifest ManifestOf(const std::string& channel, const std::string& version) {
  Manifest manifest;
  manifest.channel = channel;
  manifest.version = version;
  manifest.hardware_class = "generic-x86_64";
  manifest.files = {
      {"EFI/kairos/norole.efi", FileRole::kUki, Sha256(AsBytes(version)), 7, Sha256(AsBytes("a"))}};
  manifest.pcr11 = {{"", Sha256(AsBytes("0"))}};
  return manifest;
}

tuf::Targets TargetsWith(std::uint32_t version, const std::vector<std::string>& versions) {
  tuf::Targets targets{.version = version, .expires = {}, .targets = {}};
  for (const std::string& release : versions) {
    const Manifest manifest = ManifestOf("stable", release);
    targets.targets.merge(TargetsOfRelease(manifest, SerializeManifest(manifest), FromUnixMs(1700000000000)));
  }
  return targets;
}

TEST(ReleaseTargets, CustomMembersSayWhatTheDesignAsksFor) {
  const tuf::Targets targets = TargetsWith(1, {"1.0"});
  const std::string& custom = targets.targets.at("stable/1.0/EFI/kairos/norole.efi").custom;
  for (const char* key : {"role", "channel", "version", "published_unix_ms", "schema_version",
                          "minimum_agent_version", "hardware_class", "security_epoch",
                          "secure_boot_certificates", "pcr_keys", "pcr11", "authenticode_sha256"}) {
    EXPECT_NE(custom.find("\"" + std::string(key) + "\":"), std::string::npos) << key;
  }
  EXPECT_NE(custom.find(R"("role":"uki")"), std::string::npos) << custom;
}

TEST(ReleaseTargets, ListsReleasesInVersionOrderAndLeavesOtherTargetsOut) {
  tuf::Targets targets = TargetsWith(1, {"1.10", "1.9", "1.9~rc1"});
  for (const char* name : {"x", "a/b", "/1.0/manifest.json", "stable/-/manifest.json", "stable/3.0/EFI/x.efi",
                           "stable//manifest.json"}) {
    targets.targets[name] = {.length = 1, .sha256 = {}, .custom = {}};
  }
  std::vector<std::string> versions;
  for (const ListedRelease& release : ListReleases(targets)) versions.push_back(release.version);
  EXPECT_EQ(versions, (std::vector<std::string>{"1.9~rc1", "1.9", "1.10"}));
  EXPECT_EQ(FindRelease(targets, "stable", "1.9")->published, FromUnixMs(1700000000000));
  EXPECT_EQ(ReasonOf(FindRelease(targets, "stable", "3.0").status()), Reason::kTufTargetUnknown);
}

TEST(ReleaseTargets, SuccessorRules) {
  const tuf::Targets current = TargetsWith(5, {"1.0", "1.1"});
  EXPECT_TRUE(CheckSuccessor(current, TargetsWith(6, {"1.0", "1.1", "1.2"})).ok());
  EXPECT_TRUE(CheckSuccessor(current, TargetsWith(6, {"1.1"})).ok()) << "leaving out withdraws";
  EXPECT_EQ(ReasonOf(CheckSuccessor(current, TargetsWith(5, {"1.0", "1.1", "1.2"}))), Reason::kTufRollback);
  EXPECT_EQ(ReasonOf(CheckSuccessor(current, TargetsWith(6, {"1.0", "1.1", "0.9"}))),
            Reason::kReleaseVersionLower);
  EXPECT_EQ(ReasonOf(CheckSuccessor(TargetsWith(5, {"1.1"}), TargetsWith(6, {"1.1", "1.0"}))),
            Reason::kReleaseVersionLower);
  tuf::Targets changed = TargetsWith(6, {"1.0", "1.1"});
  changed.targets.at("stable/1.0/EFI/kairos/norole.efi").sha256 = {};
  EXPECT_EQ(ReasonOf(CheckSuccessor(current, changed)), Reason::kReleaseChanged);
  EXPECT_EQ(ReasonOf(CheckNewVersion(current, "stable", "1.1")), Reason::kReleaseExists);
  EXPECT_TRUE(CheckNewVersion(current, "beta", "0.1").ok());
}

TEST(ReleaseTargets, ManifestAndTargetsMustAgree) {
  const Manifest manifest = ManifestOf("stable", "1.0");
  tuf::Targets targets = TargetsWith(1, {"1.0", "1.1"});
  const ListedRelease listed = FindRelease(targets, "stable", "1.0").value();
  EXPECT_TRUE(CheckManifestListed(manifest, listed, targets).ok());
  EXPECT_EQ(ReasonOf(CheckManifestListed(ManifestOf("stable", "1.1"), listed, targets)),
            Reason::kReleaseMixed);
  targets.targets.at("stable/1.0/EFI/kairos/norole.efi").length = 8;
  EXPECT_EQ(ReasonOf(CheckManifestListed(manifest, listed, targets)), Reason::kReleaseMixed);
  targets.targets.erase("stable/1.0/EFI/kairos/norole.efi");
  EXPECT_EQ(ReasonOf(CheckManifestListed(manifest, listed, targets)), Reason::kReleaseMixed);
}

}  // namespace
}  // namespace sealift
