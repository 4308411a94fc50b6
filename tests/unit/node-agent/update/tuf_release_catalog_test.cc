// From a real TUF repository to a release, and every way in which it must not work.
#include "node-agent/update/tuf_release_catalog.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "shared/release/release_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/node-agent/update/node_fixture.h"
#include "tests/unit/shared/tuf/test_repository.h"

namespace sealift::agent {
namespace {

using test::ReasonIdFrom;

constexpr const char* kToday = "2030-01-01T00:00:00Z";

Manifest ManifestOf(const std::string& version) {
  const Bytes image = ImageBytes(version);
  Manifest manifest;
  manifest.channel = "stable";
  manifest.version = version;
  manifest.minimum_agent_version = "0.1";
  manifest.hardware_class = "generic-x86_64";
  manifest.files.push_back({.path = "EFI/kairos/norole.efi",
                            .role = FileRole::kUki,
                            .digest = Sha256(image),
                            .size = image.size(),
                            .authenticode = Sha256(image)});
  manifest.pcr11.push_back({.phase = "sysinit:ready", .pcr11 = Sha256(image)});
  manifest.stub_version = "252";
  manifest.secure_boot_certificates.push_back(Sha256(image));
  manifest.pcr_keys.push_back(Sha256(image));
  return manifest;
}

class Catalog : public testing::Test {
 protected:
  Catalog() { node_.catalog_seam = &catalog_; }

  // Publishes a manifest, and the targets of its files, under the name of `version`.
  void Publish(const Manifest& manifest, const std::string& version) {
    const std::string text = SerializeManifest(manifest);
    node_.content.objects[Sha256(AsBytes(text))] = ToBytes(text);
    repository_.AddTarget(ManifestTargetName("stable", version), text);
    for (const ReleaseFile& file : manifest.files) {
      node_.content.objects[Sha256(ImageBytes(manifest.version))] = ImageBytes(manifest.version);
      repository_.targets.targets[FileTargetName("stable", version, file.path)] = {.length = file.size,
                                                                                   .sha256 = file.digest};
    }
    repository_.PublishNext();
  }
  // Why nothing was found out about the version, or "NONE".
  std::string Reason(const std::string& version = "2.0") {
    return ReasonIdFrom(catalog_.Resolve(node_.Desired(version)));
  }
  // Why the version is of no use for good.
  std::string Unusable(const std::string& version = "2.0") {
    const auto verdict = catalog_.Resolve(node_.Desired(version));
    EXPECT_TRUE(verdict.ok()) << verdict.status();
    EXPECT_TRUE(!verdict.ok() || verdict->release.has_value() == verdict->unusable.ok());
    return verdict.ok() ? ReasonIdOf(verdict->unusable) : "";
  }

