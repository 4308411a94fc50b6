// `sealift keys init|sign-variable|csr|import-cert` as a custodian runs them, with a SoftHSM2 token.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "hsm/inventory.h"
#include "shared/base/clock.h"
#include "shared/base/files.h"
#include "shared/efi/auth_variable.h"
#include "tests/support/places.h"
#include "tests/support/test_keys.h"
#include "tests/support/tools.h"

namespace sealift::cli {
namespace {

using nlohmann::json;
using test::RunTool;

constexpr char kSealift[] = SEALIFT_BIN_DIR "/sealift";
constexpr char kSkip[] = "--skip-microsoft-certs-I-KNOW-WHAT-IM-DOING";

class KeyMaterialTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists("/usr/lib/softhsm/libsofthsm2.so")) {
      if (test::ToolsAreRequired()) FAIL() << "no softhsm2";
      GTEST_SKIP() << "no softhsm2";
    }
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / "pin", AsBytes("correct-horse-7"), 0600).ok());
    const CommandOutput made = Sealift({"token", "create", "--store", Path("store"), "--label", "all",
                                        "--pin-file", Path("pin"), "-o", "json"});
    ASSERT_EQ(made.exit_code, 0) << made.err;
    token_ = json::parse(made.out)["uri"];
  }
  std::string Path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string Write(const std::string& name, ByteView bytes) const {
    EXPECT_TRUE(MakeDirectories((folder_.path() / name).parent_path()).ok());
    EXPECT_TRUE(WriteFileAtomically(folder_.path() / name, bytes).ok());
    return Path(name);
  }
  static CommandOutput Sealift(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), kSealift);
    return RunTool(std::move(arguments));
  }
  CommandOutput Keys(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), "keys");
    arguments.insert(arguments.end(), {"--token", token_});
    return Sealift(std::move(arguments));
  }
  CommandOutput Init(std::vector<std::string> more, const std::string& set = "demo") const {
    std::vector<std::string> arguments = {"init", set, "--dir", Path("keys")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Keys(std::move(arguments));
  }
  hsm::Inventory Inventory() const { return hsm::Inventory::Load(folder_.path() / "keys").value(); }
  // What happens to a set as time goes by.
  void ChangeInventory(const std::function<void(hsm::Inventory&)>& change) const {
    hsm::Inventory inventory = Inventory();
    change(inventory);
    Write("keys/inventory.json", AsBytes(inventory.Serialize()));
  }
  std::string HashList() const {
    Write("hash.esl", efi::SerializeSignatureLists(efi::SignatureLists{
                          efi::Sha256SignatureList(efi::kLoaderVendor, std::vector<Sha256Digest>(1))}));
    return Path("hash.esl");
  }

  TempDir folder_ = TempDir::Create("material").value();
  std::string token_;
};

TEST_F(KeyMaterialTest, InitListsWhatItEnrolsAndWarnsOfWhatTheSourceLacks) {
  SEALIFT_NEED_FILE("/usr/share/OVMF/OVMF_VARS_4M.ms.fd");
  const CommandOutput made = Init({"--output", "json"});
  ASSERT_EQ(made.exit_code, 0) << made.out << made.err;
  const json shown = json::parse(made.out);
  ASSERT_EQ(shown["enrolled"].size(), 2u);
  EXPECT_EQ(shown["enrolled"][0]["origin"], "microsoft");
  for (const char* name : {"uefi2023", "optionrom2023", "kek2023"}) {
    const auto line = made.err.find(std::string("lacks ") + name);
    EXPECT_NE(line, std::string::npos) << made.err;
  }
  EXPECT_EQ(made.err.find("windows"), std::string::npos);
  const auto inventory = Inventory();
  EXPECT_EQ(inventory.owner.text(), shown["owner"]);
  // A year is the default.
  const auto life = inventory.Newest("db")->not_after - inventory.created;
  EXPECT_EQ(std::chrono::round<std::chrono::days>(life).count(), 365);
}

