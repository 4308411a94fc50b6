// `sealift inspect event-log|quote|ek-cert|ca-cert` as scripts use it, beside tpm2_eventlog, tpm2_checkquote
// and openssl verify on the same bytes.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <openssl/pem.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "tests/support/maker_pki.h"
#include "tests/support/places.h"
#include "tests/support/software_tpm.h"
#include "tests/support/tools.h"

namespace sealift::cli {
namespace {

using nlohmann::json;
using test::RunTool;

constexpr char kSealift[] = SEALIFT_BIN_DIR "/sealift";
constexpr char kAt[] = "2027-01-01T00:00:00Z";

class InspectEvidenceTest : public testing::Test {
 protected:
  std::string Path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string Write(const std::string& name, ByteView bytes) const {
    EXPECT_TRUE(WriteFileAtomically(folder_.path() / name, bytes, 0600).ok());
    return Path(name);
  }
  std::string WritePem(const std::string& name, const std::vector<test::Made>& certificates) const {
    const BioPtr bio(BIO_new(BIO_s_mem()));
    for (const test::Made& one : certificates) PEM_write_bio_X509(bio.get(), one.x509.get());
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio.get(), &data);
    return Write(name, AsBytes(std::string_view(data, static_cast<std::size_t>(size))));
  }
  static json Inspect(std::vector<std::string> arguments, int exit_code = 0) {
    arguments.insert(arguments.begin(), {kSealift, "inspect"});
    arguments.insert(arguments.end(), {"-o", "json"});
    const CommandOutput output = RunTool(std::move(arguments));
    EXPECT_EQ(output.exit_code, exit_code) << output.out << output.err;
    return json::parse(output.out, nullptr, false);
  }

