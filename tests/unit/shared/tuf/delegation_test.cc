// Delegations: who is asked for a target, in which order, and what attackers among the delegated can do.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "shared/tuf/delegations.h"
#include "shared/tuf/json.h"
#include "tests/unit/shared/tuf/test_repository.h"

namespace sealift::tuf {
namespace {

using nlohmann::json;

const UnixMillis kNow = At("2030-01-01T00:00:00Z");

TEST(PathPattern, WildcardsStayWithinOnePartOfThePath) {
  struct Case {
    const char* pattern;
    const char* path;
    bool matches;
  };
  for (const Case& c : {
           Case{"targets/*.tgz", "targets/foo.tgz", true},
           {"targets/*.tgz", "targets/foo.txt", false},
           {"foo-version-?.tgz", "foo-version-2.tgz", true},
           {"foo-version-?.tgz", "foo-version-alpha.tgz", false},
           {"foo-version-?.tgz", "foo-version-.tgz", false},
           {"*.tgz", "foo.tgz", true},
           {"*.tgz", "targets/foo.tgz", false},
           {"foo.tgz", "foo.tgz", true},
           {"foo.tgz", "foo.tgz2", false},
           {"*", "a", true},
           {"*", "", true},
           {"*", "a/b", false},
           {"*/*", "a/b", true},
           {"*/*", "a/b/c", false},
           {"a?b", "a/b", false},
           {"a/*/c", "a//c", true},
           {"a*b*c", "aXbYbZc", true},
           {"a*b*c", "aXbYbZ", false},
           {"**", "ab", true},
           {"**", "a/b", false},
           {"a/*", "a", false},
           {"a/*", "a/", true},
           {"/a", "a", false},
           {"[ab]", "a", false},
           {"[ab]", "[ab]", true},
           {"", "", true},
           {"", "a", false},
           {".*", ".hidden", true},
           {"*", ".hidden", true},
           {"A", "a", false},
           {"*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false},
       }) {
    EXPECT_EQ(MatchesPathPattern(c.pattern, c.path), c.matches) << c.pattern << " on " << c.path;
  }
}

TEST(StoredFileName, IsAPlainFileAndNeverAnotherOne) {
  for (const char* name : {"..", ".", "/etc/passwd", "../x", "rotated", "journals", "2.root", "a/b", "?", "#",
                           "%", "x y", "\n"}) {
    const std::string file = StoredFileName(name);
    EXPECT_EQ(file.find('/'), std::string::npos) << name;
    EXPECT_NE(file, "rotated.json");
    EXPECT_NE(file, "journals.json");
    EXPECT_NE(file, "2.root.json");
    EXPECT_FALSE(file.starts_with('.')) << name;
  }
  EXPECT_EQ(StoredFileName("site-A_1"), "site-A_1.json");
  EXPECT_LT(StoredFileName(std::string(400, '/')).size(), 100u);
  EXPECT_EQ(PercentEncodeName("../delegated role"), "..%2Fdelegated%20role");
}

// Hand-made, so that each delegating role is written down as a file would be.
class World {
 public:
  World() { signer_ = SoftwareSigner::Generate(KeyType::kEcP256).value(); }

  // `by` delegates to `name`; both are published by Publish().
  void Delegate(const std::string& by, const std::string& name, std::vector<std::string> paths = {"*"},
                bool terminating = false) {
    Targets& from = Role(by);
    if (!from.delegations.has_value()) from.delegations.emplace();
    const Key key = Key::FromPublicKey(signer_->public_key());
    from.delegations->keys[key.id] = key;
    from.delegations->roles.push_back({.name = name,
                                       .keys = {.key_ids = {key.id}, .threshold = 1},
                                       .terminating = terminating,
                                       .paths = std::move(paths),
                                       .path_hash_prefixes = std::nullopt});
    Role(name);
  }
  Targets& Role(const std::string& name) {
    if (name == "targets") return repository.targets;
    const auto [found, fresh] = roles.try_emplace(name);
    if (fresh) found->second.expires = At("2030-06-01T00:00:00Z");
    return found->second;
  }
  void Add(const std::string& role, const std::string& target) {
    Role(role).targets[target] = {.length = 1, .sha256 = Sha256(AsBytes(role + target)), .custom = ""};
  }
  void Publish() {
    for (const auto& [name, targets] : roles) {
      Envelope file = MakeEnvelope(targets);
      SEALIFT_CHECK(SignMetadata(tuf::Role::kTargets, file, *signer_, "test").ok());
      const std::string text = file.Serialize();
      repository.source.files[fmt::format("{}.{}.json", targets.version, PercentEncodeName(name))] = text;
      repository.snapshot.meta[name + ".json"] = {
          .version = targets.version, .length = text.size(), .sha256 = Sha256(AsBytes(text))};
    }
    repository.PublishNext();
  }
  Result<FoundTarget> Find(const std::string& target) {
    repository.source.fetched.clear();
    return TufClient(repository.FirstRoot(), repository.source, store, clock, options).Find(target);
  }
  // Names of the delegated roles asked, in order.
  std::string Visited(const std::string& target) {
    store.files.clear();
    static_cast<void>(Find(target).ok());
    std::string names;
    for (std::size_t i = 4; i < repository.source.fetched.size(); ++i) {
      names += repository.source.fetched[i].substr(2, repository.source.fetched[i].size() - 7);
    }
    return names;
  }

  TestRepository repository;
  std::map<std::string, Targets> roles;
  MemoryStore store;
  FakeClock clock{kNow};
  TufClientOptions options;

 private:
  std::shared_ptr<SoftwareSigner> signer_;
};

TEST(Delegations, AreSearchedDepthFirstInOrder) {
  World world;
  world.Delegate("targets", "A");
  world.Delegate("targets", "B");
  world.Delegate("A", "C");
  world.Delegate("A", "D");
  world.Publish();
  EXPECT_EQ(world.Visited("missing"), "ACDB");
  EXPECT_EQ(ReasonOf(world.Find("missing").status()), Reason::kTufTargetUnknown);
}

TEST(Delegations, TerminatingEndsTheWholeSearchAfterItsDescendants) {
  World world;
  world.Delegate("targets", "A");
  world.Delegate("targets", "B");
  world.Delegate("A", "C", {"*"}, /*terminating=*/true);
  world.Delegate("A", "D");
  world.Delegate("C", "E");
  world.Publish();
  EXPECT_EQ(world.Visited("missing"), "ACE");
}

TEST(Delegations, CyclesAndDiamondsAskEachRoleOnce) {
  World world;
  world.Delegate("targets", "A");
  world.Delegate("targets", "B");
  world.Delegate("A", "C");
  world.Delegate("B", "C");
  world.Delegate("C", "A");
  world.Delegate("B", "B2");
  world.Delegate("B2", "B");
  world.Publish();
  EXPECT_EQ(world.Visited("missing"), "ACBB2");
}

TEST(Delegations, TooManyEndTheSearch) {
  World world;
  world.options.max_delegations = 3;
  for (const char* name : {"A", "B", "C", "D"}) world.Delegate("targets", name);
  world.Add("D", "x");
  world.Publish();
  EXPECT_EQ(world.Visited("x"), "ABC");
  EXPECT_EQ(ReasonOf(world.Find("x").status()), Reason::kTufTargetUnknown);
}

TEST(Delegations, WholeChainMustBeTrustedWithThePath) {
  World world;
  world.Delegate("targets", "A", {"*.md"});
  world.Delegate("targets", "B", {"releases/*/*"});
  world.Delegate("B", "C", {"releases/x/*"});
  world.Delegate("B", "D", {"releases/y/*.zip"});
  world.Add("C", "releases/x/x_v1");
  world.Add("D", "releases/z/z_v1.zip");
  world.Add("C", "other");
  world.Publish();
  EXPECT_EQ(world.Find("releases/x/x_v1")->target.sha256, Sha256(AsBytes("Creleases/x/x_v1")));
  EXPECT_EQ(world.Visited("releases/z/z_v1.zip"), "B");
  EXPECT_EQ(ReasonOf(world.Find("releases/z/z_v1.zip").status()), Reason::kTufTargetUnknown);
  EXPECT_EQ(ReasonOf(world.Find("other").status()), Reason::kTufTargetUnknown);
}

TEST(Delegations, DelegatorAndEarlierRolesComeFirst) {
  World world;
  world.Delegate("targets", "A");
  world.Delegate("targets", "B");
  world.Add("A", "x");
  world.Add("B", "x");
  world.Publish();
  EXPECT_EQ(world.Find("x")->target.sha256, Sha256(AsBytes("Ax")));
  world.Add("targets", "x");
  world.Publish();
  EXPECT_EQ(world.Find("x")->target.sha256, Sha256(AsBytes("targetsx")));
}

TEST(Delegations, HashPrefixesChooseByTheDigestOfThePath) {
  World world;
  world.Delegate("targets", "A");
  world.Delegate("targets", "B");
  const std::string digest = Sha256(AsBytes("x")).hex();
  for (DelegatedRole& role : world.repository.targets.delegations->roles) role.paths.reset();
  world.repository.targets.delegations->roles[0].path_hash_prefixes = {digest.substr(0, 2) + "!"};
  world.repository.targets.delegations->roles[1].path_hash_prefixes = {"", digest.substr(0, 3)};
  world.repository.targets.delegations->roles[1].path_hash_prefixes->erase(
      world.repository.targets.delegations->roles[1].path_hash_prefixes->begin());
  world.Add("B", "x");
  world.Publish();
  EXPECT_EQ(world.Visited("x"), "B");
  EXPECT_TRUE(world.Find("x").ok());
}

TEST(Delegations, SuccinctRolesNameTheBinOfThePath) {
  World world;
  world.Delegate("targets", "unused");
  Delegations& delegations = *world.repository.targets.delegations;
  const std::string digest = Sha256(AsBytes("x")).hex();
  const std::map<std::uint32_t, std::string> expected = {{1, digest[0] < '8' ? "0" : "1"},
                                                         {4, digest.substr(0, 1)},
                                                         {16, digest.substr(0, 4)},
                                                         {32, digest.substr(0, 8)}};
  for (const auto& [bits, bin] : expected) {
    delegations.succinct =
        SuccinctRoles{.keys = delegations.roles.front().keys, .bit_length = bits, .name_prefix = "bin"};
    const std::vector<struct Delegate> found = DelegatesFor(delegations, "x");
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].name, "bin-" + bin) << bits;
  }
  // Five bits are 32 bins: two digits, the second of them rounded down to what five bits say.
  delegations.succinct->bit_length = 5;
  EXPECT_EQ(DelegatesFor(delegations, "x").front().name,
            fmt::format("bin-{:02x}", std::stoul(digest.substr(0, 2), nullptr, 16) >> 3));
}

TEST(Delegations, StoredRolesAreNotFetchedAgain) {
  World world;
  world.Delegate("targets", "../odd");
  world.Add("../odd", "x");
  world.Publish();
  ASSERT_TRUE(world.Find("x").ok());
  EXPECT_EQ(world.repository.source.fetched.back(), "1...%2Fodd.json");
  ASSERT_TRUE(world.Find("x").ok());
  EXPECT_EQ(world.repository.source.fetched.back(), "timestamp.json");
  EXPECT_TRUE(world.store.files.contains("%2E%2E%2Fodd.json"));
}

struct Attack {
  const char* name;
  Reason expected;
  std::function<void(World&)> bend;
};

class DelegatedAttack : public testing::TestWithParam<Attack> {};

// "A" lists x and was seen at version 2.
TEST_P(DelegatedAttack, IsRefusedAndNothingOfItIsStored) {
  World world;
  world.Delegate("targets", "A");
  world.Delegate("targets", "B");
  world.Add("A", "x");
  world.Add("B", "x");
  world.Role("A").version = 2;
  world.Publish();
  ASSERT_TRUE(world.Find("x").ok());
  const std::string stored = world.store.files.at("A.json");
  GetParam().bend(world);
  const Result<FoundTarget> found = world.Find("x");
  EXPECT_EQ(ReasonOf(found.status()), GetParam().expected) << Describe(found.status());
  EXPECT_EQ(world.store.files.at("A.json"), stored);
}

std::string& FileOfA(World& world) { return world.repository.source.files.at("3.A.json"); }

void NextVersionOfA(World& world) {
  world.Role("A").version = 3;
  world.Publish();
}

INSTANTIATE_TEST_SUITE_P(Section567, DelegatedAttack,
                         testing::Values(Attack{"unsigned", Reason::kTufSignatureThreshold,
                                                [](World& w) {
                                                  NextVersionOfA(w);
                                                  Envelope file =
                                                      ParseEnvelope(FileOfA(w), kMaxTargetsBytes).value();
                                                  file.signatures.clear();
                                                  FileOfA(w) = file.Serialize();
                                                  w.repository.snapshot.meta["A.json"] = {.version = 3};
                                                  w.repository.PublishNext();
                                                }},
                                         Attack{"threshold", Reason::kTufSignatureThreshold,
                                                [](World& w) {
                                                  w.repository.targets.delegations->roles[0].keys.threshold =
                                                      2;
                                                  NextVersionOfA(w);
                                                }},
                                         Attack{"other_bytes", Reason::kTufMixAndMatch,
                                                [](World& w) {
                                                  NextVersionOfA(w);
                                                  FileOfA(w).back() = ' ';
                                                }},
                                         Attack{"longer", Reason::kTufTooLarge,
                                                [](World& w) {
                                                  NextVersionOfA(w);
                                                  FileOfA(w) += "  ";
                                                }},
                                         Attack{"version_goes_back", Reason::kTufRollback,
                                                [](World& w) {
                                                  w.Role("A").version = 1;
                                                  w.Publish();
                                                }},
                                         Attack{"version_is_not_the_listed_one", Reason::kTufMixAndMatch,
                                                [](World& w) {
                                                  NextVersionOfA(w);
                                                  w.repository.source.files["4.A.json"] = FileOfA(w);
                                                  w.repository.snapshot.meta["A.json"] = {.version = 4};
                                                  w.repository.PublishNext();
                                                }},
                                         Attack{"expired", Reason::kTufExpired,
                                                [](World& w) {
                                                  w.Role("A").expires = kNow;
                                                  NextVersionOfA(w);
                                                }},
                                         Attack{"missing", Reason::kFileUnreadable,
                                                [](World& w) {
                                                  NextVersionOfA(w);
                                                  w.repository.source.files.erase("3.A.json");
                                                }},
                                         Attack{"no_longer_listed", Reason::kTufRollback,
                                                [](World& w) {
                                                  w.repository.snapshot.meta.erase("A.json");
                                                  w.repository.PublishNext();
                                                }},
                                         Attack{"unknown_role", Reason::kTufDelegationInvalid,
                                                [](World& w) {
                                                  DelegatedRole ghost =
                                                      w.repository.targets.delegations->roles[0];
                                                  ghost.name = "ghost";
                                                  auto& roles = w.repository.targets.delegations->roles;
                                                  roles.insert(roles.begin(), ghost);
                                                  w.repository.PublishNext();
                                                }}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Delegations, StoredRoleThatExpiredIsRefused) {
  World world;
  world.Delegate("targets", "A");
  world.Add("A", "x");
  world.Role("A").expires = At("2030-01-02T00:00:00Z");
  world.Publish();
  ASSERT_TRUE(world.Find("x").ok());
  world.clock.SetWall(At("2030-01-03T00:00:00Z"));
  EXPECT_EQ(ReasonOf(world.Find("x").status()), Reason::kTufExpired);
}

// The digest of every delegated file is listed and signed: no byte of it can be another.
TEST(Delegations, EveryFlippedByteIsRefused) {
  World world;
  world.Delegate("targets", "A");
  world.Add("A", "x");
  world.Publish();
  const std::string good = world.repository.source.files.at("1.A.json");
  for (const bool listed : {true, false}) {
    if (!listed) {
      world.repository.snapshot.meta["A.json"] = {.version = 1};
      world.repository.PublishNext();
    }
    for (std::size_t i = 0; i < good.size(); i += listed ? 2 : 7) {
      std::string& file = world.repository.source.files.at("1.A.json");
      file = good;
      file[i] = static_cast<char>(file[i] ^ 1);
      world.store.files.erase("A.json");
      const Result<FoundTarget> found = world.Find("x");
      // Without a digest, what does not belong to the signed part may differ: then it is the same statement.
      if (found.ok()) {
        EXPECT_FALSE(listed) << i;
        EXPECT_EQ(ParseEnvelope(file, kMaxTargetsBytes)->signed_bytes,
                  ParseEnvelope(good, kMaxTargetsBytes)->signed_bytes)
            << i;
      }
    }
  }
}

TEST(Delegations, RefusesWrongOnes) {
  World world;
  world.Delegate("targets", "A");
  const json good = json::parse(MakeEnvelope(world.repository.targets).signed_json);
  const auto reason = [&](const json& delegations) {
    json value = good;
    value["delegations"] = delegations;
    return ReasonOf(ParseTargets(Envelope{value.dump(), "", {}}).status());
  };
  const json& delegations = good["delegations"];
  EXPECT_EQ(reason(delegations), Reason::kNone);
  const auto changed = [&](const char* pointer, const json& value) {
    json copy = delegations;
    copy[json::json_pointer(pointer)] = value;
    return reason(copy);
  };
  EXPECT_EQ(changed("/roles/0/name", ""), Reason::kTufDelegationInvalid);
  for (const char* name : {"root", "targets", "snapshot", "timestamp"}) {
    EXPECT_EQ(changed("/roles/0/name", name), Reason::kTufDelegationInvalid);
  }
  EXPECT_EQ(changed("/roles/0/keyids/0", "nobody"), Reason::kTufDelegationInvalid);
  EXPECT_EQ(changed("/roles/0/threshold", 0), Reason::kTufDelegationInvalid);
  EXPECT_EQ(changed("/roles/0/path_hash_prefixes", json::array()), Reason::kTufDelegationInvalid);
  EXPECT_EQ(changed("/roles/0/paths", json::array({1})), Reason::kTufDelegationInvalid);
  EXPECT_EQ(changed("/roles/0/terminating", 1), Reason::kTufMalformed);
  EXPECT_EQ(changed("/roles/1", delegations["roles"][0]), Reason::kTufDelegationInvalid) << "listed twice";
  EXPECT_EQ(changed("/succinct_roles", json::object()), Reason::kTufDelegationInvalid) << "beside roles";
  json bins = {{"keys", delegations["keys"]},
               {"succinct_roles",
                {{"keyids", delegations["roles"][0]["keyids"]},
                 {"threshold", 1},
                 {"bit_length", 8},
                 {"name_prefix", "bin"}}}};
  EXPECT_EQ(reason(bins), Reason::kNone);
  for (const int bits : {0, 33, -1}) {
    bins["succinct_roles"]["bit_length"] = bits;
    EXPECT_EQ(reason(bins), Reason::kTufMalformed) << bits;
  }
}

}  // namespace
}  // namespace sealift::tuf
