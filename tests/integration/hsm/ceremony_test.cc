#include "hsm/ceremony.h"

#include <gtest/gtest.h>

#include <fstream>

#include "hsm/key_ring.h"
#include "shared/efi/auth_variable.h"
#include "shared/tuf/metadata.h"
#include "tests/integration/hsm/softhsm_fixture.h"

namespace sealift::hsm {
namespace {

class CeremonyTest : public SoftHsmTest {
 protected:
  void SetUp() override {
    SoftHsmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    arguments_ = MakeGroupTokens("demo");
    auto tokens = OpenTokens(arguments_);
    ASSERT_TRUE(tokens.ok()) << Describe(tokens.status());
    options_ = {.set = "demo",
                .folder = folder_.path() / "keys",
                .tokens = *std::move(tokens),
                .controller_names = {"DNS:controller.lab", "IP:10.0.2.100"},
                .now = SystemClock().Now()};
  }
  Result<Inventory> Init() {
    return InitialiseKeySet(options_, [](const std::string& /*line*/) {});
  }
  std::filesystem::path File(const std::string& name) const { return options_.folder / name; }
  Bytes Content(const std::string& name) const {
    auto content = ReadFile(File(name));
    EXPECT_TRUE(content.ok()) << Describe(content.status());
    return content.ok() ? *content : Bytes{};
  }
  // Everything below the work folder but the store itself.
  std::vector<std::string> Leftovers() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      const std::string name = entry.path().filename();
      if (name != "store" && !name.ends_with(".pin")) names.push_back(name);
    }
    return names;
  }
  // `openssl cms` wants a ContentInfo around the bare SignedData that firmware wants.
  static Bytes WithContentInfo(ByteView signed_data) {
    const auto header = [](std::uint8_t tag, std::size_t size) {
      return Bytes{tag, 0x82, static_cast<std::uint8_t>(size >> 8), static_cast<std::uint8_t>(size)};
    };
    const Bytes oid{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02};
    Bytes content = header(0x30, oid.size() + 4 + signed_data.size());
    Append(content, oid);
    Append(content, header(0xa0, signed_data.size()));
    Append(content, signed_data);
    return content;
  }

  std::vector<std::string> arguments_;
  KeySetOptions options_;
};

TEST_F(CeremonyTest, MakesEveryKeyInItsTokenAndWritesPublicMaterialOnly) {
  const auto inventory = Init();
  ASSERT_TRUE(inventory.ok()) << Describe(inventory.status());
  EXPECT_EQ(inventory->keys.size(), AllRoles().size());
  const auto ring = KeyRing::Open(options_.folder, arguments_);
  ASSERT_TRUE(ring.ok()) << Describe(ring.status());
  EXPECT_EQ((*ring)->inventory().Serialize(), inventory->Serialize());
  EXPECT_EQ((*ring)->HeldGroups().value().size(), 4u);
  for (const InventoryKey& key : inventory->keys) {
    EXPECT_TRUE(key.born_in_token) << key.role;
    EXPECT_EQ(key.label, KeyLabel("demo", key.role, 1));
    EXPECT_EQ(FindRole(key.role)->group, key.group);
    EXPECT_EQ((*ring)->PublicKeyFor(key)->key_id(), key.key_id) << key.role;
    EXPECT_TRUE(options_.tokens.at(key.group)->keys().HoldsPrivateKey(key.key_id).value()) << key.role;
    EXPECT_EQ(key.token_uri.find("pin"), std::string::npos);
    if (FindRole(key.role)->use == KeyUse::kDecrypt) {
      EXPECT_EQ(ReasonOf((*ring)->SignerFor(key.role).status()), Reason::kInvalidArgument);
      continue;
    }
    const auto signer = (*ring)->SignerFor(key.role);
    ASSERT_TRUE(signer.ok()) << Describe(signer.status());
    EXPECT_EQ((*signer)->public_key().key_id(), key.key_id);
    EXPECT_TRUE((*signer)->SignMessage(AsBytes("x"), "test").ok());
  }
  for (const auto& entry : std::filesystem::recursive_directory_iterator(options_.folder)) {
    if (!entry.is_regular_file()) continue;
    const std::string content = ReadTextFile(entry.path()).value();
    EXPECT_EQ(content.find("PRIVATE KEY"), std::string::npos) << entry.path();
    EXPECT_EQ(content.find(kPin), std::string::npos) << entry.path();
  }
  EXPECT_EQ(Leftovers(), std::vector<std::string>{"keys"});
}