  TempDir folder_ = TempDir::Create("inspect").value();
};

// {"sha256": {"4": hex}} of tpm2_eventlog's YAML.
json PcrsOf(const std::string& yaml) {
  json banks = json::object();
  const std::size_t begin = yaml.find("\npcrs:");
  if (begin == std::string::npos) return banks;
  const std::regex line(R"((\w+):\n|(\d+)\s*: 0x([0-9a-f]+))");
  std::string bank;
  const std::string text = yaml.substr(begin + 7);
  for (std::sregex_iterator at(text.begin(), text.end(), line), end; at != end; ++at) {
    if ((*at)[1].matched) {
      bank = (*at)[1].str();
    } else {
      banks[bank][(*at)[2].str()] = (*at)[3].str();
    }
  }
  return banks;
}

TEST_F(InspectEvidenceTest, EventLogsAgreeWithTpm2Eventlog) {
  SEALIFT_NEED_TOOL("tpm2_eventlog");
  const std::string fixture = SEALIFT_SOURCE_DIR "/tests/data/tpm/ovmf-secureboot.eventlog.bin";
  const json shown = Inspect({"event-log", fixture});
  EXPECT_EQ(shown["format"], "crypto-agile");
  EXPECT_EQ(shown["banks"], json({"sha256"}));
  EXPECT_EQ(shown["events"], 40);
  EXPECT_EQ(shown["padding"], 0);
  EXPECT_EQ(shown["pcrs"], PcrsOf(RunTool({"tpm2_eventlog", fixture}).out));
  // Generated ones: every bank, a locality, data of any length.
  for (const int locality : {0, 3, 4}) {
    ByteWriter log(ByteWriter::Endian::kLittle);
    const std::vector<std::uint16_t> banks{tpm::kAlgSha1, tpm::kAlgSha256, tpm::kAlgSha384, tpm::kAlgSha512};
    test::EventLogWriter::Banks declared;
    for (const std::uint16_t bank : banks)
      declared.emplace_back(bank, static_cast<std::uint16_t>(tpm::DigestSize(bank)));
    log.Raw(test::EventLogWriter(declared).bytes());
    const auto add = [&](std::uint32_t pcr, std::uint32_t type, const std::string& data) {
      log.U32(pcr);
      log.U32(type);
      log.U32(static_cast<std::uint32_t>(banks.size()));
      for (const std::uint16_t bank : banks) {
        log.U16(bank);
        log.Raw(tpm::HashWith(bank, AsBytes(data)));
      }
      log.U32(static_cast<std::uint32_t>(data.size()));
      log.Raw(AsBytes(data));
    };
    if (locality != 0) {
      add(0, tpm::kEvNoAction, std::string("StartupLocality\0", 16) + static_cast<char>(locality));
    }
    for (std::uint32_t pcr = 0; pcr < 24; ++pcr) add(pcr, tpm::kEvAction, std::string(pcr * 7, 'x'));
    const std::string file = Write("log", log.bytes());
    const json ours = Inspect({"event-log", file});
    EXPECT_EQ(ours["banks"], json({"sha1", "sha256", "sha384", "sha512"}));
    EXPECT_EQ(ours["pcrs"]["sha256"].size(), 24u);
    EXPECT_EQ(ours["startup_locality"], locality);
    json theirs = PcrsOf(RunTool({"tpm2_eventlog", file}).out);
    json rest = ours["pcrs"];
    for (const std::uint16_t bank : banks) {
      Bytes zero(tpm::DigestSize(bank));
      zero.back() = static_cast<std::uint8_t>(locality);
      Append(zero, tpm::HashWith(bank, {}));
      const std::string name = tpm::AlgorithmName(bank);
      EXPECT_EQ(ours["pcrs"][name]["0"], HexEncode(tpm::HashWith(bank, zero)));
      // Version 5.4 takes no notice of where PCR 0 starts.
      if (locality == 0) continue;
      rest[name].erase("0");
      theirs[name].erase("0");
    }
    EXPECT_TRUE(rest == theirs) << locality;
    Bytes cut = log.bytes();
    cut.pop_back();
    EXPECT_NE(RunTool({"tpm2_eventlog", Write("cut", cut)}).exit_code, 0);
    Inspect({"event-log", Path("cut")}, 1);
  }
  Inspect({"event-log", Path("missing")}, 2);
}

TEST_F(InspectEvidenceTest, QuotesAgreeWithTpm2Checkquote) {
  SEALIFT_NEED_TOOL("tpm2_checkquote");
  test::SoftwareAk ak;
  const tpm::PcrValues values{{4, Sha256(AsBytes("four"))}, {11, Sha256(AsBytes("eleven"))}};
  const Bytes nonce = HexDecode("00112233445566778899").value();
  const tpm::QuoteEvidence quote = ak.Quote(values, nonce);
  const std::string attest = Write("attest", quote.attest);
  const std::string signature = Write("signature", quote.signature);
  const std::string pem = Write("ak.pem", AsBytes(ak.area().key.Pem()));
  const std::string tpm2b = Write("ak.pub", ak.Public());
  json pcrs;
  for (const auto& [pcr, value] : values) pcrs["sha256"][std::to_string(pcr)] = value.hex();
  const std::string registers = Write("pcrs.json", AsBytes(pcrs.dump()));

  const auto theirs = [&](const std::string& nonce_hex) {
    return RunTool(
               {"tpm2_checkquote", "-u", pem, "-m", attest, "-s", signature, "-g", "sha256", "-q", nonce_hex})
               .exit_code == 0;
  };
  for (const std::string& key : {pem, tpm2b}) {
    const json shown = Inspect({"quote", "--attest", attest, "--signature", signature, "--ak", key, "--pcrs",
                                registers, "--nonce", "00112233445566778899"});
    EXPECT_EQ(shown["verified"], true);
    EXPECT_EQ(shown["hash"], "sha256");
    EXPECT_EQ(shown["scheme"], "ecdsa");
    EXPECT_EQ(shown["extra_data"], "00112233445566778899");
    EXPECT_EQ(shown["clock"], 123456);
    EXPECT_EQ(shown["reset_count"], 7);
    EXPECT_EQ(shown["firmware_version"], "0000000020230101");
    EXPECT_EQ(shown["pcr_selection"], json({{"sha256", {4, 11}}}));
    EXPECT_EQ(shown["pcr"], "ok");
    EXPECT_TRUE(theirs("00112233445566778899"));
  }
  const json stale =
      Inspect({"quote", "--attest", attest, "--signature", signature, "--ak", pem, "--nonce="}, 1);
  EXPECT_EQ(stale["nonce"], "mismatch");
  EXPECT_EQ(stale["signature"], "ok");
  EXPECT_EQ(stale["verified"], false);
  EXPECT_FALSE(theirs("00"));
  const json decoded = Inspect({"quote", "--attest", attest});
  EXPECT_EQ(decoded["verified"], nullptr);
  EXPECT_EQ(decoded["hash"], nullptr);
  // An empty nonce asked for and given.
  const tpm::QuoteEvidence bare = ak.Quote(values, Bytes());
  const json empty = Inspect({"quote", "--attest", Write("bare", bare.attest), "--signature",
                              Write("bare.sig", bare.signature), "--ak", pem, "--nonce="});
  EXPECT_EQ(empty["nonce"], "ok");
  // Every byte of the attestation counts, as theirs says, too.
  for (std::size_t at = 0; at < quote.attest.size(); at += 13) {
    Bytes changed = quote.attest;
    changed[at] ^= 1;
    Write("attest", changed);
    Inspect({"quote", "--attest", attest, "--signature", signature, "--ak", pem}, 1);
    EXPECT_FALSE(theirs("00112233445566778899")) << at;
  }
  Inspect({"quote", "--attest", attest, "--ak", pem}, 2);
  Inspect({"quote", "--attest", Path("none")}, 2);
  Inspect({"quote", "--attest", attest, "--nonce", "xy"}, 2);
}

TEST_F(InspectEvidenceTest, CertificatesAgreeWithOpenssl) {
  SEALIFT_NEED_TOOL("openssl");
  const test::Made root = test::MakeMaker({.name = "root", .extensions = test::kCaExtensions}, nullptr);
  const test::Made issuing = test::MakeMaker({.name = "issuing", .extensions = test::kCaExtensions}, &root);
  auto extensions = test::kEkExtensions;
  extensions.emplace_back("subjectAltName", "critical,dirName:san");
  const test::Made ek =
      test::MakeMaker({.name = "", .key_type = "RSA", .extensions = extensions, .serial = "0A0B"}, &issuing);
  const std::string leaf = WritePem("ek.pem", {ek});
  const std::string anchor = WritePem("root.pem", {root});
  const std::string helper = WritePem("issuing.pem", {issuing});
  const auto theirs = [&](const std::string& certificate, const std::string& at) {
    return RunTool({"openssl", "verify", "-partial_chain", "-attime", at, "-trusted", anchor, "-untrusted",
                    helper, certificate})
               .exit_code == 0;
  };
  EXPECT_TRUE(theirs(leaf, "1798761600"));
  const json shown = Inspect({"ek-cert", leaf, "--ca", anchor, "--intermediates", helper, "--at", kAt});
  EXPECT_EQ(shown["trusted"], true);
  EXPECT_EQ(shown["sha256"], Sha256(ek.der()).hex());
  EXPECT_EQ(shown["serial"], "a0b");
  EXPECT_EQ(shown["not_before"], "2026-01-01T00:00:00Z");
  EXPECT_EQ(shown["is_ca"], false);
  EXPECT_EQ(shown["eku"], json({"2.23.133.8.1"}));
  EXPECT_EQ(shown["key"], json({{"type", "rsa"}, {"bits", 2048}}));
  EXPECT_EQ(shown["tpm"],
            json({{"manufacturer", "id:474F4F47"}, {"model", "xCG fTPM"}, {"version", "id:00010001"}}));
  EXPECT_EQ(shown["chain"],
            json({Sha256(ek.der()).hex(), Sha256(issuing.der()).hex(), Sha256(root.der()).hex()}));
  // Out of its time; a helper is no anchor; a folder of anchors; DER with the padding of NV.
  EXPECT_FALSE(theirs(leaf, "2200000000"));
  EXPECT_EQ(
      Inspect({"ek-cert", leaf, "--ca", anchor, "--intermediates", helper, "--at", "2040-01-01T00:00:00Z"},
              1)["trusted"],
      false);
  EXPECT_EQ(Inspect({"ek-cert", leaf, "--ca", anchor, "--at", kAt}, 1)["chain"], json::array());
  Bytes padded = ek.der();
  padded.resize(padded.size() + 99, 0);
  ASSERT_TRUE(std::filesystem::create_directory(folder_.path() / "makers"));
  WritePem("makers/a.pem", {root, issuing});
  EXPECT_EQ(Inspect({"ek-cert", Write("ek.der", padded), "--ca", Path("makers"), "--at", kAt})["padding"],
            99);
  // CAs.
  const json ca = Inspect({"ca-cert", helper, "--ca", anchor, "--at", kAt});
  EXPECT_EQ(ca["is_ca"], true);
  EXPECT_EQ(ca["trusted"], true);
  EXPECT_EQ(Inspect({"ca-cert", helper})["trusted"], nullptr);
  Inspect({"ek-cert", helper, "--ca", anchor, "--at", kAt}, 1);
  // Changed bytes never verify.
  const Bytes der = ek.der();
  for (std::size_t at = 4; at < der.size(); at += 97) {
    Bytes changed = der;
    changed[at] ^= 1;
    Write("changed.der", changed);
    Inspect({"ek-cert", Path("changed.der"), "--ca", Path("makers"), "--at", kAt}, 1);
  }
  Inspect({"ek-cert", leaf, "--ca", Path("none")}, 2);
  Inspect({"ek-cert", leaf, "--ca", anchor, "--at", "yesterday"}, 2);
  Inspect({"ek-cert", leaf}, 2);
}

}  // namespace
}  // namespace sealift::cli
