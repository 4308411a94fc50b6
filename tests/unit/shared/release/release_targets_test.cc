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

TEST(ReleaseTargets, WithdrawalLeavesTheMarkedManifestAlone) {
  tuf::Targets targets = TargetsWith(1, {"1.0", "1.1"});
  const Withdrawal why{.at = FromUnixMs(1800000000000), .because = "does not boot on r7"};
  ASSERT_TRUE(WithdrawRelease(targets, "stable", "1.0", why).ok());
  EXPECT_FALSE(targets.targets.contains("stable/1.0/EFI/kairos/norole.efi"));
  EXPECT_TRUE(targets.targets.contains("stable/1.1/EFI/kairos/norole.efi"));
  const tuf::Targets read = tuf::ParseTargets(tuf::MakeEnvelope(targets)).value();
  const ListedRelease withdrawn = FindRelease(read, "stable", "1.0").value();
  ASSERT_TRUE(withdrawn.withdrawn.has_value());
  EXPECT_EQ(withdrawn.withdrawn->at, why.at);
  EXPECT_EQ(withdrawn.withdrawn->because, why.because);
  EXPECT_EQ(withdrawn.published, FromUnixMs(1700000000000)) << "what else was said stays";
  EXPECT_FALSE(FindRelease(read, "stable", "1.1")->withdrawn.has_value());
  EXPECT_EQ(ReasonOf(WithdrawRelease(targets, "stable", "1.0", why)), Reason::kReleaseWithdrawn);
  EXPECT_EQ(ReasonOf(WithdrawRelease(targets, "stable", "3.0", why)), Reason::kTufTargetUnknown);
  for (const std::string& because : {std::string(), std::string("a\nb"), std::string(201, 'x')}) {
    EXPECT_EQ(ReasonOf(WithdrawRelease(targets, "stable", "1.1", {.at = {}, .because = because})),
              Reason::kInvalidArgument);
  }
}

// A node that cannot read the mark must not take the release.
TEST(ReleaseTargets, MarkThatCannotBeReadWithdraws) {
  for (const char* custom : {R"({"withdrawn":true})", R"({"withdrawn":{}})", R"({"withdrawn":null})",
                             R"({"withdrawn":{"unix_ms":-1,"because":"x"}})", "{", "[]"}) {
    EXPECT_TRUE(WithdrawalOf({.length = 1, .sha256 = {}, .custom = custom}).has_value()) << custom;
  }
  EXPECT_FALSE(WithdrawalOf({.length = 1, .sha256 = {}, .custom = R"({"role":"manifest"})"}).has_value());
}

TEST(ReleaseTargets, WhatWasWithdrawnNeverComesBack) {
  tuf::Targets current = TargetsWith(5, {"1.0", "1.1"});
  ASSERT_TRUE(WithdrawRelease(current, "stable", "1.0", {.at = {}, .because = "why"}).ok());
  tuf::Targets next = current;
  next.version = 6;
  EXPECT_TRUE(CheckSuccessor(current, next).ok());
  EXPECT_TRUE(CheckSuccessor(TargetsWith(4, {"1.0", "1.1"}), next).ok());
  EXPECT_EQ(ReasonOf(CheckSuccessor(current, TargetsWith(6, {"1.0", "1.1"}))), Reason::kReleaseWithdrawn);
  EXPECT_EQ(ReasonOf(CheckSuccessor(current, TargetsWith(6, {"1.1"}))), Reason::kReleaseWithdrawn);
  EXPECT_EQ(ReasonOf(CheckNewVersion(current, "stable", "1.0")), Reason::kReleaseExists);
}

TEST(ReleaseTargets, SuccessorRules) {
  const tuf::Targets current = TargetsWith(5, {"1.0", "1.1"});
  EXPECT_TRUE(CheckSuccessor(current, TargetsWith(6, {"1.0", "1.1", "1.2"})).ok());
  EXPECT_TRUE(CheckSuccessor(current, TargetsWith(6, {"1.1"})).ok()) << "leaving out is allowed";
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