TEST_F(CeremonyTest, AuthenticatedVariablesStandBeforeOtherTools) {
  ASSERT_TRUE(Init().ok());
  // Who signs what: PK itself and KEK, KEK db.
  for (const auto& [name, by] : {std::pair{"PK", "PK"}, std::pair{"KEK", "PK"}, std::pair{"db", "KEK"}}) {
    const Bytes auth = Content(std::string(name) + ".auth");
    const auto target = efi::SecureBootVariable(name).value();
    const auto trusted = efi::ParseSignatureLists(Content(std::string(by) + ".esl")).value();
    const auto verified = efi::VerifyAuthenticatedVariable(auth, target, trusted);
    ASSERT_TRUE(verified.ok()) << name << " " << Describe(verified.status());
    EXPECT_EQ(verified->content.at(0).entries.at(0).data, Content(std::string(name) + ".der"));
    if (std::string_view(name) == "db") {
      const auto by_pk = efi::ParseSignatureLists(Content("PK.esl")).value();
      EXPECT_FALSE(efi::VerifyAuthenticatedVariable(auth, target, by_pk).ok());
    }
    // The signature by openssl alone: over name, vendor, attributes, time and list.
    const auto parts = efi::ParseAuthenticatedVariable(auth).value();
    Bytes covered = Utf16Le(name);
    Append(covered, target.vendor.view());
    Append(covered, Bytes{0x27, 0, 0, 0});
    Append(covered, ByteView(auth).first(16));
    Append(covered, Content(std::string(name) + ".esl"));
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / "covered", covered).ok());
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / "cms.der", WithContentInfo(parts.signed_data)).ok());
    const auto cms =
        RunCommand({.argv = {"openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in",
                             folder_.path() / "cms.der", "-content", folder_.path() / "covered", "-CAfile",
                             File(std::string(by) + ".pem"), "-purpose", "any", "-out", "/dev/null"}});
    ASSERT_TRUE(cms.ok());
    EXPECT_EQ(cms->exit_code, 0) << name << " " << cms->err;
  }
}

TEST_F(CeremonyTest, EfitoolsReadTheSignatureLists) {
  ASSERT_TRUE(Init().ok());
  for (const std::string name : {"PK", "KEK", "db"}) {
    const auto prefix = folder_.path() / ("out-" + name);
    const auto tool =
        RunCommand({.argv = {"sig-list-to-certs", File(name + ".esl").string(), prefix.string()}});
    if (tool.status().code() == Code::kNotFound) {
      if (std::getenv("SEALIFT_REQUIRE_TOOLS") != nullptr) FAIL() << "no efitools";
      GTEST_SKIP() << "no efitools";
    }
    ASSERT_TRUE(tool.ok());
    EXPECT_EQ(ReadFile(prefix.string() + "-0.der").value(), Content(name + ".der")) << tool->out << tool->err;
  }
}

TEST_F(CeremonyTest, CertificatesAndTufRootHoldTogether) {
  ASSERT_TRUE(Init().ok());
  const auto strict = [&](const std::string& ca, const std::string& leaf, const char* purpose) {
    return RunCommand({.argv = {"openssl", "verify", "-x509_strict", "-purpose", purpose, "-verify_hostname",
                                "controller.lab", "-CAfile", File(ca), File(leaf)}})
        ->exit_code;
  };
  EXPECT_EQ(strict("node-ca.pem", "controller-tls.pem", "sslserver"), 0);
  EXPECT_NE(strict("node-ca.pem", "controller-tls.pem", "sslclient"), 0);
  EXPECT_NE(strict("operator-ca.pem", "controller-tls.pem", "sslserver"), 0);

  const auto envelope = tuf::ParseEnvelope(ToText(Content("tuf/1.root.json")), tuf::kMaxRootBytes);
  ASSERT_TRUE(envelope.ok()) << Describe(envelope.status());
  const auto root = tuf::ParseRoot(*envelope);
  ASSERT_TRUE(root.ok()) << Describe(root.status());
  EXPECT_TRUE(tuf::VerifyThreshold(*envelope, *root, tuf::Role::kRoot).ok());
  EXPECT_FALSE(tuf::VerifyThreshold(*envelope, *root, tuf::Role::kTargets).ok());
  EXPECT_EQ(Content("tpm2-pcr-public.pem"), Content("public/pcr-1.pem"));

  RegisterPkcs11Resolver();
  const auto key = LoadKeyReference(ToText(Content("controller-tls.key.pem")));
  ASSERT_TRUE(key.ok()) << Describe(key.status());
  const auto certificate = Certificate::FromPem(ToText(Content("controller-tls.pem"))).value();
  EXPECT_EQ(X509_check_private_key(certificate.x509(), key->get()), 1);
  RegisterPkcs11Resolver();  // forgets the signers, which would keep this store open
}

TEST_F(CeremonyTest, NothingIsOverwrittenOrLeftHalfDone) {
  std::filesystem::create_directory(options_.folder);
  EXPECT_EQ(ReasonOf(Init().status()), Reason::kKeySetExists);
  std::filesystem::remove(options_.folder);
  for (const Group group : AllGroups()) {
    EXPECT_TRUE(options_.tokens.at(group)->keys().List()->empty()) << GroupName(group);
  }
  ASSERT_TRUE(Init().ok());
  options_.folder = folder_.path() / "again";
  const Status taken = Init().status();
  EXPECT_EQ(ReasonOf(taken), Reason::kHsmKeyExists);
  EXPECT_EQ(Leftovers(), std::vector<std::string>{"keys"});
}

