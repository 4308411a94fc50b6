// The attack table, in the order of the specification's client workflow (section 5).
#include "shared/tuf/client.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "shared/base/files.h"
#include "shared/base/log.h"
#include "tests/unit/shared/tuf/test_repository.h"

namespace sealift::tuf {
namespace {

const UnixMillis kNow = At("2030-01-01T00:00:00Z");

struct World {
  TestRepository repository;
  MemoryStore store;
  FakeClock clock{kNow};
  std::string image_root = repository.FirstRoot();
  TufClientOptions options;

  Result<VerifiedTargets> Refresh() {
    repository.source.fetched.clear();
    return TufClient(image_root, repository.source, store, clock, options).Refresh();
  }
};

TEST(TufClient, FirstRefreshFetchesTheFilesInOrder) {
  World world;
  const Result<VerifiedTargets> verified = world.Refresh();
  ASSERT_TRUE(verified.ok()) << Describe(verified.status());
  EXPECT_EQ(world.repository.source.fetched,
            (std::vector<std::string>{"2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"}));
  EXPECT_EQ(verified->Find("stable/1.0/manifest.json")->length, 2u);
  EXPECT_EQ(ReasonOf(verified->Find("stable/9/manifest.json").status()), Reason::kTufTargetUnknown);
  EXPECT_EQ(verified->root_version(), 1u);
  EXPECT_EQ(verified->timestamp().signed_at, At("2029-12-31T00:00:00Z"));
}

TEST(TufClient, NothingNewCostsOneRootProbeAndOneTimestamp) {
  World world;
  ASSERT_TRUE(world.Refresh().ok());
  ASSERT_TRUE(world.Refresh().ok());
  EXPECT_EQ(world.repository.source.fetched, (std::vector<std::string>{"2.root.json", "timestamp.json"}));
}

TEST(TufClient, NewPublicationIsTaken) {
  World world;
  ASSERT_TRUE(world.Refresh().ok());
  world.repository.AddTarget("stable/2.0/manifest.json", "{...}");
  world.repository.PublishNext();
  EXPECT_TRUE(world.Refresh()->Find("stable/2.0/manifest.json").ok());
}

TEST(TufClient, RootChainIsWalkedOneByOneAndKept) {
  World world;
  world.repository.Rotate({Role::kRoot});
  world.repository.Rotate({Role::kRoot, Role::kTargets});
  world.repository.PublishNext();
  ASSERT_TRUE(world.Refresh().ok());
  EXPECT_EQ(world.repository.source.fetched.at(2), "4.root.json");
  EXPECT_EQ(world.Refresh()->root_version(), 3u);
  EXPECT_EQ(world.repository.source.fetched.front(), "4.root.json") << "stored roots are not fetched again";
}

TEST(TufClient, RootRotationsAreLimitedPerRefresh) {
  World world;
  world.options.max_root_rotations = 2;
  for (int i = 0; i < 3; ++i) world.repository.Rotate({Role::kRoot});
  EXPECT_EQ(world.Refresh()->root_version(), 3u);
  EXPECT_EQ(world.Refresh()->root_version(), 4u);
}

TEST(TufClient, IntermediateRootMayHaveExpired) {
  World world;
  world.repository.root.expires = At("2029-01-01T00:00:00Z");
  world.repository.Rotate({});
  world.repository.root.expires = At("2031-01-01T00:00:00Z");
  world.repository.Rotate({});
  EXPECT_EQ(world.Refresh()->root_version(), 3u);
}

TEST(TufClient, SourceFailureIsNotTheEndOfARootChain) {
  World world;
  world.repository.source.on_fetch = [](std::string_view name) {
    return name == "2.root.json" ? MakeError(Code::kUnavailable, Reason::kTimeout, "no answer") : OkStatus();
  };
  EXPECT_EQ(ReasonOf(world.Refresh().status()), Reason::kTimeout);
}

TEST(TufClient, ForgedStoredFilesAreIgnored) {
  World world;
  World attacker;
  ASSERT_TRUE(attacker.Refresh().ok());
  attacker.repository.Rotate({Role::kRoot});
  world.store.files = attacker.store.files;
  world.store.files["2.root.json"] = attacker.repository.source.files["2.root.json"];
  const Result<VerifiedTargets> verified = world.Refresh();
  ASSERT_TRUE(verified.ok()) << Describe(verified.status());
  EXPECT_EQ(verified->root_version(), 1u);
}

TEST(TufClient, DamagedStoredFilesCostADownload) {
  World world;
  world.repository.Rotate({Role::kRoot});
  ASSERT_TRUE(world.Refresh().ok());
  for (auto& [name, text] : world.store.files) text.resize(text.size() / 2);
  const Result<VerifiedTargets> verified = world.Refresh();
  ASSERT_TRUE(verified.ok()) << Describe(verified.status());
  EXPECT_EQ(world.repository.source.fetched.size(), 5u);
}

// 5.3.11: whoever had the old keys may have pushed the versions up; new keys start afresh.
TEST(TufClient, FastForwardIsRecoveredFromByNewKeys) {
  for (const Role role : {Role::kTimestamp, Role::kSnapshot}) {
    World world;
    world.repository.timestamp.version = 1000;
    world.repository.snapshot.version = 1000;
    world.repository.Publish();
    ASSERT_TRUE(world.Refresh().ok());
    world.repository.timestamp.version = 2;
    world.repository.snapshot.version = 2;
    world.repository.Publish();
    EXPECT_EQ(ReasonOf(world.Refresh().status()), Reason::kTufRollback);
    world.repository.Rotate({role});
    world.repository.Publish();
    const Result<VerifiedTargets> verified = world.Refresh();
    ASSERT_TRUE(verified.ok()) << RoleName(role) << ": " << Describe(verified.status());
    EXPECT_EQ(verified->snapshot_version(), 2u);
  }
}

TEST(TufClient, PowerCutAtAnyWriteLosesNothing) {
  for (int cut = 0; cut < 12; ++cut) {
    World world;
    world.repository.snapshot.version = 1000;
    world.repository.timestamp.version = 1000;
    world.repository.Publish();
    ASSERT_TRUE(world.Refresh().ok());
    world.repository.snapshot.version = 2;
    world.repository.timestamp.version = 1001;
    world.repository.targets.version = 2;
    world.repository.Rotate({Role::kSnapshot});
    world.repository.Rotate({Role::kRoot});
    world.repository.Publish();
    world.store.writes_left = cut;
    const bool cut_short = !world.Refresh().ok();
    EXPECT_EQ(cut_short, cut < 9) << cut;
    world.store.writes_left = -1;
    const Result<VerifiedTargets> verified = world.Refresh();
    ASSERT_TRUE(verified.ok()) << cut << ": " << Describe(verified.status());
    EXPECT_EQ(verified->targets().version, 2u);
  }
}

TEST(TufClient, OneStartTimeServesAllExpiryChecks) {
  World world;
  world.repository.source.on_fetch = [&](std::string_view name) {
    // The clock passes every expiry while the refresh runs.
    if (name == "timestamp.json") world.clock.SetWall(At("2040-01-01T00:00:00Z"));
    return OkStatus();
  };
  EXPECT_TRUE(world.Refresh().ok());
  world.repository.source.on_fetch = nullptr;
  EXPECT_EQ(ReasonOf(world.Refresh().status()), Reason::kTufExpired);
}

TEST(TufClient, WorksWithoutConsistentSnapshots) {
  World world;
  world.repository.root.consistent_snapshot = false;
  Root root = MakeRoot(2, world.repository.root.expires, world.repository.PublicKeys());
  root.consistent_snapshot = false;
  world.repository.root = root;
  world.repository.PublishRoot();
  auto& files = world.repository.source.files;
  files["snapshot.json"] = files["1.snapshot.json"];
  files["targets.json"] = files["1.targets.json"];
  ASSERT_TRUE(world.Refresh().ok());
  EXPECT_EQ(world.repository.source.fetched.back(), "targets.json");
}

struct Attack {
  const char* step;
  const char* name;
  Reason expected;
  // Bends a world whose client has refreshed once, versions 1.
  std::function<void(World&)> bend;
};

void CutSignature(World& world, const std::string& name, std::size_t max_bytes) {
  std::string& text = world.repository.source.files.at(name);
  Envelope file = ParseEnvelope(text, max_bytes).value();
  file.signatures.clear();
  text = file.Serialize();
}

// Bytes that do not carry a digest of their own: replaced and listed as such.
std::vector<Attack> Attacks() {
  return {
      {"5.3.3", "root larger than W", Reason::kTufTooLarge,
       [](World& w) { w.repository.source.files["2.root.json"] = std::string(kMaxRootBytes + 1, ' '); }},
      {"5.3.3", "root is rubbish", Reason::kTufMalformed,
       [](World& w) { w.repository.source.files["2.root.json"] = "{"; }},
      {"5.3.4", "new root lacks the old key's signature", Reason::kTufSignatureThreshold,
       [](World& w) {
         w.repository.NewKey(Role::kRoot);
         w.repository.root = MakeRoot(2, w.repository.root.expires, w.repository.PublicKeys());
         w.repository.PublishRoot();
       }},
      {"5.3.4", "new root lacks its own key's signature", Reason::kTufSignatureThreshold,
       [](World& w) {
         const auto old = w.repository.signers[Role::kRoot];
         w.repository.NewKey(Role::kRoot);
         w.repository.root = MakeRoot(2, w.repository.root.expires, w.repository.PublicKeys());
         w.repository.signers[Role::kRoot] = old;
         w.repository.PublishRoot();
       }},
      {"5.3.5", "root version skips", Reason::kTufRollback,
       [](World& w) {
         w.repository.root.version = 3;
         w.repository.PublishRoot();
         w.repository.source.files["2.root.json"] = w.repository.source.files["3.root.json"];
       }},
      {"5.3.5", "root version repeats", Reason::kTufRollback,
       [](World& w) { w.repository.source.files["2.root.json"] = w.repository.FirstRoot(); }},
      {"5.3.10", "last root expired", Reason::kTufExpired,
       [](World& w) {
         w.repository.root.expires = kNow;
         w.repository.Rotate({});
       }},
      {"5.4.1", "timestamp larger than X", Reason::kTufTooLarge,
       [](World& w) {
         w.repository.source.files["timestamp.json"] = std::string(kMaxTimestampBytes + 1, ' ');
       }},
      {"5.4.2", "timestamp unsigned", Reason::kTufSignatureThreshold,
       [](World& w) { CutSignature(w, "timestamp.json", kMaxTimestampBytes); }},
      {"5.4.2", "timestamp signed by the snapshot key", Reason::kTufSignatureThreshold,
       [](World& w) {
         w.repository.signers[Role::kTimestamp] = w.repository.signers[Role::kSnapshot];
         w.repository.PublishNext();
       }},
      {"5.4.2", "a snapshot served as timestamp", Reason::kTufSignatureThreshold,
       [](World& w) {
         w.repository.source.files["timestamp.json"] = w.repository.source.files["1.snapshot.json"];
       }},
      {"5.4.3.1", "timestamp version goes back", Reason::kTufRollback,
       [](World& w) {
         w.repository.timestamp.version = 5;
         w.repository.Publish();
         ASSERT_TRUE(w.Refresh().ok());
         w.repository.timestamp.version = 4;
         w.repository.Publish();
       }},
      {"5.4.3.2", "timestamp's snapshot version goes back", Reason::kTufRollback,
       [](World& w) {
         w.repository.PublishNext();
         ASSERT_TRUE(w.Refresh().ok());
         w.repository.snapshot.version = 1;
         ++w.repository.timestamp.version;
         w.repository.Publish();
       }},
      {"5.4.4", "timestamp expired", Reason::kTufExpired,
       [](World& w) {
         w.repository.timestamp.expires = kNow;
         w.repository.PublishNext();
       }},
      {"5.4.4", "freeze: the old timestamp is served for ever", Reason::kTufExpired,
       [](World& w) { w.clock.SetWall(w.repository.timestamp.expires); }},
      {"5.5.1", "snapshot longer than listed", Reason::kTufTooLarge,
       [](World& w) {
         w.repository.PublishNext();
         w.repository.source.files["2.snapshot.json"] += " ";
       }},
      {"5.5.1", "snapshot missing", Reason::kFileUnreadable,
       [](World& w) {
         w.repository.PublishNext();
         w.repository.source.files.erase("2.snapshot.json");
       }},
      {"5.5.2", "snapshot of other bytes", Reason::kTufMixAndMatch,
       [](World& w) {
         w.repository.PublishNext();
         w.repository.source.files["2.snapshot.json"].back() = ' ';
       }},
      {"5.5.2", "snapshot shorter than listed", Reason::kTufMixAndMatch,
       [](World& w) {
         w.repository.bend_timestamp = [](Timestamp& t) { t.snapshot.sha256.reset(); };
         w.repository.PublishNext();
         w.repository.source.files["2.snapshot.json"] = "{}";
       }},
      {"5.5.3", "snapshot signed by the timestamp key", Reason::kTufSignatureThreshold,
       [](World& w) {
         w.repository.signers[Role::kSnapshot] = w.repository.signers[Role::kTimestamp];
         w.repository.PublishNext();
       }},
      {"5.5.4", "snapshot version is not the timestamp's", Reason::kTufMixAndMatch,
       [](World& w) {
         w.repository.bend_timestamp = [](Timestamp& t) {
           t.snapshot = {.version = 3, .length = std::nullopt, .sha256 = std::nullopt};
         };
         w.repository.PublishNext();
         w.repository.source.files["3.snapshot.json"] = w.repository.source.files["2.snapshot.json"];
       }},
      {"5.5.5", "targets version goes back", Reason::kTufRollback,
       [](World& w) {
         w.repository.PublishNext();
         ASSERT_TRUE(w.Refresh().ok());
         w.repository.targets.version = 1;
         ++w.repository.snapshot.version;
         ++w.repository.timestamp.version;
         w.repository.Publish();
       }},
      {"5.5.5", "a metadata file vanishes from the snapshot", Reason::kTufRollback,
       [](World& w) {
         w.repository.snapshot.meta["extra.json"] = {
             .version = 1, .length = std::nullopt, .sha256 = std::nullopt};
         w.repository.PublishNext();
         ASSERT_TRUE(w.Refresh().ok());
         w.repository.snapshot.meta.erase("extra.json");
         w.repository.PublishNext();
       }},
      {"5.5.6", "snapshot expired", Reason::kTufExpired,
       [](World& w) {
         w.repository.snapshot.expires = kNow;
         w.repository.PublishNext();
       }},
      {"5.5.6", "stored snapshot expired meanwhile", Reason::kTufExpired,
       [](World& w) {
         w.repository.timestamp.expires = At("2031-01-01T00:00:00Z");
         ++w.repository.timestamp.version;
         w.repository.Publish();
         w.clock.SetWall(w.repository.snapshot.expires);
       }},
      {"5.6.1", "targets longer than listed", Reason::kTufTooLarge,
       [](World& w) {
         w.repository.PublishNext();
         w.repository.source.files["2.targets.json"] += " ";
       }},
      {"5.6.2", "targets of other bytes", Reason::kTufMixAndMatch,
       [](World& w) {
         w.repository.PublishNext();
         w.repository.source.files["2.targets.json"].back() = ' ';
       }},
      {"5.6.3", "targets signed by the online keys", Reason::kTufSignatureThreshold,
       [](World& w) {
         w.repository.signers[Role::kTargets] = w.repository.signers[Role::kSnapshot];
         w.repository.PublishNext();
       }},
      {"5.6.4", "targets version is not the snapshot's", Reason::kTufMixAndMatch,
       [](World& w) {
         w.repository.bend_snapshot = [](Snapshot& s) {
           s.meta["targets.json"] = {.version = 3, .length = std::nullopt, .sha256 = std::nullopt};
         };
         w.repository.PublishNext();
         w.repository.source.files["3.targets.json"] = w.repository.source.files["2.targets.json"];
       }},
      {"5.6.5", "targets expired", Reason::kTufExpired,
       [](World& w) {
         w.repository.targets.expires = kNow;
         w.repository.PublishNext();
       }},
  };
}

class AttackTest : public testing::TestWithParam<Attack> {};

TEST_P(AttackTest, IsRefusedWithItsReasonAndLeavesTrustAsItWas) {
  World world;
  const Result<VerifiedTargets> before = world.Refresh();
  ASSERT_TRUE(before.ok()) << Describe(before.status());
  const auto good = world.repository.source.files;
  GetParam().bend(world);
  const Result<VerifiedTargets> verified = world.Refresh();
  EXPECT_EQ(ReasonOf(verified.status()), GetParam().expected) << Describe(verified.status());
  EXPECT_FALSE(verified.ok());
}

std::string AttackName(const testing::TestParamInfo<Attack>& info) {
  std::string name = fmt::format("{}_{}_{}", info.index, info.param.step, info.param.name);
  for (char& c : name) {
    if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))) c = '_';
  }
  return name;
}
INSTANTIATE_TEST_SUITE_P(Section5, AttackTest, testing::ValuesIn(Attacks()), AttackName);