TEST_F(KeyMaterialTest, AFailedInitCanBeRunAgain) {
  Write("custom/db", Bytes(40, 1));
  const CommandOutput damaged = Init({kSkip, "--custom-cert-dir", Path("custom")});
  EXPECT_EQ(damaged.exit_code, 1);
  EXPECT_NE(damaged.err.find("take over db from"), std::string::npos) << damaged.err;
  EXPECT_EQ(Init({"--microsoft-certs", "nonsense"}).exit_code, 2);
  EXPECT_EQ(Init({"--microsoft-certs", "uefi2011", "--microsoft-cert-source", Path("custom")}).exit_code, 1);
  EXPECT_EQ(Init({kSkip, "--expiration-in-days", "9000000"}).exit_code, 2);
  EXPECT_FALSE(std::filesystem::exists(Path("keys")));
  Write("custom/db", efi::SerializeSignatureLists(efi::SignatureLists{efi::X509SignatureList(
                         efi::kLoaderVendor, test::MakeTestKey("vendor").certificate)}));
  const CommandOutput made = Init({kSkip, "--custom-cert-dir", Path("custom")});
  EXPECT_EQ(made.exit_code, 0) << made.err;
  EXPECT_NE(made.out.find("CN=vendor"), std::string::npos) << made.out;
}

TEST_F(KeyMaterialTest, UpdatesVerifyAndOldClocksAreRefused) {
  ASSERT_EQ(Init({kSkip}).exit_code, 0);
  const std::vector<std::string> arguments = {"sign-variable", "dbx",      "--append",
                                              "--esl",         HashList(), "--keys",
                                              Path("keys"),    "--out",    Path("dbx.auth")};
  const CommandOutput made = Keys(arguments);
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const std::vector<std::string> look = {"inspect", "auth", Path("dbx.auth"),
                                         "--name",  "dbx",  "--attributes"};
  auto right = look;
  right.push_back("0x67");
  EXPECT_EQ(Sealift(right).exit_code, 0);
  auto wrong = look;
  wrong.push_back("0x27");
  EXPECT_EQ(Sealift(wrong).exit_code, 1);
  ASSERT_TRUE(std::filesystem::remove(Path("dbx.auth")));
  ChangeInventory([](hsm::Inventory& inventory) {
    inventory.variable_times["dbx"] = SystemClock().Now() + std::chrono::hours(1);
  });
  const CommandOutput refused = Keys(arguments);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.err.find("TIMESTAMP_NOT_NEWER"), std::string::npos) << refused.err;
  EXPECT_FALSE(std::filesystem::exists(Path("dbx.auth")));
}

TEST_F(KeyMaterialTest, ExpiringCertificatesAreWarnedOfAndEndedOnesRefused) {
  ASSERT_EQ(Init({kSkip, "--expiration-in-days", "80"}).exit_code, 0);
  const std::vector<std::string> sign = {"sign-variable", "db",         "--esl", HashList(),     "--append",
                                         "--keys",        Path("keys"), "--out", Path("db.auth")};
  const CommandOutput soon = Keys(sign);
  EXPECT_EQ(soon.exit_code, 0) << soon.err;
  EXPECT_NE(soon.err.find("warning: certificate of 'kek' ends at "), std::string::npos) << soon.err;
  EXPECT_EQ(soon.err.find("'pk'"), std::string::npos) << soon.err;
  ChangeInventory([](hsm::Inventory& inventory) {
    for (hsm::InventoryKey& key : inventory.keys) key.not_after = SystemClock().Now() - std::chrono::hours(1);
  });
  const CommandOutput ended = Keys(sign);
  EXPECT_EQ(ended.exit_code, 1);
  EXPECT_NE(ended.err.find("SIGNER_CERTIFICATE_EXPIRED"), std::string::npos) << ended.err;
  auto allowed = sign;
  allowed.push_back("--allow-expired-certificate");
  EXPECT_EQ(Keys(allowed).exit_code, 0);
  const auto issue = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"operator", "issue",      "anna",      "--role", "viewer",
                                          "--keys",   Path("keys"), "--token",   token_,   "--controller",
                                          "c:1",      "--dir",      Path("anna")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Sealift(arguments);
  };
  EXPECT_NE(issue({}).err.find("SIGNER_CERTIFICATE_EXPIRED"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(Path("anna")));
}

