// `sealift secret` against the daemon, and the token's key for secrets, as they are installed.
#include <gmock/gmock.h>

#include "controller/app/online_keys.h"
#include "tests/integration/controller/app/daemon_fixture.h"

namespace sealift::controller {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kValue[] = "a value that stays inside\n";

class SecretsOfProgramsTest : public DaemonTest {
 protected:
  std::string WriteSecret(mode_t mode) {
    EXPECT_TRUE(WriteFileAtomically(Path("value"), AsBytes(kValue), mode).ok());
    return Path("value");
  }
  std::string Secret(std::vector<std::string> arguments, const std::string& role, int expected = 0) {
    if (!profiles_.contains(role)) profiles_[role] = Profile(role);
    arguments.insert(arguments.begin(), "secret");
    arguments.insert(arguments.end(), {"--profile", profiles_[role]});
    return Sealift(arguments, expected);
  }
  std::map<std::string, std::string> profiles_;
};

TEST_F(SecretsOfProgramsTest, PutListShowAndRevokeWithoutEverShowingTheValue) {
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  const std::vector<std::string> put{"put",   "site-key", "--file",     WriteSecret(0600),
                                     "--for", "site=lab", "--releases", "stable:1.0..2.0"};
  EXPECT_THAT(Secret(put, "approver"), HasSubstr("for site=lab, releases stable:1.0..2.0"));
  EXPECT_THAT(Secret(put, "operator", 1), HasSubstr("RPC_NOT_PERMITTED"));
  const auto list = nlohmann::json::parse(Secret({"list", "-o", "json"}, "viewer"));
  ASSERT_EQ(list.at("secrets").size(), 1u);
  EXPECT_EQ(list.at("secrets")[0].at("name"), "site-key");
  EXPECT_EQ(list.at("secrets")[0].at("opens"), "running");
  EXPECT_EQ(list.at("secrets")[0].at("revoked"), nullptr);
  const auto shown = nlohmann::json::parse(Secret({"show", "site-key", "-o", "json"}, "viewer"));
  EXPECT_TRUE(shown.at("deliveries").empty());
  EXPECT_THAT(Secret({"show", "site-key"}, "viewer"), HasSubstr("in force"));
  EXPECT_THAT(Secret({"show", "another"}, "viewer", 1), HasSubstr("SECRET_UNKNOWN"));
  EXPECT_THAT(Secret({"revoke", "site-key"}, "approver"), HasSubstr("revoked"));
  for (const char* wrong : {"stable", "stable:2.0..1.0"}) {
    EXPECT_THAT(
        Secret({"put", "a", "--file", Path("value"), "--for", "all", "--releases", wrong}, "approver", 2),
        HasSubstr("read releases"));
  }
  EXPECT_THAT(Secret({"put", "a", "--file", Path("value"), "--releases", "stable:*"}, "approver", 2),
              HasSubstr("--for and --node"));
  // A file that others may read is no place for a secret.
  WriteSecret(0644);
  EXPECT_THAT(Secret(put, "approver", 1), HasSubstr("PERMISSIONS_TOO_LOOSE"));
  const std::string audit = Sealift({"audit", "list", "--profile", profiles_["viewer"]});
  EXPECT_THAT(audit, HasSubstr("secret site-key for 'site=lab' releases stable:1.0..2.0"));
  EXPECT_THAT(audit, HasSubstr("RevokeSecret OK: secret site-key"));
  EXPECT_THAT(audit + Log(), Not(HasSubstr("stays inside")));
}

TEST_F(SecretsOfProgramsTest, TheTokenDecryptsWhatLiesInTheDatabaseAndTheJournalTellsOfIt) {
  std::string sealed;
  {
    const auto config = LoadControllerConfig(WriteConfig({"online"}));
    ASSERT_TRUE(config.ok());
    const auto keys = OpenOnlineKeys(*config, SystemClock());
    ASSERT_TRUE(keys.ok()) << Describe(keys.status());
    ASSERT_NE(keys->secrets, nullptr);
    SecretRecord record{.name = "site-key", .id = "0011223344556677", .releases = "stable:*"};
    const auto made = SealSecret(record, SecretBytes(AsBytes(kValue)), keys->secrets->Current());
    ASSERT_TRUE(made.ok()) << Describe(made.status());
    record.sealed = *made;
    const auto opened = UnsealSecret(record, *keys->secrets, "secret site-key for a test");
    ASSERT_TRUE(opened.ok()) << Describe(opened.status());
    EXPECT_TRUE(opened->Equals(AsBytes(kValue)));
    // Another key's blob, and a damaged one.
    nlohmann::json blob = nlohmann::json::parse(record.sealed);
    blob["key"] = std::string(64, '0');
    record.sealed = blob.dump();
    EXPECT_EQ(ReasonOf(UnsealSecret(record, *keys->secrets, "x").status()), Reason::kHsmKeyMissing);
    blob = nlohmann::json::parse(*made);
    blob["encrypted_key"] = Base64Encode(Bytes(384, 1));
    record.sealed = blob.dump();
    EXPECT_EQ(ReasonOf(UnsealSecret(record, *keys->secrets, "x").status()), Reason::kStoreFailed);
  }
  const std::string journal = Sealift({"journal", "list", Path("state/journal")});
  EXPECT_THAT(journal, HasSubstr("decrypt secret site-key for a test"));
  // A set from before the role: everything else goes on.
  const auto config = LoadControllerConfig(WriteConfig({"online"}));
  auto inventory = nlohmann::json::parse(*ReadTextFile(Path("keys/inventory.json")));
  auto& all = inventory.at("keys");
  all.erase(
      std::remove_if(all.begin(), all.end(), [](const auto& key) { return key.at("role") == "secrets"; }),
      all.end());
  ASSERT_TRUE(WriteFileAtomically(Path("keys/inventory.json"), AsBytes(inventory.dump())).ok());
  const auto keys = OpenOnlineKeys(*config, SystemClock());
  ASSERT_TRUE(keys.ok()) << Describe(keys.status());
  EXPECT_EQ(keys->secrets, nullptr);
}

}  // namespace
}  // namespace sealift::controller
