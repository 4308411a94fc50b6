// `sealift inspect` as scripts use it: exit codes and JSON, on files that other programs made.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "shared/crypto/hash.h"
#include "shared/efi/auth_variable.h"
#include "tests/integration/controller/cli/inspect_fixture.h"
#include "tests/support/test_keys.h"
#include "tests/support/tools.h"

namespace sealift::cli {
namespace {

using nlohmann::json;
using test::RunTool;

constexpr char kOwnerText[] = "11223344-5566-7788-99aa-bbccddeeff00";
constexpr char kDbVendor[] = "d719b2cb-3d3a-4596-a3bc-dad00e67656f";

class InspectTest : public InspectCommandTest {
 protected:
  static void SetUpTestSuite() {
    key_ = new test::TestKey(test::MakeTestKey("db"));
    other_ = new test::TestKey(test::MakeTestKey("other db"));
  }
  std::vector<std::string> AuthArguments(const std::string& file) const {
    return {"auth", file, "--name", "db", "--guid", kDbVendor, "--attributes", "0x27"};
  }

  static inline test::TestKey* key_;
  static inline test::TestKey* other_;
};

TEST_F(InspectTest, ListsWhatEfitoolsWrote) {
  SEALIFT_NEED_TOOL("cert-to-efi-sig-list");
  Write("db.pem", AsBytes(key_->certificate_pem));
  ASSERT_EQ(RunTool({"cert-to-efi-sig-list", "-g", kOwnerText, Path("db.pem"), Path("db.esl")}).exit_code, 0);
  const json shown = InspectJson({"esl", Path("db.esl")});
  EXPECT_EQ(shown["count"], 1);
  const json& list = shown["lists"][0];
  EXPECT_EQ(list["type"], "x509");
  EXPECT_EQ(list["type_guid"], "a5c059a1-94e4-4aa7-87b5-ab155c2bf072");
  EXPECT_EQ(list["header_size"], 0);
  EXPECT_EQ(list["signature_size"], key_->certificate.size() + 16);
  const json& entry = list["signatures"][0];
  EXPECT_EQ(entry["owner"], kOwnerText);
  EXPECT_EQ(entry["size"], key_->certificate.size());
  EXPECT_EQ(entry["sha256"], Sha256(key_->certificate).hex());
  EXPECT_FALSE(entry.contains("value"));
  Bytes variable = {0x27, 0, 0, 0};
  Append(variable, ReadFile(Path("db.esl")).value());
  Write("variable", variable);
  EXPECT_EQ(InspectJson({"esl", Path("variable"), "--efivarfs"}), shown);
  InspectJson({"esl", Path("variable")}, 1);
  InspectJson({"esl", Write("short", Bytes{0x27, 0}), "--efivarfs"}, 1);
}

TEST_F(InspectTest, NamesEveryTypeAndKeepsUnknownOnes) {
  const efi::Guid owner = efi::Guid::Parse(kOwnerText).value();
  const auto list = [&](const efi::Guid& type, std::size_t bytes) {
    return efi::SignatureList{.type = type, .entries = {{owner, Bytes(bytes, 0xab)}}};
  };
  const efi::SignatureLists lists = {list(efi::kCertSha1, 20),       list(efi::kCertSha256, 32),
                                     list(efi::kCertSha384, 48),     list(efi::kCertSha512, 64),
                                     list(efi::kCertX509, 5),        list(efi::kCertRsa2048, 256),
                                     list(efi::kCertX509Sha256, 48), list(owner, 9)};
  const json shown = InspectJson({"esl", Write("all", efi::SerializeSignatureLists(lists))});
  std::vector<std::string> types;
  std::vector<std::size_t> values;
  for (const json& one : shown["lists"]) {
    types.push_back(one["type"]);
    values.push_back(one["signatures"][0].value("value", "").size() / 2);
  }
  EXPECT_EQ(types, (std::vector<std::string>{"sha1", "sha256", "sha384", "sha512", "x509", "rsa2048",
                                             "x509_sha256", "unknown"}));
  EXPECT_EQ(values, (std::vector<std::size_t>{20, 32, 48, 64, 0, 0, 32, 0}));
  EXPECT_EQ(shown["lists"][7]["type_guid"], kOwnerText);
}

TEST_F(InspectTest, RefusesDamagedListsWithOneSentence) {
  const efi::Guid owner = efi::Guid::Parse(kOwnerText).value();
  const Bytes good = efi::SerializeSignatureLists(
      efi::SignatureLists{efi::Sha256SignatureList(owner, std::vector<Sha256Digest>(2))});
  const auto refused = [&](Bytes bytes) {
    const CommandOutput output = Inspect({"esl", Write("damaged", bytes)});
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_EQ(output.err.substr(0, 9), "sealift: ") << output.err;
    return output.err.substr(0, output.err.find('\n'));
  };
  const auto with = [&](std::size_t offset, std::uint8_t value) {
    Bytes bytes = good;
    bytes[offset] = value;
    return refused(bytes);
  };
  EXPECT_NE(with(16, 0).find("its size 0 does not fit"), std::string::npos);
  EXPECT_NE(with(19, 0x7f).find("does not fit"), std::string::npos);
  EXPECT_NE(with(23, 1).find("header is larger"), std::string::npos);
  EXPECT_NE(with(24, 0).find("entries of 0 bytes"), std::string::npos);
  EXPECT_NE(with(24, 50).find("instead of 32"), std::string::npos);
  Bytes trailing = good;
  trailing.push_back(0);
  EXPECT_NE(refused(trailing).find(fmt::format("at byte {}: the bytes end", good.size())), std::string::npos);
}

TEST_F(InspectTest, VerifiesAuthenticatedVariablesOfEfitools) {
  SEALIFT_NEED_TOOL("sign-efi-sig-list");
  Write("db.pem", AsBytes(key_->certificate_pem));
  Write("db.key", AsBytes(key_->signer->PrivatePem()));
  const efi::Guid owner = efi::Guid::Parse(kOwnerText).value();
  Write("db.esl", efi::SerializeSignatureLists(
                      efi::SignatureLists{efi::X509SignatureList(owner, other_->certificate)}));
  ASSERT_EQ(RunTool({"sign-efi-sig-list", "-t", "2026-11-23 02:51:58", "-k", Path("db.key"), "-c",
                     Path("db.pem"), "db", Path("db.esl"), Path("db.auth")})
                .exit_code,
            0);
  const json shown = InspectJson(AuthArguments(Path("db.auth")));
  EXPECT_EQ(shown["timestamp"], "2026-11-23T02:51:58Z");
  EXPECT_EQ(shown["signature"], "ok");
  EXPECT_EQ(shown["signers"], json::array({{{"sha256", Sha256(key_->certificate).hex()}}}));
  EXPECT_EQ(shown["lists"][0]["signatures"][0]["sha256"], Sha256(other_->certificate).hex());
  std::vector<std::string> append = AuthArguments(Path("db.auth"));
  append.back() = "0x67";
  EXPECT_EQ(InspectJson(append, 1)["signature"], "bad");
  Bytes changed = ReadFile(Path("db.auth")).value();
  changed.back() ^= 1;
  EXPECT_EQ(InspectJson(AuthArguments(Write("changed", changed)), 1)["signature"], "bad");
}

TEST_F(InspectTest, TellsBareFromWrappedSignedData) {
  const efi::VariableTarget target = efi::SecureBootVariable("db").value();
  const efi::Guid owner = efi::Guid::Parse(kOwnerText).value();
  const Bytes payload =
      efi::SerializeSignatureLists(efi::SignatureLists{efi::X509SignatureList(owner, other_->certificate)});
  const Bytes bare = efi::BuildAuthenticatedVariable(target, ParseRfc3339("2026-11-23T02:51:58Z").value(),
                                                     payload, *key_->signer, key_->certificate)
                         .value();
  EXPECT_EQ(InspectJson(AuthArguments(Write("bare", bare)))["wrapped"], false);
  const Bytes inner = efi::ParseAuthenticatedVariable(bare)->signed_data;
  const Bytes oid = {0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02};
  const Bytes outer = efi::DerWrap(0x30, {oid, efi::DerWrap(0xa0, {inner})});
  Bytes wrapped(bare.begin(), bare.begin() + 40);
  wrapped[16] = static_cast<std::uint8_t>((outer.size() + 24) & 0xff);
  wrapped[17] = static_cast<std::uint8_t>((outer.size() + 24) >> 8);
  Append(wrapped, outer);
  Append(wrapped, payload);
  const json shown = InspectJson(AuthArguments(Write("wrapped", wrapped)));
  EXPECT_EQ(shown["wrapped"], true);
  EXPECT_EQ(shown["signature"], "ok");
  // The same file as a lone WIN_CERTIFICATE.
  const json certificate =
      InspectJson({"wincert", Write("wincert", ByteView(bare).subspan(16, 24 + inner.size()))});
  EXPECT_EQ(certificate["type"], "pkcs7-guid");
  EXPECT_EQ(certificate["certificates"], json::array({Sha256(key_->certificate).hex()}));
  InspectJson({"wincert", Write("longer", ByteView(bare).subspan(16))}, 1);
}

TEST_F(InspectTest, ReadsTheSignatureThatSbsignMade) {
  SEALIFT_NEED_TOOL("sbsign");
  constexpr const char* kImage = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
  SEALIFT_NEED_TOOL("pesign");
  SEALIFT_NEED_FILE(kImage);
  Write("db.pem", AsBytes(key_->certificate_pem));
  Write("db.key", AsBytes(key_->signer->PrivatePem()));
  ASSERT_EQ(RunTool({"sbsign", "--key", Path("db.key"), "--cert", Path("db.pem"), "--output", Path("signed"),
                     kImage})
                .exit_code,
            0);
  const Bytes image = ReadFile(Path("signed")).value();
  ByteReader header(image, ByteReader::Endian::kLittle);
  header.Skip(0x3c);
  const std::size_t optional = header.U32() + 24;
  ByteReader directory(ByteView(image).subspan(optional + 144), ByteReader::Endian::kLittle);
  const std::size_t at = directory.U32();
  const json shown = InspectJson({"wincert", Write("table", ByteView(image).subspan(at))});
  EXPECT_EQ(shown["type"], "authenticode");
  EXPECT_EQ(shown["digest_algorithm"], "sha256");
  EXPECT_EQ(shown["certificates"], json::array({Sha256(key_->certificate).hex()}));
  const CommandOutput hash = RunTool({"pesign", "-h", "-P", "-i", kImage});
  EXPECT_NE(hash.out.find(shown["digest"].get<std::string>()), std::string::npos) << hash.out << hash.err;
}

TEST_F(InspectTest, CreatesListsInTheOrderGiven) {
  const std::string owner = kOwnerText;
  const std::string one = std::string(63, '0') + "1";
  const std::string two = std::string(63, '0') + "2";
  const std::string db = owner + "=" + Write("db.der", key_->certificate);
  const std::string other = owner + "=" + Write("other.der", other_->certificate);
  const json made =
      InspectJson({"esl-create", "--x509", db, "--sha256", owner + "=" + two, "--sha256", owner + "=" + one,
                   "--x509", other, "--sha256", owner + "=" + one, "--out", Path("out.esl")});
  const json shown = InspectJson({"esl", Path("out.esl")});
  EXPECT_EQ(made["lists"], shown["lists"]);
  EXPECT_EQ(shown["count"], 5);
  ASSERT_EQ(shown["lists"].size(), 4u);
  EXPECT_EQ(shown["lists"][0]["signatures"][0]["sha256"], Sha256(key_->certificate).hex());
  EXPECT_EQ(shown["lists"][1]["signatures"][0]["value"], two);
  EXPECT_EQ(shown["lists"][1]["signatures"][1]["value"], one);
  EXPECT_EQ(shown["lists"][2]["signatures"][0]["sha256"], Sha256(other_->certificate).hex());
  EXPECT_EQ(shown["lists"][3]["signatures"][0]["value"], one);
}

TEST_F(InspectTest, UsageAndReadingAreNeverAVerdict) {
  EXPECT_EQ(Inspect({"esl", Path("absent")}).exit_code, 2);
  EXPECT_EQ(Inspect({"esl"}).exit_code, 2);
  EXPECT_EQ(Inspect({"esl", folder_.path().string()}).exit_code, 2);
  const std::string file = Write("x", Bytes{1});
  EXPECT_EQ(Inspect({"auth", file, "--name", "db", "--guid", "nonsense"}).exit_code, 2);
  EXPECT_EQ(Inspect({"auth", file, "--name", "db", "--attributes", "27x"}).exit_code, 2);
  EXPECT_EQ(Inspect({"esl-create", "--out", Path("none")}).exit_code, 2);
  EXPECT_EQ(Inspect({"esl-create", "--sha256", "00", "--out", Path("none")}).exit_code, 2);
  EXPECT_EQ(Inspect({"esl-create", "--x509", std::string(kOwnerText) + "=" + file, "--out", Path("none")})
                .exit_code,
            1);
  EXPECT_FALSE(std::filesystem::exists(Path("none")));
  EXPECT_EQ(InspectJson({"auth", file, "--name", "db"}, 1)["error"]["reason"], "MALFORMED");
  EXPECT_EQ(InspectJson({"wincert", file}, 1)["error"]["reason"], "MALFORMED");
}

}  // namespace
}  // namespace sealift::cli