TEST_F(KeyMaterialTest, CertificatesOfAnotherCaAreAskedForAndTakenIn) {
  SEALIFT_NEED_TOOL("openssl");
  ASSERT_EQ(Init({kSkip}).exit_code, 0);
  ASSERT_EQ(Keys({"csr", "db", "--common-name", "Fleet db", "--keys", Path("keys"), "--out", Path("db.csr")})
                .exit_code,
            0);
  ASSERT_EQ(RunTool({"openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Our CA",
                     "-keyout", Path("ca.key"), "-out", Path("ca.pem")})
                .exit_code,
            0);
  ASSERT_EQ(RunTool({"openssl", "x509", "-req", "-in", Path("db.csr"), "-CA", Path("ca.pem"), "-CAkey",
                     Path("ca.key"), "-CAcreateserial", "-days", "200", "-out", Path("db.crt")})
                .exit_code,
            0);
  const CommandOutput mismatch =
      Keys({"import-cert", "kek", "--cert", Path("db.crt"), "--keys", Path("keys")});
  EXPECT_EQ(mismatch.exit_code, 1);
  EXPECT_NE(mismatch.err.find("KEY_MISMATCH"), std::string::npos) << mismatch.err;
  const CommandOutput taken = Keys({"import-cert", "db", "--cert", Path("db.crt"), "--keys", Path("keys")});
  ASSERT_EQ(taken.exit_code, 0) << taken.err;
  EXPECT_NE(taken.out.find("CN=Our CA"), std::string::npos) << taken.out;
  const CommandOutput shown =
      RunTool({"openssl", "x509", "-inform", "DER", "-in", Path("keys/db.der"), "-noout", "-subject"});
  EXPECT_NE(shown.out.find("Fleet db"), std::string::npos) << shown.out;
  EXPECT_EQ(Sealift({"inspect", "auth", Path("keys/db.auth"), "--name", "db"}).exit_code, 0);
}

TEST_F(KeyMaterialTest, AGenerationIsAddedListedAndAttested) {
  ASSERT_EQ(Init({kSkip, "--algorithm", "node-ca=p384", "--algorithm", "db=rsa3072"}).exit_code, 0);
  EXPECT_EQ(Inventory().Newest("node-ca")->algorithm, hsm::KeyAlgorithm::kEcP384);
  EXPECT_EQ(Inventory().Newest("db")->algorithm, hsm::KeyAlgorithm::kRsa3072);
  const CommandOutput token = Sealift({"token", "create", "--store", Path("store"), "--label", "second",
                                       "--pin-file", Path("pin"), "-o", "json"});
  ASSERT_EQ(token.exit_code, 0) << token.err;
  const std::string second = json::parse(token.out)["uri"];
  const CommandOutput added = Keys({"add-generation", "db", "tuf-targets", "--keys", Path("keys"),
                                    "--new-token", "release=" + second, "-o", "json"});
  ASSERT_EQ(added.exit_code, 0) << added.err;
  EXPECT_EQ(json::parse(added.out)["keys"], json({"db-2", "tuf-targets-2"}));
  const CommandOutput listed = Sealift({"keys", "list", "--keys", Path("keys"), "--token",
                                        "release=" + token_, "--token", "release=" + second, "-o", "json"});
  ASSERT_EQ(listed.exit_code, 0) << listed.err;
  std::size_t held = 0;
  const json shown = json::parse(listed.out);
  for (const json& key : shown["keys"]) {
    if (key["group"] != "release") continue;
    EXPECT_EQ(key["in_token"], "yes") << key.dump();
    EXPECT_EQ(key["born_in_token"], true);
    ++held;
  }
  EXPECT_EQ(held, 6u);
  ASSERT_EQ(Keys({"attest", "--keys", Path("keys"), "--out", Path("statement.json")}).exit_code, 0);
  const CommandOutput checked = Sealift({"keys", "attest", "--check", Path("statement.json"), "--public-key",
                                         Path("keys/journal.pub.pem"), "-o", "json"});
  ASSERT_EQ(checked.exit_code, 0) << checked.out;
  EXPECT_EQ(json::parse(checked.out)["keys"], 19);
  EXPECT_EQ(json::parse(checked.out)["certificates"], 8);
}

TEST_F(KeyMaterialTest, CheckpointsOfEachJournalGenerationAreVerifiedByDefault) {
  ASSERT_EQ(Init({kSkip}).exit_code, 0);
  const CommandOutput added =
      Keys({"add-generation", "journal", "--keys", Path("keys"), "--new-token", "online=" + token_});
  ASSERT_EQ(added.exit_code, 0) << added.err;
  // Each command ends with a checkpoint, by the key that is chosen.
  for (const char* generation : {"journal=1", "journal=2"}) {
    const CommandOutput used =
        Keys({"csr", "db", "--keys", Path("keys"), "--generation", generation, "--out", Path("db.csr")});
    ASSERT_EQ(used.exit_code, 0) << used.err;
  }
  const CommandOutput both = Sealift({"journal", "verify", Path("keys/journal")});
  EXPECT_EQ(both.exit_code, 0) << both.out << both.err;
  EXPECT_EQ(Sealift({"journal", "verify", Path("keys/journal"), "--public-key", Path("keys/journal.pub.pem")})
                .exit_code,
            1)
      << "the second key's checkpoint needs the second key";
}