  UpdateNode node_;
  tuf::TestRepository repository_;
  tuf::MemoryStore store_;
  FakeClock clock_{tuf::At(kToday)};
  ContentFetcher manifests_{node_.content, node_.temp() / "manifests", {.reserve_bytes = 0}};
  TufReleaseCatalog catalog_{repository_.FirstRoot(), repository_.source, store_, clock_, manifests_};
};

// However the controller orders it: the targets key has the last word.
TEST_F(Catalog, WithdrawnReleaseIsOfNoUseThoughOrdered) {
  Publish(ManifestOf("2.0"), "2.0");
  EXPECT_EQ(Unusable(), "NONE");
  ASSERT_TRUE(WithdrawRelease(repository_.targets, "stable", "2.0", {.at = {}, .because = "why"}).ok());
  repository_.PublishNext();
  EXPECT_EQ(Unusable(), "RELEASE_WITHDRAWN");
}

TEST_F(Catalog, FindsAReleaseWithItsIdImageAndTime) {
  const Manifest manifest = ManifestOf("2.0");
  Publish(manifest, "2.0");
  DesiredRelease desired = node_.Desired("2.0");
  desired.release_id = ReleaseIdOf(SerializeManifest(manifest)).digest;
  const auto verdict = catalog_.Resolve(desired);
  ASSERT_TRUE(verdict.ok()) << verdict.status();
  const std::optional<TrustedRelease>& release = verdict->release;
  ASSERT_TRUE(release.has_value()) << verdict->unusable;
  EXPECT_EQ(release->id().digest, desired.release_id);
  EXPECT_EQ(release->image().digest, Sha256(ImageBytes("2.0")));
  EXPECT_EQ(release->not_before(), tuf::At("2029-12-31T00:00:00Z"));
  EXPECT_EQ(release->expires(), tuf::At("2030-02-01T00:00:00Z")) << "the timestamp is the first to expire";
}

TEST_F(Catalog, UpgradesANodeFromSignedMetadata) {
  Publish(ManifestOf("2.0"), "2.0");
  node_.Start();
  for (int i = 0; i < 6; ++i) node_.Round("2.0");
  EXPECT_EQ(node_.esp.running_version, "2.0");
  EXPECT_EQ(node_.state(), UpdateState::kIdle);
}

std::string JournalAt(std::uint64_t sequence) {
  return fmt::format(R"({{"journal":"{:032x}","sequence":{},"head":"{}"}})", 1, sequence,
                     Sha256(AsBytes(std::to_string(sequence))).hex());
}

// Keys sign releases, the journal accounts for keys: a cut journal is told, and stops nothing.
TEST_F(Catalog, TellsOfASigningJournalThatWasCutAndUpgradesAllTheSame) {
  repository_.timestamp.journal_checkpoint = JournalAt(9);
  Publish(ManifestOf("1.5"), "1.5");
  node_.Start();
  for (int i = 0; i < 6; ++i) node_.Round("1.5");
  EXPECT_TRUE(node_.engine->status().journal.ok());
  repository_.timestamp.journal_checkpoint = JournalAt(8);
  Publish(ManifestOf("2.0"), "2.0");
  Wish(node_, "2.0");
  StepTo(node_, UpdateState::kVerified);
  EXPECT_EQ(ReasonIdOf(node_.engine->status().journal), "JOURNAL_SHORT");
  for (int i = 0; i < 6; ++i) node_.Round("2.0");
  EXPECT_EQ(node_.esp.running_version, "2.0");
}

TEST_F(Catalog, KnowsNoReleaseThatIsNotListed) { EXPECT_EQ(Reason("9.9"), "TUF_TARGET_UNKNOWN"); }

TEST_F(Catalog, RefusesAnotherReleaseIdThanTheControllerNames) {
  Publish(ManifestOf("2.0"), "2.0");
  DesiredRelease desired = node_.Desired("2.0");
  desired.release_id.bytes[3] = 7;
  EXPECT_EQ(ReasonIdFrom(catalog_.Resolve(desired)), "RELEASE_MIXED");
}

TEST_F(Catalog, RefusesAManifestOfAnotherVersionUnderTheName) {
  Publish(ManifestOf("1.9"), "2.0");
  EXPECT_EQ(Unusable(), "RELEASE_MIXED");
}

TEST_F(Catalog, RefusesAnImageThatOnlyTheManifestNames) {
  Publish(ManifestOf("2.0"), "2.0");
  repository_.targets.targets.erase(FileTargetName("stable", "2.0", "EFI/kairos/norole.efi"));
  repository_.PublishNext();
  EXPECT_EQ(Unusable(), "RELEASE_MIXED");
}

TEST_F(Catalog, RefusesAnImageThatManifestAndMetadataDescribeDifferently) {
  Publish(ManifestOf("2.0"), "2.0");
  repository_.targets.targets[FileTargetName("stable", "2.0", "EFI/kairos/norole.efi")].length += 1;
  repository_.PublishNext();
  EXPECT_EQ(Unusable(), "RELEASE_MIXED");
}

ReleaseFile Extension(const std::string& path, std::string_view text) {
  return {.path = path, .role = FileRole::kExtension, .digest = Sha256(AsBytes(text)), .size = text.size()};
}

TEST_F(Catalog, FindsTheExtensionsOfTheImageAndNotThoseOfOthers) {
  Manifest manifest = ManifestOf("2.0");
  manifest.files.push_back(Extension("EFI/kairos/norole.efi.extra.d/tools.raw", "tools"));
  manifest.files.push_back(Extension("EFI/kairos/other.efi.extra.d/debug.raw", "debug"));
  Publish(manifest, "2.0");
  const auto verdict = catalog_.Resolve(node_.Desired("2.0"));
  ASSERT_TRUE(verdict.ok() && verdict->release) << verdict.status();
  const std::vector<Companion>& companions = verdict->release->companions();
  ASSERT_EQ(companions.size(), 1u);
  EXPECT_EQ(companions[0].name, "tools.raw");
  EXPECT_EQ(companions[0].digest, Sha256(AsBytes("tools")));
  EXPECT_EQ(companions[0].size, 5u);
}

TEST_F(Catalog, RefusesAnExtensionThatOnlyTheManifestNamesOrThatFatCannotHold) {
  Manifest manifest = ManifestOf("2.0");
  const std::string path = "EFI/kairos/norole.efi.extra.d/tools.raw";
  manifest.files.push_back(Extension(path, "tools"));
  Publish(manifest, "2.0");
  repository_.targets.targets.at(FileTargetName("stable", "2.0", path)).sha256.bytes[0] ^= 1;
  repository_.PublishNext();
  EXPECT_EQ(Unusable(), "RELEASE_MIXED");
  repository_.targets.targets.erase(FileTargetName("stable", "2.0", path));
  repository_.PublishNext();
  EXPECT_EQ(Unusable(), "RELEASE_MIXED");
  for (const char* other :
       {"EFI/kairos/norole.efi.extra.d/Tools.raw", "EFI/kairos/norole.efi.extra.d/a/b.raw"}) {
    manifest.files.back() = Extension(other, "tools");
    if (std::string(other).find("Tools") != std::string::npos)
      manifest.files.push_back(Extension(path, "tools"));
    Publish(manifest, "2.0");
    EXPECT_EQ(Unusable(), "RELEASE_MANIFEST_INVALID") << other;
  }
}

TEST_F(Catalog, RefusesAManifestThatDoesNotParse) {
  node_.content.objects[Sha256(AsBytes("{\"files\":"))] = ToBytes("{\"files\":");
  repository_.AddTarget(ManifestTargetName("stable", "2.0"), "{\"files\":");
  repository_.PublishNext();
  EXPECT_EQ(Unusable(), "RELEASE_MANIFEST_INVALID");
}

// A peer's word, whatever reason it gives, is no verdict on a version.
TEST_F(Catalog, TakesNoVerdictFromThePeer) {
  Publish(ManifestOf("2.0"), "2.0");
  node_.Start();
  for (const bool metadata : {true, false}) {
    const Status lie = FromWire(Code::kInvalidArgument, "RELEASE_MANIFEST_INVALID", "so I say");
    repository_.source.on_fetch = [&](std::string_view) { return metadata ? lie : OkStatus(); };
    node_.content.fail = metadata ? OkStatus() : lie;
    for (int i = 0; i < 4; ++i) {
      node_.Round("2.0");
      node_.Pass(std::chrono::minutes(15));
    }
    EXPECT_TRUE(node_.engine->status().failures.empty());
    EXPECT_EQ(node_.esp.running_version, "1.0");
    ASSERT_FALSE(node_.reports.empty());
    EXPECT_EQ(node_.reports.back().reason, "RELEASE_MANIFEST_INVALID");
  }
  repository_.source.on_fetch = {};
  node_.content.fail = OkStatus();
  for (int i = 0; i < 6; ++i) {
    node_.Round("2.0");
    node_.Pass(std::chrono::minutes(15));
  }
  EXPECT_EQ(node_.esp.running_version, "2.0");
}

TEST_F(Catalog, RefusesAManifestOtherThanTheSignedBeforeAParserSeesIt) {
  const Manifest manifest = ManifestOf("2.0");
  Publish(manifest, "2.0");
  node_.content.objects[Sha256(AsBytes(SerializeManifest(manifest)))].back() ^= 1;
  EXPECT_EQ(Reason(), "CONTENT_DIGEST_MISMATCH");
}

TEST_F(Catalog, RefusesExpiredRolledBackAndMixedMetadata) {
  Publish(ManifestOf("2.0"), "2.0");
  const auto files = repository_.source.files;
  ASSERT_EQ(Reason(), "NONE");
  Publish(ManifestOf("2.1"), "2.1");
  ASSERT_EQ(Reason(), "NONE");

  const auto newest = repository_.source.files;
  repository_.source.files["timestamp.json"] = files.at("timestamp.json");
  EXPECT_EQ(Reason(), "TUF_ROLLBACK");
  repository_.source.files = newest;

  // The targets of one publication under the name that the snapshot of another expects.
  Publish(ManifestOf("2.2"), "2.2");
  repository_.source.files[fmt::format("{}.targets.json", repository_.targets.version)] =
      newest.at(fmt::format("{}.targets.json", repository_.targets.version - 1));
  EXPECT_EQ(Reason(), "TUF_MIX_AND_MATCH");
  repository_.PublishNext();
  EXPECT_EQ(Reason(), "NONE");

  clock_.SetWall(tuf::At("2030-02-02T00:00:00Z"));
  EXPECT_EQ(Reason(), "TUF_EXPIRED");
}

TEST_F(Catalog, LeavesTheNodeAsItIsOnMetadataItRefuses) {
  Publish(ManifestOf("2.0"), "2.0");
  clock_.SetWall(tuf::At("2030-02-02T00:00:00Z"));
  node_.Start();
  for (int i = 0; i < 4; ++i) node_.Round("2.0");
  EXPECT_EQ(node_.state(), UpdateState::kIdle);
  EXPECT_EQ(node_.esp.running_version, "1.0");
  ASSERT_FALSE(node_.reports.empty());
  EXPECT_EQ(node_.reports[0].reason, "TUF_EXPIRED");
  EXPECT_TRUE(node_.engine->status().failures.empty());
  EXPECT_EQ(node_.stager->verifications, 0);
}

TEST_F(Catalog, ProvesATimeByStoredSignaturesOnly) {
  EXPECT_EQ(catalog_.ProvenTime(), UnixMillis{});
  Publish(ManifestOf("2.0"), "2.0");
  ASSERT_EQ(Reason(), "NONE");
  EXPECT_EQ(catalog_.ProvenTime(), tuf::At("2029-12-31T00:00:00Z"));
  // Also once it is expired, and by a new process without a network.
  clock_.SetWall(tuf::At("2035-01-01T00:00:00Z"));
  repository_.source.on_fetch = [](std::string_view) {
    return MakeError(Code::kUnavailable, Reason::kPeerUnreachable, "no route");
  };
  EXPECT_EQ(catalog_.ProvenTime(), tuf::At("2029-12-31T00:00:00Z"));
  std::string& stored = store_.files["timestamp.json"];
  const std::size_t at = stored.find("2029-12-31");
  ASSERT_NE(at, std::string::npos);
  stored.replace(at, 4, "2049");
  EXPECT_EQ(catalog_.ProvenTime(), UnixMillis{});
}

TEST_F(Catalog, DoesNotLetTheOnlineKeysPushTimeBeyondTheOfflineOnes) {
  repository_.timestamp.signed_at = tuf::At("2090-01-01T00:00:00Z");
  repository_.timestamp.expires = tuf::At("2091-01-01T00:00:00Z");
  Publish(ManifestOf("2.0"), "2.0");
  const auto release = catalog_.Resolve(node_.Desired("2.0"));
  if (release.ok()) {
    EXPECT_EQ(release->release->not_before(), repository_.targets.expires);
  } else {
    EXPECT_EQ(ReasonIdFrom(release), "TUF_MALFORMED");
  }
}

}  // namespace
}  // namespace sealift::agent
