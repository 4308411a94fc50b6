// What a set's Secure Boot files are after its ceremony: vendor certificates, updates, other CAs'
// certificates.
#include "hsm/secure_boot.h"

#include <gtest/gtest.h>

#include "hsm/ceremony.h"
#include "hsm/microsoft_certificates.h"
#include "shared/crypto/hash.h"
#include "shared/efi/auth_variable.h"
#include "tests/integration/hsm/softhsm_fixture.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_keys.h"
#include "tests/support/tools.h"

namespace sealift::hsm {
namespace {

using std::chrono::hours;
using std::chrono::seconds;
using test::RunTool;

constexpr char kOvmf[] = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd";

class SecureBootTest : public SoftHsmTest {
 protected:
  static void SetUpTestSuite() {
    one_ = new test::TestKey(test::MakeTestKey("vendor"));
    // MakeTestKey derives the serial from the name's length.
    two_ = new test::TestKey(test::MakeTestKey("vender"));
  }
  void SetUp() override {
    SoftHsmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    token_ = MakeToken("all").Text();
    auto tokens = OpenTokens({token_});
    ASSERT_TRUE(tokens.ok()) << Describe(tokens.status());
    options_ = {.set = "demo",
                .folder = folder_.path() / "keys",
                .tokens = *std::move(tokens),
                .controller_names = {"DNS:controller.lab"},
                .now = std::chrono::floor<seconds>(SystemClock().Now())};
  }
  void Init() {
    const auto made = InitialiseKeySet(options_, [](const std::string& /*line*/) {});
    ASSERT_TRUE(made.ok()) << Describe(made.status());
  }
  std::unique_ptr<KeyRing> Ring() const { return KeyRing::Open(options_.folder, {token_}).value(); }
  Bytes Content(const std::string& name) const { return ReadFile(options_.folder / name).value(); }
  efi::SignatureLists Lists(const std::string& name) const {
    return efi::ParseSignatureLists(Content(name)).value();
  }
  std::string Write(const std::string& name, ByteView bytes) const {
    const auto path = folder_.path() / name;
    EXPECT_TRUE(MakeDirectories(path.parent_path()).ok());
    EXPECT_TRUE(WriteFileAtomically(path, bytes).ok());
    return path.string();
  }
  // As a machine in user mode with this set's PK and KEK.
  Status Accepts(ByteView auth, const std::string& name, std::uint32_t attributes) const {
    const auto target = efi::SecureBootVariable(name, attributes).value();
    const auto trusted = Lists(name == "PK" || name == "KEK" ? "PK.esl" : "KEK.esl");
    return efi::VerifyAuthenticatedVariable(auth, target, trusted).status();
  }
  std::map<std::string, Bytes> AllFiles() const {
    std::map<std::string, Bytes> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(options_.folder))
      if (entry.is_regular_file()) files[entry.path().string()] = ReadFile(entry.path()).value();
    return files;
  }
  // A CA with openssl alone, and a certificate that it issues for `csr`.
  std::string IssueByOtherCa(const std::string& csr, const std::string& name) const {
    const auto path = [&](const std::string& file) { return (folder_.path() / file).string(); };
    EXPECT_EQ(RunTool({"openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Our CA",
                       "-days", "30", "-keyout", path("ca.key"), "-out", path("ca.pem")})
                  .exit_code,
              0);
    EXPECT_EQ(RunTool({"openssl", "x509", "-req", "-in", csr, "-inform", "DER", "-CA", path("ca.pem"),
                       "-CAkey", path("ca.key"), "-CAcreateserial", "-days", "20", "-out", path(name)})
                  .exit_code,
              0);
    return path(name);
  }

