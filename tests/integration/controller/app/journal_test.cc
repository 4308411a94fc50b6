// Every program that signs leaves its records, and what leaves the machine pins them.
#include <fstream>

#include "tests/integration/controller/app/daemon_fixture.h"
#include "tests/support/os_tree.h"

namespace sealift {
namespace {

class JournalOfProgramsTest : public DaemonTest {
 protected:
  nlohmann::json Verify(const std::string& journal, std::vector<std::string> more = {}, int expected = 0) {
    std::vector<std::string> arguments = {
        "journal", "verify", Path(journal), "--public-key", Path("keys/journal.pub.pem"), "-o", "json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::string text = Sealift(arguments, expected);
    return nlohmann::json::parse(text.substr(0, text.rfind('}') + 1), nullptr, false);
  }
  // "role-generation intent" of every signature of the journal.
  std::vector<std::string> Intents(const std::string& journal) {
    std::vector<std::string> intents;
    const auto list =
        nlohmann::json::parse(Sealift({"journal", "list", Path(journal), "-o", "json"}), nullptr, false);
    for (const auto& record : list.at("records")) {
      if (record.at("type") == "intent") {
        intents.push_back(record.at("key").get<std::string>() + " " + record.at("intent").get<std::string>());
      }
    }
    return intents;
  }
  static bool Has(const std::vector<std::string>& intents, const std::string& begin) {
    return std::any_of(intents.begin(), intents.end(),
                       [&](const std::string& one) { return one.starts_with(begin); });
  }
};

TEST_F(JournalOfProgramsTest, EveryVerbThatSignsLeavesItsRecords) {
  // keys init, in SetUp.
  auto intents = Intents("keys/journal");
  EXPECT_TRUE(Has(intents, "pk-1 certificate 'test PK'"));
  EXPECT_TRUE(Has(intents, "kek-1 "));
  EXPECT_TRUE(Has(intents, "node-ca-1 certificate 'test controller'"));
  EXPECT_TRUE(Has(intents, "tuf-root-1 tuf root version 1"));
  auto report = Verify("keys/journal");
  EXPECT_TRUE(report.at("findings").empty());
  EXPECT_EQ(report.at("open"), 0);
  // All of it, its last record being the checkpoint.
  EXPECT_EQ(report.at("proven_up_to").get<int>() + 1, report.at("records").get<int>());
  const std::string generated = Sealift({"journal", "list", Path("keys/journal"), "--key", "escrow-1"});
  EXPECT_NE(generated.find("escrow-1 generated (sealift:test:escrow:1)"), std::string::npos) << generated;

  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  const std::string profile = Profile("operator");
  EXPECT_TRUE(Has(Intents("keys/journal"), "operator-ca-1 operator certificate 'anna' role operator"));

  const test::OsTree tree;
  Sealift({"build-uki", "dir:" + tree.path().string(), "-t", "uki", "-d", Path("out"), "--keys", Path("keys"),
           "--token", "release=" + tokens_["release"], "--zstd-level", "1"});
  intents = Intents("keys/journal");
  EXPECT_TRUE(Has(intents, "db-1 authenticode"));
  EXPECT_TRUE(Has(intents, "pcr-1 PCR policy"));

  Sealift({"release", "publish", Path("out"), "--keys", Path("keys"), "--token",
           "release=" + tokens_["release"], "--profile", profile});
  EXPECT_TRUE(Has(Intents("keys/journal"), "tuf-targets-1 tuf targets version 1 adding stable"));
  EXPECT_TRUE(Verify("keys/journal").at("findings").empty());

  // The daemon's own, while it runs.
  intents = Intents("state/journal");
  EXPECT_TRUE(Has(intents, "tuf-snapshot-1 tuf snapshot"));
  EXPECT_TRUE(Has(intents, "tuf-timestamp-1 tuf timestamp"));
  EXPECT_FALSE(Has(intents, "controller-tls-1"));
  report = Verify("state/journal", {"--checkpoint", Path("state/tuf/timestamp.json")});
  EXPECT_TRUE(report.at("findings").empty()) << report;
  EXPECT_EQ(report.at("checkpoints_agreed"), 1);

  // The release carries the build host's head, unsigned there: its token has no journal key.
  report = Verify("keys/journal", {"--checkpoint", Path("state/tuf/1.targets.json")});
  EXPECT_TRUE(report.at("findings").empty()) << report;
  EXPECT_EQ(report.at("checkpoints_agreed"), 1);
}

TEST_F(JournalOfProgramsTest, HandshakesOfTheDaemonAreCountedAndInItsLastCheckpoint) {
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  const std::string profile = Profile("viewer");
  constexpr int kCalls = 3;
  for (int i = 0; i < kCalls; ++i) Sealift({"node", "list", "--profile", profile});
  ASSERT_EQ(kill(daemon->pid(), SIGTERM), 0);
  ASSERT_EQ(daemon->Wait(), 0) << Log();
  const auto report = Verify("state/journal");
  EXPECT_TRUE(report.at("findings").empty());
  EXPECT_EQ(report.at("tls_handshakes"), kCalls);
  EXPECT_EQ(report.at("proven_up_to").get<int>() + 1, report.at("records").get<int>());
}

TEST_F(JournalOfProgramsTest, AJournalCutAtAnEarlierCheckpointIsFound) {
  const std::string token = "online=" + tokens_["online"];
  Sealift({"journal", "checkpoint", "--keys", Path("keys"), "--token", token, "--out", Path("early.json")});
  const std::string early = *ReadTextFile(Path("keys/journal"));
  Sealift({"operator", "issue", "anna", "--role", "viewer", "--keys", Path("keys"), "--token",
           "custody=" + tokens_["custody"], "--controller", "localhost:1", "-o", Path("anna")});
  Sealift({"journal", "checkpoint", "--keys", Path("keys"), "--token", token, "--out", Path("late.json")});
  EXPECT_EQ(Verify("keys/journal", {"--checkpoint", Path("early.json"), "--checkpoint", Path("late.json")})
                .at("checkpoints_agreed"),
            2);
  ASSERT_TRUE(WriteFileAtomically(Path("keys/journal"), AsBytes(early)).ok());
  EXPECT_TRUE(Verify("keys/journal", {"--checkpoint", Path("early.json")}).at("findings").empty());
  const auto cut = Verify("keys/journal", {"--checkpoint", Path("late.json")}, 1);
  EXPECT_EQ(cut.at("findings")[0].at("finding"), "cut");
  EXPECT_EQ(cut.at("findings")[0].at("reason"), "JOURNAL_SHORT");
  // As text, with the advice.
  const std::string text =
      Sealift({"journal", "verify", Path("keys/journal"), "--checkpoint", Path("late.json")}, 1);
  EXPECT_NE(text.find("JOURNAL_SHORT"), std::string::npos) << text;
  Sealift({"journal", "verify", Path("keys/journal"), "--checkpoint", Path("keys/inventory.json")}, 1);
}

TEST_F(JournalOfProgramsTest, ADamagedJournalStopsSigningAndAnotherFileDoesNot) {
  std::string text = *ReadTextFile(Path("keys/journal"));
  const std::size_t at = text.rfind("\"sequence\":");
  text[at + 11] = text[at + 11] == '9' ? '8' : '9';
  ASSERT_TRUE(WriteFileAtomically(Path("keys/journal"), AsBytes(text)).ok());
  std::vector<std::string> issue = {"operator",     "issue",       "anna",
                                    "--role",       "viewer",      "--keys",
                                    Path("keys"),   "--token",     "custody=" + tokens_["custody"],
                                    "--controller", "localhost:1", "-o",
                                    Path("anna")};
  EXPECT_NE(Sealift(issue, 1).find("JOURNAL_DAMAGED"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(Path("anna")));
  issue.insert(issue.end(), {"--journal", Path("other")});
  Sealift(issue);
  EXPECT_TRUE(Has(Intents("other"), "operator-ca-1 operator certificate"));
}

TEST_F(JournalOfProgramsTest, KeysListCountsUsesAndAttestSaysWhatRestsOnWhat) {
  const auto list = nlohmann::json::parse(
      Sealift({"keys", "list", "--keys", Path("keys"), "--token", "root=" + tokens_["root"], "-o", "json"}));
  for (const auto& key : list.at("keys")) {
    const bool asked = key.at("group") == "root";
    EXPECT_EQ(key.at("in_token"), asked ? "yes" : "not asked");
    EXPECT_EQ(key.at("origin"), "token") << key;
    EXPECT_EQ(key.at("ever_extractable"), "never");
    // PK signs its certificate, and PK and KEK variables.
    if (key.at("role") == "pk") {
      EXPECT_EQ(key.at("uses").at("ok"), 3);
    }
    if (key.at("role") == "escrow") {
      EXPECT_EQ(key.at("uses").at("ok"), 0);
    }
  }
  Sealift({"keys", "attest", "--keys", Path("keys"), "--token", "online=" + tokens_["online"], "--token",
           "root=" + tokens_["root"], "--out", Path("statement.json")});
  EXPECT_TRUE(Has(Intents("keys/journal"), "journal-1 statement of the key hierarchy"));
  const auto checked =
      nlohmann::json::parse(Sealift({"keys", "attest", "--check", Path("statement.json"), "--public-key",
                                     Path("keys/journal.pub.pem"), "-o", "json"}));
  EXPECT_TRUE(checked.at("signed_by_key").get<bool>());
  EXPECT_EQ(checked.at("keys"), list.at("keys").size());
  EXPECT_EQ(checked.at("certificates"), 7);
  EXPECT_NE(checked.at("claims").dump().find("token's word alone"), std::string::npos);
  // Another key, another text.
  Sealift({"keys", "attest", "--check", Path("statement.json"), "--public-key", Path("keys/public/db-1.pem")},
          1);
  auto statement = nlohmann::json::parse(*ReadTextFile(Path("statement.json")));
  std::string payload = ToText(Base64Decode(statement.at("payload").get<std::string>()).value());
  payload.replace(payload.find("\"group\":\"root\""), 14, "\"group\":\"ROOT\"");
  statement["payload"] = Base64Encode(AsBytes(payload));
  ASSERT_TRUE(WriteFileAtomically(Path("changed.json"), AsBytes(statement.dump())).ok());
  EXPECT_NE(Sealift({"keys", "attest", "--check", Path("changed.json")}, 1).find("KEY_SET_INVALID"),
            std::string::npos);
  EXPECT_NE(Sealift({"keys", "attest", "--check", Path("changed.json"), "--public-key",
                     Path("keys/journal.pub.pem")},
                    1)
                .find("SIGNATURE_INVALID"),
            std::string::npos);
}

}  // namespace
}  // namespace sealift