TEST(TufClient, AttackStoresNothingOfTheBadFile) {
  World world;
  ASSERT_TRUE(world.Refresh().ok());
  const auto trusted = world.store.files;
  world.repository.signers[Role::kTimestamp] = world.repository.signers[Role::kSnapshot];
  world.repository.PublishNext();
  EXPECT_FALSE(world.Refresh().ok());
  EXPECT_EQ(world.store.files, trusted);
}

TEST(TufClient, EveryFlippedByteOfTheFilesIsRefused) {
  World world;
  world.repository.PublishNext();
  const auto good = world.repository.source.files;
  for (const char* name : {"timestamp.json", "2.snapshot.json", "2.targets.json"}) {
    for (std::size_t i = 0; i < good.at(name).size(); ++i) {
      world.store.files.clear();
      world.repository.source.files = good;
      world.repository.source.files[name][i] = static_cast<char>(good.at(name)[i] ^ 0x01);
      EXPECT_FALSE(world.Refresh().ok()) << name << " byte " << i;
    }
  }
}

TEST(TufClient, ImageRootMustBeSound) {
  World world;
  world.image_root = "{}";
  EXPECT_EQ(ReasonOf(world.Refresh().status()), Reason::kTufMalformed);
  world.image_root = World().image_root;
  EXPECT_FALSE(world.Refresh().ok()) << "another repository's root";
}