  std::string token_;
  KeySetOptions options_;
  static inline test::TestKey* one_;
  static inline test::TestKey* two_;
};

TEST_F(SecureBootTest, EnrolsMicrosoftsCertificatesOfTheOvmfPackage) {
  SEALIFT_NEED_FILE(kOvmf);
  const auto content = PrepareEnrolment({.microsoft_source = kOvmf});
  ASSERT_TRUE(content.ok()) << Describe(content.status());
  options_.enrolment = *content;
  Init();
  ASSERT_EQ(content->entries.size(), 2u);
  std::string lacking;
  for (const std::string& line : content->warnings) lacking += line + "\n";
  for (const char* name : {"uefi2023", "optionrom2023", "kek2023"})
    EXPECT_NE(lacking.find(name), std::string::npos) << lacking;
  for (const auto& [file, own, sha256] :
       {std::tuple{"KEK.esl", "KEK.der", "a1117f516a32cefcba3f2d1ace10a87972fd6bbe8fe0d0b996e09e65d802a503"},
        std::tuple{"db.esl", "db.der", "48e99b991f57fc52f76149599bff0a58c47154229b9f8d603ac40d3500248507"}}) {
    const auto lists = Lists(file);
    ASSERT_EQ(lists.size(), 2u) << file;
    EXPECT_EQ(lists[0].entries[0].data, Content(own));
    EXPECT_EQ(lists[1].entries[0].owner.text(), "77fa9abd-0359-4d32-bd60-28f4e78f784b");
    EXPECT_EQ(Sha256(lists[1].entries[0].data).hex(), sha256);
  }
  EXPECT_EQ(Lists("PK.esl").size(), 1u);
  EXPECT_FALSE(std::filesystem::exists(options_.folder / "dbx.esl"));
  for (const char* name : {"PK", "KEK", "db"})
    EXPECT_TRUE(Accepts(Content(std::string(name) + ".auth"), name, efi::kReplaceAttributes).ok());
}

TEST_F(SecureBootTest, TakesExactlyTheNamedMicrosoftCertificates) {
  SEALIFT_NEED_FILE(kOvmf);
  const auto named = PrepareEnrolment({.microsoft_source = kOvmf, .microsoft_names = {"windows2011"}});
  ASSERT_TRUE(named.ok()) << Describe(named.status());
  ASSERT_EQ(named->entries.size(), 1u);
  EXPECT_TRUE(named->warnings.empty());
  const auto missing = PrepareEnrolment({.microsoft_source = kOvmf, .microsoft_names = {"uefi2023"}});
  EXPECT_EQ(ReasonOf(missing.status()), Reason::kVendorCertificateMissing);
  EXPECT_EQ(ReasonOf(PrepareEnrolment({.microsoft_source = kOvmf, .microsoft_names = {"x"}}).status()),
            Reason::kInvalidArgument);
  // A folder with certificates in every form; the same one twice is one.
  const auto pool = SelectMicrosoftCertificates(kOvmf, {"uefi2011", "kek2011"}).value();
  ASSERT_EQ(pool.found.size(), 2u);
  Write("ms/a.der", pool.found[0].certificate.der());
  Write("ms/b.crt", AsBytes(pool.found[0].certificate.Pem()));
  Write("ms/c.esl", efi::SerializeSignatureLists(efi::SignatureLists{
                        efi::X509SignatureList(kMicrosoftOwner, pool.found[1].certificate.der())}));
  Write("ms/broken.cer", AsBytes("x"));
  Write("ms/README", AsBytes("x"));
  const auto folder = PrepareEnrolment({.microsoft_source = folder_.path() / "ms"});
  ASSERT_TRUE(folder.ok()) << Describe(folder.status());
  EXPECT_EQ(folder->entries.size(), 2u);
  // A certificate that only bears the name is told apart.
  Write("fake/x.der", test::MakeTestKey("Microsoft UEFI CA 2023").certificate);
  const auto fake = PrepareEnrolment({.microsoft_source = folder_.path() / "fake"});
  ASSERT_TRUE(fake.ok()) << Describe(fake.status());
  EXPECT_NE(fake->warnings.at(1).find("is not the certificate that Microsoft published"), std::string::npos)
      << fake->warnings.at(1);
  EXPECT_EQ(ReasonOf(PrepareEnrolment({.microsoft_source = folder_.path() / "store"}).status()),
            Reason::kVendorCertificateMissing);
}

TEST_F(SecureBootTest, KeepsEveryEntryOfFirmwareExports) {
  const efi::Guid vendor = efi::kLoaderVendor;
  const std::vector<Sha256Digest> hashes = {Sha256(AsBytes("a")), Sha256(AsBytes("b"))};
  Bytes dbx = {0x27, 0, 0, 0};  // as efivarfs shows it
  Append(dbx, efi::SerializeSignatureLists(
                  efi::SignatureLists{efi::Sha256SignatureList(vendor, hashes),
                                      {.type = efi::kCertSha1, .entries = {{vendor, Bytes(20, 1)}}},
                                      {.type = vendor, .entries = {{vendor, Bytes(7, 2)}}}}));
  Write("custom/dbx-d719b2cb-3d3a-4596-a3bc-dad00e67656f", dbx);
  Write("custom/db",
        efi::SerializeSignatureLists(efi::SignatureLists{efi::X509SignatureList(vendor, one_->certificate)}));
  Write("custom/db1.der", two_->certificate);
  const auto serial = [](const test::TestKey& key) {
    return Certificate::FromDer(key.certificate)->serial();
  };
  ASSERT_EQ(serial(*one_), serial(*two_));
  Write("custom/KEK.crt", AsBytes(two_->certificate_pem));
  const auto pk_target = efi::SecureBootVariable("PK").value();
  const Bytes pk_esl =
      efi::SerializeSignatureLists(efi::SignatureLists{efi::X509SignatureList(vendor, one_->certificate)});
  Write("custom/PK.auth",
        efi::BuildAuthenticatedVariable(pk_target, options_.now, pk_esl, *one_->signer, one_->certificate)
            .value());
  const auto content = PrepareEnrolment({.microsoft = false, .custom_folder = folder_.path() / "custom"});
  ASSERT_TRUE(content.ok()) << Describe(content.status());
  ASSERT_EQ(content->warnings.size(), 1u);
  EXPECT_NE(content->warnings[0].find("PK.auth' is not enrolled"), std::string::npos);
  options_.enrolment = *content;
  Init();
  const auto db = Lists("db.esl");
  ASSERT_EQ(db.size(), 3u);
  EXPECT_EQ(db[1].entries[0], (efi::SignatureEntry{vendor, one_->certificate}));
  EXPECT_EQ(db[2].entries[0].data, two_->certificate);
  EXPECT_EQ(db[2].entries[0].owner, db[0].entries[0].owner);
  EXPECT_EQ(Lists("KEK.esl").at(1).entries[0].data, two_->certificate);
  EXPECT_EQ(Content("dbx.esl"), Bytes(dbx.begin() + 4, dbx.end()));
  EXPECT_TRUE(Accepts(Content("dbx.auth"), "dbx", efi::kReplaceAttributes).ok());
  // efitools see the same in it.
  SEALIFT_NEED_TOOL("sig-list-to-certs");
  const auto tool = RunTool(
      {"sig-list-to-certs", (options_.folder / "db.esl").string(), (folder_.path() / "out").string()});
  EXPECT_EQ(tool.exit_code, 0) << tool.err;
  EXPECT_EQ(ReadFile(folder_.path() / "out-2.der").value(), two_->certificate);
}

TEST_F(SecureBootTest, DamagedExportsStopBeforeTheFirstKey) {
  const Bytes good = efi::SerializeSignatureLists(
      efi::SignatureLists{efi::X509SignatureList(efi::kLoaderVendor, one_->certificate)});
  const auto refused = [&](ByteView bytes) {
    Write("custom/db", bytes);
    return PrepareEnrolment({.microsoft = false, .custom_folder = folder_.path() / "custom"}).status();
  };
  Bytes lies = good;
  lies[16] ^= 1;
  EXPECT_EQ(ReasonOf(refused(lies)), Reason::kMalformed);
  EXPECT_NE(MessageOf(refused(lies)).find("take over db from '"), std::string::npos);
  Bytes zero = good;
  std::fill(zero.begin() + 24, zero.begin() + 28, 0);
  EXPECT_EQ(ReasonOf(refused(zero)), Reason::kMalformed);
  Bytes trailing = good;
  trailing.push_back(0);
  EXPECT_EQ(ReasonOf(refused(trailing)), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(refused(ByteView(one_->certificate).first(100))), Reason::kMalformed);
  EXPECT_TRUE(refused(good).ok());
  std::filesystem::remove(folder_.path() / "custom/db");
  EXPECT_EQ(
      ReasonOf(PrepareEnrolment({.microsoft = false, .custom_folder = folder_.path() / "custom"}).status()),
      Reason::kInvalidArgument);
}

TEST_F(SecureBootTest, ValidityGoesToTheYear9999AndNoFurther) {
  options_.expiration_days = 3'000'000;
  const auto refused = InitialiseKeySet(options_, [](const std::string& /*line*/) {});
  EXPECT_EQ(ReasonOf(refused.status()), Reason::kInvalidArgument);
  EXPECT_NE(MessageOf(refused.status()).find("year 9999"), std::string::npos);
  options_.expiration_days = 2'000'000;
  Init();
  const auto text =
      RunTool({"openssl", "x509", "-in", (options_.folder / "db.pem").string(), "-noout", "-enddate"});
  EXPECT_NE(text.out.find(" 7502 GMT"), std::string::npos) << text.out;
  EXPECT_TRUE(Ring()->CertificateFor("db").ok());
}

TEST_F(SecureBootTest, UpdatesAreWhatUserModeAccepts) {
  Init();
  const auto ring = Ring();
  const Bytes kek = efi::SerializeSignatureLists([&] {
    auto lists = Lists("KEK.esl");
    lists.push_back(efi::X509SignatureList(efi::kLoaderVendor, one_->certificate));
    return lists;
  }());
  const Bytes hash = efi::SerializeSignatureLists(efi::SignatureLists{
      efi::Sha256SignatureList(efi::kLoaderVendor, std::vector<Sha256Digest>{Sha256(AsBytes("bad"))})});
  VariableUpdate update{.variable = "KEK", .content = kek, .now = options_.now};
  const auto replaced = SignVariableUpdate(*ring, update);
  ASSERT_TRUE(replaced.ok()) << Describe(replaced.status());
  EXPECT_FALSE(replaced->drops_own_certificate);
  EXPECT_TRUE(Accepts(replaced->auth, "KEK", efi::kReplaceAttributes).ok());
  EXPECT_FALSE(Accepts(replaced->auth, "KEK", efi::kAppendAttributes).ok());
  EXPECT_GT(replaced->time, options_.now);  // the ceremony used that second
  update = {.variable = "dbx", .content = hash, .append = true, .now = options_.now + seconds(2)};
  const auto first = SignVariableUpdate(*ring, update);
  const auto second = SignVariableUpdate(*ring, update);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_LT(first->time, second->time);
  EXPECT_TRUE(Accepts(second->auth, "dbx", efi::kAppendAttributes).ok());
  Bytes flipped = second->auth;
  flipped.back() ^= 1;
  EXPECT_FALSE(Accepts(flipped, "dbx", efi::kAppendAttributes).ok());
  update = {.variable = "db", .content = hash, .now = options_.now + seconds(2)};
  EXPECT_TRUE(SignVariableUpdate(*ring, update)->drops_own_certificate);

  const auto before = AllFiles();
  update.now = options_.now - hours(1);
  EXPECT_EQ(ReasonOf(SignVariableUpdate(*ring, update).status()), Reason::kTimestampNotNewer);
  update.now = options_.now + hours(1);
  update.content.pop_back();
  EXPECT_EQ(ReasonOf(SignVariableUpdate(*ring, update).status()), Reason::kMalformed);
  update.content.clear();
  EXPECT_EQ(ReasonOf(SignVariableUpdate(*ring, update).status()), Reason::kInvalidArgument);
  update = {.variable = "PK", .content = hash, .now = update.now};
  EXPECT_EQ(ReasonOf(SignVariableUpdate(*ring, update).status()), Reason::kInvalidArgument);
  update = {.variable = "db", .content = hash, .now = options_.now + hours(24 * 366)};
  EXPECT_EQ(ReasonOf(SignVariableUpdate(*ring, update).status()), Reason::kSignerCertificateExpired);
  EXPECT_EQ(AllFiles(), before);
  update.allow_expired = true;
  EXPECT_TRUE(SignVariableUpdate(*ring, update).ok());
}

TEST_F(SecureBootTest, AnotherCaCertifiesKeysThatStayInTheirToken) {
  SEALIFT_NEED_TOOL("openssl");
  Init();
  const auto later = options_.now + seconds(5);
  const auto importing = [&](std::string_view role) {
    const auto ring = Ring();
    const auto request = RequestCertificate(*ring, role, "");
    EXPECT_TRUE(request.ok()) << Describe(request.status());
    const std::string file = IssueByOtherCa(Write("request", *request), std::string(role) + ".crt");
    const auto certificate = Certificate::FromPem(ReadTextFile(file).value()).value();
    const auto imported = ImportCertificate(*ring, role, certificate, later, false);
    EXPECT_TRUE(imported.ok()) << Describe(imported.status());
    const std::string variable(VariableOfRole(role));
    EXPECT_EQ(certificate.IssuerText(), "CN=Our CA");
    EXPECT_EQ(certificate.common_name(), "demo " + variable);
    EXPECT_EQ(Content(variable + ".der"), certificate.der());
    EXPECT_EQ(Lists(variable + ".esl").at(0).entries[0].data, certificate.der());
    EXPECT_EQ(Ring()->CertificateFor(role)->der(), certificate.der());
    // The whole set still enrols.
    for (const char* name : {"PK", "KEK", "db"})
      EXPECT_TRUE(Accepts(Content(std::string(name) + ".auth"), name, efi::kReplaceAttributes).ok())
          << role << " " << name;
  };
  importing("db");
  importing("kek");
  importing("pk");
  EXPECT_EQ(Ring()->inventory().variable_times.at("KEK"), later + seconds(1));
  EXPECT_EQ(RequestCertificate(*Ring(), "escrow", "").ok(), false);
}

TEST_F(SecureBootTest, CertificatesThatDoNotFitChangeNothing) {
  Init();
  const auto before = AllFiles();
  const auto ring = Ring();
  const auto other = Certificate::FromDer(one_->certificate).value();
  EXPECT_EQ(ReasonOf(ImportCertificate(*ring, "db", other, options_.now, false).status()),
            Reason::kKeyMismatch);
  const auto kek = Certificate::FromDer(Content("KEK.der")).value();
  EXPECT_EQ(ReasonOf(ImportCertificate(*ring, "db", kek, options_.now, false).status()),
            Reason::kKeyMismatch);
  EXPECT_EQ(ReasonOf(ImportCertificate(*ring, "node-ca", kek, options_.now, false).status()),
            Reason::kInvalidArgument);
  const auto db = Certificate::FromDer(Content("db.der")).value();
  EXPECT_EQ(ReasonOf(ImportCertificate(*ring, "db", db, options_.now - hours(1), false).status()),
            Reason::kTimestampNotNewer);
  EXPECT_EQ(ReasonOf(ImportCertificate(*ring, "db", db, options_.now + hours(24 * 366), false).status()),
            Reason::kSignerCertificateExpired);
  EXPECT_EQ(AllFiles(), before);
  // A set that a power cut left half replaced is mended by the same call.
  std::filesystem::copy_file(options_.folder / "KEK.pem", options_.folder / "db.pem",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(ReasonOf(Ring()->CertificateFor("db").status()), Reason::kKeySetInvalid);
  EXPECT_TRUE(ImportCertificate(*ring, "db", db, options_.now + seconds(5), false).ok());
  EXPECT_TRUE(Ring()->CertificateFor("db").ok());
}

}  // namespace
}  // namespace sealift::hsm