TEST_F(KeyMaterialTest, AlgorithmsThatARoleCannotHaveAreRefusedBeforeAnythingIsMade) {
  for (const char* choice : {"db=p256", "pcr=p384", "controller-tls=rsa2048"}) {
    const CommandOutput refused = Init({kSkip, "--algorithm", choice});
    EXPECT_NE(refused.exit_code, 0) << choice;
    EXPECT_NE(refused.err.find("KEY_ALGORITHM_UNSUPPORTED"), std::string::npos) << refused.err;
  }
  EXPECT_EQ(Init({kSkip, "--algorithm", "nobody=p256"}).exit_code, 2);
  EXPECT_FALSE(std::filesystem::exists(Path("keys")));
  EXPECT_EQ(Init({kSkip}).exit_code, 0);
}

TEST_F(KeyMaterialTest, AWrappableSetIsBackedUpAndRestoredInAnotherToken) {
  const CommandOutput made = Init({kSkip, "--wrappable"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_NE(made.out.find("marked for ever"), std::string::npos) << made.out;
  const CommandOutput token = Sealift({"token", "create", "--store", Path("store"), "--label", "second",
                                       "--pin-file", Path("pin"), "-o", "json"});
  const std::string second = json::parse(token.out)["uri"];
  const std::vector<std::string> transport = {"keys",   "transport-key", "--token", second,
                                              "--keys", Path("keys"),    "--out",   Path("transport.pem"),
                                              "-o",     "json"};
  const CommandOutput first = Sealift(transport);
  ASSERT_EQ(first.exit_code, 0) << first.err;
  EXPECT_EQ(Sealift(transport).out, first.out) << "the same key";
  const std::string id = json::parse(first.out)["key_id"];
  EXPECT_NE(ReadTextFile(Path("keys/journal"))->find("sealift:transport"), std::string::npos);
  std::vector<std::string> arguments = {
      "backup", "db",           "escrow", "--keys", Path("keys"), "--to", Path("transport.pem"),
      "--out",  Path("backup"), "-o",     "json"};
  EXPECT_EQ(Keys(arguments).exit_code, 2) << "without --to-id";
  arguments.insert(arguments.end(), {"--to-id", std::string(64, '0')});
  const CommandOutput mistaken = Keys(arguments);
  EXPECT_EQ(mistaken.exit_code, 1);
  EXPECT_NE((mistaken.out + mistaken.err).find("KEY_MISMATCH"), std::string::npos)
      << mistaken.out << mistaken.err;
  EXPECT_FALSE(std::filesystem::exists(Path("backup")));
  arguments.back() = id;
  const CommandOutput backup = Keys(arguments);
  ASSERT_EQ(backup.exit_code, 0) << backup.out;
  EXPECT_EQ(json::parse(backup.out)["keys"], json({"db-1", "escrow-1"}));
  const std::vector<std::string> restore = {"keys",       "restore", Path("backup"), "--keys",
                                            Path("keys"), "--token", second};
  const CommandOutput restored = Sealift(restore);
  ASSERT_EQ(restored.exit_code, 0) << restored.err;
  const CommandOutput listed =
      Sealift({"keys", "list", "--keys", Path("keys"), "--token", second, "-o", "json"});
  const json shown = json::parse(listed.out);
  for (const json& key : shown["keys"]) {
    const bool there = key["role"] == "db" || key["role"] == "escrow";
    EXPECT_EQ(key["origin"], "wrappable") << key.dump();
    EXPECT_EQ(key["ever_extractable"], "yes") << key.dump();
    EXPECT_EQ(key["in_token"], there ? "yes" : "no") << key.dump();
    EXPECT_EQ(key["copies"].size(), there ? 1u : 0u) << key.dump();
  }
  Write("backup", Bytes(40, '{'));
  EXPECT_NE(Sealift(restore).err.find("KEY_BACKUP_INVALID"), std::string::npos);
}

}  // namespace
}  // namespace sealift::cli