TEST_F(CeremonyTest, RefusesWhatItCannotMake) {
  const auto refused = [&](const std::function<void(KeySetOptions&)>& change) {
    KeySetOptions changed = options_;
    change(changed);
    const Status status = InitialiseKeySet(changed, [](const std::string& /*line*/) {}).status();
    return ReasonOf(status) == Reason::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](KeySetOptions& o) { o.set = "Demo/.."; }));
  EXPECT_TRUE(refused([](KeySetOptions& o) { o.expiration_days = 0; }));
  EXPECT_TRUE(refused([](KeySetOptions& o) { o.controller_names = {"controller.lab"}; }));
  EXPECT_TRUE(refused([](KeySetOptions& o) { o.controller_names.clear(); }));
  EXPECT_TRUE(refused([](KeySetOptions& o) { o.tokens.erase(Group::kCustody); }));
  EXPECT_TRUE(Leftovers().empty());
}

TEST_F(CeremonyTest, ARingWithOneTokenHoldsOneGroupAndNamesTheOther) {
  ASSERT_TRUE(Init().ok());
  const std::string online = arguments_.at(2);
  const auto ring = KeyRing::Open(options_.folder, {online});
  ASSERT_TRUE(ring.ok()) << Describe(ring.status());
  EXPECT_EQ((*ring)->HeldGroups().value(), std::vector<Group>{Group::kOnline});
  EXPECT_TRUE((*ring)->SignerFor("node-ca").ok());
  const Status missing = (*ring)->SignerFor("db").status();
  EXPECT_EQ(ReasonOf(missing), Reason::kHsmKeyMissing);
  EXPECT_NE(MessageOf(missing).find("--token release=URI"), std::string::npos) << MessageOf(missing);
  // A token given under another group's name is found out by what it holds.
  const auto disguised = KeyRing::Open(options_.folder, {"online=" + arguments_.at(0).substr(5)});
  ASSERT_TRUE(disguised.ok()) << Describe(disguised.status());
  EXPECT_EQ((*disguised)->HeldGroups().value(), std::vector<Group>{Group::kRoot});
  EXPECT_EQ(ReasonOf((*disguised)->SignerFor("node-ca").status()), Reason::kHsmKeyMissing);
  EXPECT_FALSE(KeyRing::Open(options_.folder, {online, online}).ok());
  EXPECT_FALSE(KeyRing::Open(options_.folder, {"nobody" + online}).ok());
}

TEST_F(CeremonyTest, ChangedPublicFilesAreNotBelieved) {
  ASSERT_TRUE(Init().ok());
  const auto ring = KeyRing::Open(options_.folder, {}).value();
  EXPECT_TRUE(ring->CertificateFor("db").ok());
  std::filesystem::copy_file(File("PK.pem"), File("db.pem"),
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(ReasonOf(ring->CertificateFor("db").status()), Reason::kKeySetInvalid);
  std::filesystem::copy_file(File("public/pk-1.pem"), File("public/db-1.pem"),
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(ReasonOf(ring->PublicKeyFor(*ring->inventory().Newest("db")).status()), Reason::kKeySetInvalid);
}

TEST_F(CeremonyTest, OperatorsGetTheirRoleAndNothingElse) {
  ASSERT_TRUE(Init().ok());
  const auto ring = KeyRing::Open(options_.folder, {arguments_.at(3)}).value();
  const auto key = SoftwareSigner::Generate(KeyType::kEcP256).value();
  OperatorCertificateOptions options{.name = "anna", .role = "approver", .now = options_.now};
  const auto certificate = IssueOperatorCertificate(*ring, options, key->public_key());
  ASSERT_TRUE(certificate.ok()) << Describe(certificate.status());
  EXPECT_EQ(certificate->uris(), std::vector<std::string>{"sealift:operator:anna?role=approver"});
  const auto operator_ca = ring->CertificateFor("operator-ca").value();
  const auto node_ca = ring->CertificateFor("node-ca").value();
  EXPECT_TRUE(VerifyChain(*certificate, {}, {operator_ca}, options_.now, CertificatePurpose::kClient).ok());
  EXPECT_FALSE(VerifyChain(*certificate, {}, {operator_ca}, options_.now, CertificatePurpose::kServer).ok());
  EXPECT_FALSE(VerifyChain(*certificate, {}, {node_ca}, options_.now, CertificatePurpose::kClient).ok());
  const auto refused = [&](const std::string& name, const std::string& role) {
    options.name = name;
    options.role = role;
    return ReasonOf(IssueOperatorCertificate(*ring, options, key->public_key()).status()) ==
           Reason::kInvalidArgument;
  };
  options.now = operator_ca.not_after() + std::chrono::hours(1);
  EXPECT_EQ(ReasonOf(IssueOperatorCertificate(*ring, options, key->public_key()).status()),
            Reason::kSignerCertificateExpired);
  options.allow_expired = true;
  EXPECT_TRUE(IssueOperatorCertificate(*ring, options, key->public_key()).ok());
  EXPECT_TRUE(refused("anna?role=custodian", "viewer"));
  EXPECT_TRUE(refused("", "viewer"));
  EXPECT_TRUE(refused("anna", "root"));
}

}  // namespace
}  // namespace sealift::hsm
