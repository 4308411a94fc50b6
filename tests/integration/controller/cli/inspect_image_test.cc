// `sealift inspect pe|pcr-policy|pcrsig` against the programs others wrote: sbsign, osslsigncode, pesign,
// objdump, systemd-measure and a TPM.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "shared/crypto/hash.h"
#include "shared/efi/pe_image.h"
#include "shared/uki/uki_layout.h"
#include "tests/integration/controller/cli/inspect_fixture.h"
#include "tests/support/debian_13.h"
#include "tests/support/swtpm.h"
#include "tests/support/synthetic_pe.h"
#include "tests/support/test_keys.h"
#include "tests/support/tools.h"

namespace sealift::cli {
namespace {

using nlohmann::json;
using test::RunTool;

constexpr char kBootLoader[] = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
constexpr char kStub[] = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
constexpr char kMeasure[] = "/usr/lib/systemd/systemd-measure";

class InspectImageTest : public InspectCommandTest {
 protected:
  static void SetUpTestSuite() {
    key_ = new test::TestKey(test::MakeTestKey("db"));
    other_ = new test::TestKey(test::MakeTestKey("other db"));
    ec_ = new test::TestKey(test::MakeTestKey("ec db", nullptr, KeyType::kEcP256));
    pcr_ = SoftwareSigner::Generate(KeyType::kRsa).value().release();
  }
  void SetUp() override {
    WriteKey("db", *key_);
    WriteKey("other", *other_);
    WriteKey("ec", *ec_);
    Write("pcr.key", AsBytes(pcr_->PrivatePem()));
    Write("pcr.pem", AsBytes(pcr_->public_key().Pem()));
  }
  void WriteKey(const std::string& name, const test::TestKey& key) {
    Write(name + ".pem", AsBytes(key.certificate_pem));
    Write(name + ".key", AsBytes(key.signer->PrivatePem()));
  }
  void Sbsign(const std::string& key, const std::string& from, const std::string& to) {
    const CommandOutput output = RunTool(
        {"sbsign", "--key", Path(key + ".key"), "--cert", Path(key + ".pem"), "--output", Path(to), from});
    ASSERT_EQ(output.exit_code, 0) << output.err;
  }
  void Osslsign(const std::string& hash, const std::string& key, const std::string& to) {
    const CommandOutput output = RunTool({"osslsigncode", "sign", "-h", hash, "-certs", Path(key + ".pem"),
                                          "-key", Path(key + ".key"), "-in", kBootLoader, "-out", Path(to)});
    ASSERT_EQ(output.exit_code, 0) << output.out << output.err;
  }
  // osslsigncode's signatures tell of the others.
  static void ExpectPesignAgrees(const std::string& file, const json& shown) {
    for (const char* hash : {"sha1", "sha256"}) {
      const CommandOutput output = RunTool({"pesign", "-h", "-P", "-d", hash, "-i", file});
      EXPECT_NE(output.out.find(shown["authenticode"][hash].get<std::string>()), std::string::npos)
          << hash << " " << output.out << output.err;
    }
  }

