#include "hsm/hierarchy.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "hsm/inventory.h"
#include "hsm/pkcs11.h"

namespace sealift::hsm {
namespace {

TEST(Hierarchy, EveryRoleHasItsGroup) {
  // The table of the key groups, as custodians are promised it.
  const std::map<std::string, std::set<std::string>> promised{
      {"root", {"pk", "kek", "tuf-root", "orders-root"}},
      {"release", {"db", "pcr", "tuf-targets", "extensions"}},
      {"online",
       {"tuf-snapshot", "tuf-timestamp", "node-ca", "controller-tls", "orders", "journal", "secrets"}},
      {"custody", {"operator-ca", "escrow"}}};
  std::map<std::string, std::set<std::string>> actual;
  for (const Role& role : AllRoles()) {
    EXPECT_TRUE(actual[std::string(GroupName(role.group))].insert(std::string(role.name)).second);
    EXPECT_EQ(FindRole(role.name), &role);
  }
  EXPECT_EQ(actual, promised);
  for (const Group group : AllGroups()) EXPECT_EQ(ParseGroup(GroupName(group)).value(), group);
  EXPECT_FALSE(ParseGroup("offline").ok());
  EXPECT_EQ(FindRole("nobody"), nullptr);
}

TEST(Hierarchy, RsaWhereFirmwareVerifiesAndWhereATokenHasNoEc) {
  for (const char* name : {"pk", "kek", "db", "pcr"}) {
    EXPECT_EQ(FindRole(name)->algorithm, KeyAlgorithm::kRsa2048) << name;
  }
  EXPECT_EQ(FindRole("escrow")->algorithm, KeyAlgorithm::kRsa3072);
  EXPECT_EQ(FindRole("escrow")->use, KeyUse::kDecrypt);
  EXPECT_EQ(FindRole("secrets")->use, KeyUse::kDecrypt);
  EXPECT_EQ(AlgorithmFor(*FindRole("node-ca"), true).value(), KeyAlgorithm::kEcP256);
  EXPECT_EQ(AlgorithmFor(*FindRole("node-ca"), false).value(), KeyAlgorithm::kRsa2048);
  EXPECT_EQ(AlgorithmFor(*FindRole("escrow"), false).value(), KeyAlgorithm::kRsa3072);
  EXPECT_FALSE(AlgorithmFor(*FindRole("controller-tls"), false).ok());
}

TEST(Hierarchy, AlgorithmsAreWhatTheStandardsBehindARoleAllow) {
  const auto allowed = [](const char* role, const char* algorithm) {
    return CheckAlgorithm(*FindRole(role), ParseAlgorithm(algorithm).value()).ok();
  };
  for (const char* firmware : {"pk", "kek", "db"}) {
    for (const char* rsa : {"rsa2048", "rsa3072", "rsa-4096"}) EXPECT_TRUE(allowed(firmware, rsa)) << rsa;
    for (const char* ec : {"p256", "ec-p384"}) EXPECT_FALSE(allowed(firmware, ec)) << ec;
  }
  EXPECT_TRUE(allowed("pcr", "rsa3072"));
  EXPECT_FALSE(allowed("pcr", "p256"));
  EXPECT_FALSE(allowed("escrow", "rsa2048"));
  EXPECT_TRUE(allowed("escrow", "rsa4096"));
  EXPECT_TRUE(allowed("controller-tls", "p384"));
  EXPECT_FALSE(allowed("controller-tls", "rsa2048"));
  EXPECT_TRUE(allowed("node-ca", "p384"));
  EXPECT_TRUE(allowed("tuf-root", "rsa4096"));
  for (const Role& role : AllRoles()) EXPECT_TRUE(CheckAlgorithm(role, role.algorithm).ok()) << role.name;
  const Status refused = CheckAlgorithm(*FindRole("db"), KeyAlgorithm::kEcP256);
  EXPECT_EQ(ReasonOf(refused), Reason::kKeyAlgorithmUnsupported);
  EXPECT_NE(MessageOf(refused).find("rsa2048, rsa3072, rsa4096"), std::string::npos) << MessageOf(refused);
  EXPECT_EQ(ReasonOf(ParseAlgorithm("ed25519").status()), Reason::kKeyAlgorithmUnsupported);
  EXPECT_TRUE(AlgorithmRemark(*FindRole("db"), KeyAlgorithm::kRsa2048).empty());
  EXPECT_FALSE(AlgorithmRemark(*FindRole("db"), KeyAlgorithm::kRsa4096).empty());
  EXPECT_TRUE(AlgorithmRemark(*FindRole("node-ca"), KeyAlgorithm::kEcP384).empty());
}

TEST(Hierarchy, SetNamesAreSafeInLabelsAndPaths) {
  EXPECT_EQ(KeyLabel("demo", "db", 2), "sealift:demo:db:2");
  for (const char* good : {"demo", "a", "site-2"}) EXPECT_TRUE(IsValidSetName(good)) << good;
  for (const char* bad : {"", "Demo", "2site", "a:b", "../x", "a b", "abcdefghijklmnopqrstuvwxyz1234567"}) {
    EXPECT_FALSE(IsValidSetName(bad)) << bad;
  }
}

TEST(Pkcs11Error, KeepsTheNativeNameAndChoosesTheReason) {
  const Status status = Pkcs11Error(CKR_PIN_INCORRECT, "log in to token 'x'", "C_Login");
  EXPECT_EQ(ReasonOf(status), Reason::kHsmPinIncorrect);
  EXPECT_EQ(MessageOf(status), "log in to token 'x' (C_Login: CKR_PIN_INCORRECT 0xa0)");
  EXPECT_EQ(ReasonOf(Pkcs11Error(CKR_PIN_LOCKED, "x", "y")), Reason::kHsmPinLocked);
  EXPECT_EQ(ReasonOf(Pkcs11Error(CKR_TOKEN_NOT_PRESENT, "x", "y")), Reason::kHsmTokenMissing);
  EXPECT_EQ(ReasonOf(Pkcs11Error(CKR_GENERAL_ERROR, "x", "y")), Reason::kHsmFailed);
  EXPECT_NE(MessageOf(Pkcs11Error(0x80000123, "x", "y")).find("CKR_0x80000123"), std::string::npos);
}

Inventory Sample() {
  Inventory inventory{.set = "demo", .created = ParseRfc3339("2026-11-23T04:00:00Z").value()};
  inventory.owner.bytes.fill(7);
  for (std::uint32_t generation = 1; generation <= 2; ++generation) {
    InventoryKey key{.role = "db",
                     .group = Group::kRelease,
                     .generation = generation,
                     .algorithm = KeyAlgorithm::kRsa2048,
                     .label = KeyLabel("demo", "db", generation),
                     .token_uri = "pkcs11:token=demo-release",
                     .born_in_token = true};
    key.key_id.bytes.fill(static_cast<std::uint8_t>(generation));
    inventory.keys.push_back(key);
  }
  inventory.keys.front().has_certificate = true;
  inventory.keys.front().not_before = inventory.created;
  inventory.keys.front().not_after = inventory.created + std::chrono::hours(1);
  return inventory;
}

TEST(InventoryFile, RoundTripsAndKnowsTheNewestGeneration) {
  const Inventory inventory = Sample();
  const auto again = Inventory::Parse(inventory.Serialize());
  ASSERT_TRUE(again.ok()) << Describe(again.status());
  EXPECT_EQ(again->Serialize(), inventory.Serialize());
  EXPECT_EQ(again->Newest("db")->generation, 2u);
  EXPECT_EQ(again->Generations("db").size(), 2u);
  EXPECT_EQ(again->Newest("pk"), nullptr);
  EXPECT_TRUE(again->keys.front().has_certificate);
  EXPECT_FALSE(again->keys.back().has_certificate);
}

TEST(InventoryFile, RefusesEveryChangeOfShape) {
  const std::string good = Sample().Serialize();
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  for (const std::string& text :
       {std::string(), std::string("[]"), good.substr(0, good.size() / 2),
        changed("\"format\": 1", "\"format\": 2"), changed("\"set\": \"demo\"", "\"set\": \"../demo\""),
        changed("\"role\": \"db\"", "\"role\": \"dbx\""),
        changed("\"group\": \"release\"", "\"group\": \"all\""),
        changed("\"generation\": 2", "\"generation\": 1"), changed("\"generation\": 1", "\"generation\": 0"),
        changed("\"algorithm\": \"rsa-2048\"", "\"algorithm\": \"rsa-1024\""),
        changed("\"key_id\": \"01", "\"key_id\": \"zz"), changed("2026-11-23T04", "2026-11-23 04"),
        changed("\"born_in_token\": true", "\"born_in_token\": 1")}) {
    const auto parsed = Inventory::Parse(text);
    EXPECT_FALSE(parsed.ok()) << text;
  }
}

}  // namespace
}  // namespace sealift::hsm