TEST(FileMetadataStore, KeepsFilesAndForgetsRemovedOnes) {
  const TempDir folder = TempDir::Create("tuf-store").value();
  FileMetadataStore store(folder.path() / "tuf");
  EXPECT_FALSE(store.Load("timestamp.json")->has_value());
  EXPECT_TRUE(store.Remove("timestamp.json").ok());
  ASSERT_TRUE(store.Store("timestamp.json", "one").ok());
  ASSERT_TRUE(store.Store("timestamp.json", "two").ok());
  EXPECT_EQ(FileMetadataStore(folder.path() / "tuf").Load("timestamp.json")->value(), "two");
  ASSERT_TRUE(store.Remove("timestamp.json").ok());
  EXPECT_FALSE(store.Load("timestamp.json")->has_value());
}

// The folder is on a partition that anybody may have written to; none of it may stop a refresh for good.
TEST(FileMetadataStore, CountsWhatIsNoFileAsNoneAndMakesItGiveWay) {
  log::SetLevel(log::Level::kError);
  const TempDir folder = TempDir::Create("tuf-store").value();
  FileMetadataStore store(folder.path());
  const auto path = folder.path() / "timestamp.json";
  const std::function<void()> obstacles[] = {
      [&] { std::filesystem::create_directories(path / "full"); },
      [&] { std::filesystem::create_symlink(path, path); },
      [&] { std::filesystem::create_symlink("/dev/zero", path); },
      [&] { ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0); },
  };
  for (const auto& put : obstacles) {
    put();
    const auto loaded = store.Load("timestamp.json");
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_FALSE(loaded->has_value());
    EXPECT_TRUE(store.Store("timestamp.json", "new").ok());
    EXPECT_EQ(store.Load("timestamp.json")->value(), "new");
    EXPECT_TRUE(store.Remove("timestamp.json").ok());
    put();
    EXPECT_TRUE(store.Remove("timestamp.json").ok());
    EXPECT_EQ(std::filesystem::symlink_status(path).type(), std::filesystem::file_type::not_found);
  }
}

}  // namespace
}  // namespace sealift::tuf