  TempDir folder_ = TempDir::Create("inspect-image").value();
  static inline test::TestKey* key_;
  static inline test::TestKey* other_;
  static inline test::TestKey* ec_;
  static inline SoftwareSigner* pcr_;
};

TEST_F(InspectImageTest, PeTellsWhatObjdumpAndPesignTell) {
  SEALIFT_NEED_FILE(kBootLoader);
  SEALIFT_NEED_TOOL("pesign");
  SEALIFT_NEED_TOOL("objdump");
  const json shown = InspectJson({"pe", kBootLoader});
  EXPECT_EQ(shown["machine"], "x86_64");
  EXPECT_EQ(shown["subsystem"], 10);
  EXPECT_EQ(shown["signatures"], json::array());
  ExpectPesignAgrees(kBootLoader, shown);
  const CommandOutput dump = RunTool({"objdump", "-h", "-w", kBootLoader});
  ASSERT_GE(shown["sections"].size(), 5u);
  std::size_t at = 0;
  for (const json& section : shown["sections"]) {
    const std::string name = section["name"];
    at = dump.out.find(" " + name + " ", at);
    ASSERT_NE(at, std::string::npos) << name << " is not where objdump has it";
    std::istringstream fields(dump.out.substr(at));
    std::string skipped;
    std::uint64_t size = 0;
    std::uint64_t address = 0;
    std::uint64_t load = 0;
    std::uint64_t offset = 0;
    fields >> skipped >> std::hex >> size >> address >> load >> offset;
    EXPECT_EQ(section["virtual_address"], address) << name;
    EXPECT_EQ(section["raw_offset"], offset) << name;
    EXPECT_EQ(
        std::min(section["virtual_size"].get<std::uint64_t>(), section["raw_size"].get<std::uint64_t>()),
        size)
        << name;
  }
}

TEST_F(InspectImageTest, PeJudgesSignaturesOfEveryHashAndKey) {
  SEALIFT_NEED_FILE(kBootLoader);
  SEALIFT_NEED_TOOL("sbsign");
  SEALIFT_NEED_TOOL("osslsigncode");
  Sbsign("db", kBootLoader, "one.efi");
  Sbsign("other", Path("one.efi"), "two.efi");
  const json two = InspectJson({"pe", Path("two.efi"), "--cert", Path("other.pem")});
  ASSERT_EQ(two["signatures"].size(), 2u);
  EXPECT_EQ(two["signatures"][0]["signers"], json::array({{{"sha256", Sha256(key_->certificate).hex()}}}));
  EXPECT_EQ(two["signatures"][1]["signers"], json::array({{{"sha256", Sha256(other_->certificate).hex()}}}));
  for (const json& signature : two["signatures"]) {
    EXPECT_EQ(signature["digest_algorithm"], "sha256");
    EXPECT_EQ(signature["digest"], two["authenticode"]["sha256"]);
    EXPECT_EQ(signature["digest_ok"], true);
    EXPECT_EQ(signature["signature_ok"], true);
  }
  InspectJson({"pe", Path("two.efi"), "--cert", Write("db.der", key_->certificate)});
  InspectJson({"pe", Path("one.efi"), "--cert", Path("other.pem")}, 1);
  InspectJson({"pe", kBootLoader, "--cert", Path("db.pem")}, 1);
  for (const char* hash : {"sha1", "sha256", "sha384", "sha512"}) {
    for (const char* key : {"db", "ec"}) {
      const std::string file = std::string(hash) + key + ".efi";
      Osslsign(hash, key, file);
      const json shown = InspectJson({"pe", Path(file), "--cert", Path(std::string(key) + ".pem")});
      ASSERT_EQ(shown["signatures"].size(), 1u);
      EXPECT_EQ(shown["signatures"][0]["digest_algorithm"], hash);
      EXPECT_EQ(shown["signatures"][0]["digest"], shown["authenticode"][hash]);
    }
  }
  Bytes changed = ReadFile(Path("one.efi")).value();
  changed[0x1000] ^= 1;
  Write("changed.efi", changed);
  // Well formed all the same.
  const json broken = InspectJson({"pe", Path("changed.efi")});
  EXPECT_EQ(broken["signatures"][0]["digest_ok"], false);
  EXPECT_EQ(broken["signatures"][0]["signature_ok"], true);
  InspectJson({"pe", Path("changed.efi"), "--cert", Path("db.pem")}, 1);
  changed = ReadFile(Path("one.efi")).value();
  // Inside the RSA signature, which the table ends with but for attributes that sbsign does not write.
  changed[changed.size() - 40] ^= 1;
  Write("changed.efi", changed);
  const json forged = InspectJson({"pe", Path("changed.efi"), "--cert", Path("db.pem")}, 1);
  EXPECT_EQ(forged["signatures"][0]["signature_ok"], false);
}

TEST_F(InspectImageTest, PeWithAnUnevenLengthPassesPaddedOrNot) {
  SEALIFT_NEED_TOOL("sbsign");
  test::SyntheticPe pe;
  pe.tail = "odd";
  const Bytes image = pe.Build();
  ASSERT_NE(image.size() % 8, 0u);
  const std::string file = Write("odd.efi", image);
  const json shown = InspectJson({"pe", file});
  Sbsign("db", file, "odd-signed.efi");
  const json padded = InspectJson({"pe", Path("odd-signed.efi"), "--cert", Path("db.pem")});
  EXPECT_EQ(padded["authenticode"], shown["authenticode"]);
}

TEST_F(InspectImageTest, PeThatLiesIsMalformedAndWhatCannotBeReadIsNoVerdict) {
  const Bytes good = test::SyntheticPe{}.Build();
  InspectJson({"pe", Write("good.efi", good)});
  InspectJson({"pe", Write("short.efi", ByteView(good).first(0x420))}, 1);
  InspectJson({"pe", Write("text", AsBytes("MZ, but no more"))}, 1);
  InspectJson({"pe", Write("empty", {})}, 1);
  Bytes lying = good;
  lying[0x80 + 4 + 2] = 0xff;  // sections
  lying[0x80 + 4 + 3] = 0xff;
  InspectJson({"pe", Write("lying.efi", lying)}, 1);
  lying = good;
  lying[0x80 + 24 + 144] = 0xff;  // security entry
  lying[0x80 + 24 + 148] = 0xff;
  InspectJson({"pe", Write("table.efi", lying)}, 1);
  EXPECT_EQ(Inspect({"pe", Path("absent")}).exit_code, 2);
  EXPECT_EQ(Inspect({"pe", folder_.path().string()}).exit_code, 2);
  EXPECT_EQ(Inspect({"pe", Path("good.efi"), "--cert", Path("text")}).exit_code, 2);
  EXPECT_EQ(Inspect({"pe", Path("good.efi"), "--cert", Path("absent")}).exit_code, 2);
  EXPECT_EQ(Inspect({"pe"}).exit_code, 2);
}

TEST_F(InspectImageTest, PeOfAUkiPredictsWhatSystemdMeasureCalculates) {
  SEALIFT_NEED_FILE(kStub);
  SEALIFT_NEED_TOOL(kMeasure);
  const Bytes kernel = test::SyntheticPe{}.Build();
  const Bytes initrd = RandomBytes(300'001);
  const std::vector<uki::UkiSection> sections = {{".cmdline", std::string_view("quiet")},
                                                 {".uname", std::string_view("6.1")},
                                                 {".linux", kernel},
                                                 {".initrd", initrd}};
  Write("uki.efi", uki::AssembleUki(ReadFile(kStub).value(), sections).value());
  const json shown = InspectJson({"pe", Path("uki.efi")});
  const std::vector<std::string> calculate = {
      kMeasure, "calculate", "--cmdline=" + Write("cmdline", AsBytes("quiet")),
      "--linux=" + Write("linux", kernel), "--initrd=" + Write("initrd", initrd)};
  EXPECT_EQ(shown["pcr11"]["sha256"].size(), 7u);
  for (const char* bank : {"sha256", "sha384"}) {
    for (const auto& [phase, value] : shown["pcr11"][bank].items()) {
      std::vector<std::string> argv = calculate;
      argv.insert(argv.end(), {std::string("--bank=") + bank, "--phase=" + phase});
      const CommandOutput output = RunTool(argv);
      EXPECT_NE(output.out.find("11:" + std::string(bank) + "=" + value.get<std::string>()),
                std::string::npos)
          << phase << ": " << output.out << output.err;
    }
  }
  EXPECT_EQ(shown["profiles"][0]["measured"][".initrd"], Sha256(initrd).hex());
  EXPECT_TRUE(shown["stub"].get<std::string>().starts_with("systemd-stub 252"));
}

TEST_F(InspectImageTest, PcrPolicyIsWhatSystemdMeasureSigns) {
  SEALIFT_NEED_FILE(test::Debian13Stub().c_str());
  const std::vector<std::string> names = {"linux", "initrd", "cmdline", "sbat", "uname", "profile"};
  std::vector<std::string> sign = test::Debian13Measure();
  std::vector<std::string> policy = {"pcr-policy", "--pcr", "11", "--public-key", Path("pcr.pem")};
  sign.insert(sign.end(), {"sign", "--private-key=" + Path("pcr.key"), "--public-key=" + Path("pcr.pem")});
  // In another order than they are measured.
  for (const std::string& name : names) {
    const std::string file = Write(name, AsBytes("content of " + name));
    sign.push_back("--" + name + "=" + file);
    policy.insert(policy.begin() + 1, {"--section", "." + name + "=" + file});
  }
  policy.insert(policy.end(), {"--section", ".splash=" + Write("empty", {})});
  for (const char* phase : {"enter-initrd", "enter-initrd:leave-initrd:sysinit"}) {
    sign.push_back(std::string("--phase=") + phase);
    policy.insert(policy.end(), {"--phases", phase});
  }
  std::vector<std::string> calculate = sign;
  for (const char* bank : {"sha1", "sha256", "sha384", "sha512"}) {
    sign.push_back(std::string("--bank=") + bank);
    policy.insert(policy.end(), {"--bank", bank});
  }
  const CommandOutput output = RunTool(sign);
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const json theirs = json::parse(output.out);
  const json ours = InspectJson(policy);
  ASSERT_EQ(ours.size(), theirs.size());
  for (const auto& [bank, entries] : theirs.items()) {
    ASSERT_EQ(ours.at(bank).size(), 2u);
    for (std::size_t i = 0; i < entries.size(); ++i)
      for (const char* member : {"pcrs", "pkfp", "pol"})
        EXPECT_EQ(ours.at(bank)[i].at(member), entries[i].at(member)) << bank << i << member;
  }

  // And the signatures pass: by the bank's own hash, as this version makes them.
  std::vector<std::string> check = {"pcrsig", Write("sig.json", AsBytes(output.out)), "--public-key",
                                    Path("pcr.pem")};
  EXPECT_EQ(InspectJson(check)["verified"], true);
  for (const std::string& name : names)
    check.insert(check.end(), {"--section", "." + name + "=" + Path(name)});
  InspectJson(check, 1);
  check.insert(check.end(), {"--phases", "enter-initrd"});
  InspectJson(check, 1);
  check.insert(check.end(), {"--phases", "enter-initrd:leave-initrd:sysinit"});
  EXPECT_EQ(InspectJson(check)["verified"], true);
  Write("initrd", AsBytes("another"));
  EXPECT_EQ(InspectJson(check, 1)["verified"], false);
}

TEST_F(InspectImageTest, PcrsigRefusesOtherKeysAndDamage) {
  SEALIFT_NEED_FILE(test::Debian13Stub().c_str());
  std::vector<std::string> sign = test::Debian13Measure();
  sign.insert(sign.end(),
              {"sign", "--bank=sha256", "--phase=", "--linux=" + Write("linux", AsBytes("kernel")),
               "--private-key=" + Path("pcr.key"), "--public-key=" + Path("pcr.pem")});
  const CommandOutput output = RunTool(sign);
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const std::string file = Write("sig.json", AsBytes(output.out));
  InspectJson({"pcrsig", file, "--public-key", Path("pcr.pem"), "--section", ".linux=" + Path("linux")});
  Write("db.pub", AsBytes(key_->signer->public_key().Pem()));
  InspectJson({"pcrsig", file, "--public-key", Path("db.pub")}, 1);
  json damaged = json::parse(output.out);
  damaged["sha256"][0]["pol"] = std::string(64, '0');
  InspectJson({"pcrsig", Write("pol.json", AsBytes(damaged.dump())), "--public-key", Path("pcr.pem")}, 1);
  damaged = json::parse(output.out);
  damaged["sha512"] = damaged["sha256"];
  damaged["other"] = damaged["sha256"];
  InspectJson({"pcrsig", Write("bank.json", AsBytes(damaged.dump())), "--public-key", Path("pcr.pem")}, 1);
  for (const char* text : {"", "{}", "[]", "{\"sha256\":{}}", "{\"sha256\":[]}", "\xff"})
    EXPECT_EQ(
        Inspect({"pcrsig", Write("bad", AsBytes(std::string_view(text))), "--public-key", Path("pcr.pem")})
            .exit_code,
        1)
        << text;
  EXPECT_EQ(Inspect({"pcrsig", file, "--public-key", Path("absent")}).exit_code, 2);
  EXPECT_EQ(Inspect({"pcrsig", file, "--public-key", file}).exit_code, 2);
  EXPECT_EQ(Inspect({"pcrsig", Path("absent"), "--public-key", Path("pcr.pem")}).exit_code, 2);
  EXPECT_EQ(Inspect({"pcrsig", file}).exit_code, 2);
}

TEST_F(InspectImageTest, PolicyOfPcrValuesIsTheTpms) {
  SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup", "tpm2_startauthsession", "tpm2_policypcr");
  const auto tpm = test::Swtpm::Start({.ek_certificate = false});
  ASSERT_FALSE(HasFatalFailure());
  const Bytes seven = RandomBytes(32);
  const Bytes eleven = RandomBytes(32);
  Bytes values = seven;
  Append(values, eleven);
  Write("values", values);
  for (const char* hash : {"sha256", "sha384"}) {
    ASSERT_EQ(
        RunTool({"tpm2_startauthsession", "-T", tpm->tcti(), "-g", hash, "-S", Path("session")}).exit_code,
        0);
    const CommandOutput theirs = RunTool({"tpm2_policypcr", "-T", tpm->tcti(), "-S", Path("session"), "-l",
                                          "sha256:7,11", "-f", Path("values"), "-L", Path("policy")});
    ASSERT_EQ(theirs.exit_code, 0) << theirs.err;
    const json ours = InspectJson({"pcr-policy", "--pcr-value", "sha256:11=" + HexEncode(eleven),
                                   "--pcr-value", "sha256:7=" + HexEncode(seven), "--policy-hash", hash});
    EXPECT_EQ(ours["policy"], HexEncode(ReadFile(Path("policy")).value()));
    RunTool({"tpm2_flushcontext", "-T", tpm->tcti(), Path("session")});
  }
}

TEST_F(InspectImageTest, PolicyUsageIsNoVerdict) {
  const std::string file = Write("x", AsBytes("x"));
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"--section", "linux=" + file},
      {"--section", ".linux"},
      {"--section", ".linux=" + Path("absent")},
      {"--section", ".linux=" + file, "--section", ".linux=" + file},
      {"--section", ".text=" + file},
      {"--section", ".linux=" + file, "--phases", "a::b"},
      {"--section", ".linux=" + file, "--bank", "md5"},
      {"--section", ".linux=" + file, "--pcr", "24"},
      {"--section", ".linux=" + file, "--public-key", file},
      {"--pcr-value", "sha256:7=00"},
      {"--pcr-value", "sha256:24=" + std::string(64, '0')},
      {"--pcr-value", "sha256=" + std::string(64, '0')},
      {"--pcr-value", "sha256:7=" + std::string(64, '0'), "--policy-hash", "md5"}};
  for (std::vector<std::string> arguments : wrong) {
    arguments.insert(arguments.begin(), "pcr-policy");
    EXPECT_EQ(Inspect(arguments).exit_code, 2) << arguments.back();
  }
}

}  // namespace
}  // namespace sealift::cli
