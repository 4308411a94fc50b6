// A second PKCS#11 implementation: what SoftHSM alone would let pass.
#include "tests/integration/hsm/opencryptoki.h"

#include <gtest/gtest.h>

#include "hsm/ceremony.h"
#include "hsm/key_ring.h"
#include "hsm/objects.h"
#include "hsm/token_signer.h"
#include "tests/integration/hsm/softhsm_fixture.h"

namespace sealift::hsm {
namespace {

class OpencryptokiTest : public SoftHsmTest {
 protected:
  void SetUp() override {
    SoftHsmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    SEALIFT_NEED_OPENCRYPTOKI();
    server_ = std::make_unique<Opencryptoki>(folder_.path());
  }
  std::unique_ptr<Opencryptoki> server_;
};

TEST_F(OpencryptokiTest, KeysAreBornInTheTokenAndDoOneThingOnly) {
  const auto token = Token::Open(server_->uri());
  ASSERT_TRUE(token.ok()) << Describe(token.status());
  KeyStore& keys = (*token)->keys();
  EXPECT_FALSE(keys.HasEc().value());
  for (const auto& [use, algorithm] : {std::pair{KeyUse::kSign, KeyAlgorithm::kRsa2048},
                                       std::pair{KeyUse::kDecrypt, KeyAlgorithm::kRsa3072}}) {
    const std::string label(use == KeyUse::kSign ? "signs" : "decrypts");
    const auto key = keys.Generate(algorithm, use, label);
    ASSERT_TRUE(key.ok()) << Describe(key.status());
    const auto custody = keys.ReadCustody(key->key_id()).value();
    EXPECT_TRUE(custody.born_in_token()) << label;
    EXPECT_EQ(custody.extractable, false) << label;
    EXPECT_EQ(custody.sign, use == KeyUse::kSign) << label;
    EXPECT_EQ(custody.decrypt, use == KeyUse::kDecrypt) << label;
    EXPECT_EQ(custody.unwrap, false) << label;
    EXPECT_EQ(custody.modifiable, false) << label;
    EXPECT_EQ(keys.ReadPublicHalf(key->key_id()).value(), *key);
    EXPECT_TRUE(keys.HoldsPrivateKey(key->key_id()).value());
    EXPECT_EQ(ReasonOf(keys.Generate(algorithm, use, label).status()), Reason::kHsmKeyExists);
  }
  EXPECT_EQ(keys.List()->size(), 2u);
}

TEST_F(OpencryptokiTest, HoldsTheReleaseGroupOfAKeySetInRsa) {
  std::map<Group, std::shared_ptr<Token>> tokens;
  const std::string remote = "release=" + server_->uri().Text();
  std::vector<std::string> arguments{remote};
  for (const Group group : {Group::kRoot, Group::kOnline, Group::kCustody}) {
    const std::string name(GroupName(group));
    arguments.push_back(name + "=" + MakeToken("demo-" + name).Text());
  }
  auto opened = OpenTokens(arguments);
  ASSERT_TRUE(opened.ok()) << Describe(opened.status());
  const auto inventory = InitialiseKeySet({.set = "demo",
                                           .folder = folder_.path() / "keys",
                                           .tokens = *std::move(opened),
                                           .controller_names = {"DNS:controller.lab"},
                                           .now = SystemClock().Now()},
                                          [](const std::string& /*line*/) {});
  ASSERT_TRUE(inventory.ok()) << Describe(inventory.status());
  const auto ring = KeyRing::Open(folder_.path() / "keys", {remote});
  ASSERT_TRUE(ring.ok()) << Describe(ring.status());
  EXPECT_EQ((*ring)->HeldGroups().value(), std::vector<Group>{Group::kRelease});
  for (const char* role : {"db", "pcr", "tuf-targets", "extensions"}) {
    EXPECT_EQ(inventory->Newest(role)->algorithm, KeyAlgorithm::kRsa2048) << role;
    const auto signer = (*ring)->SignerFor(role);
    ASSERT_TRUE(signer.ok()) << Describe(signer.status());
    EXPECT_TRUE((*signer)->SignMessage(AsBytes("x"), "test").ok()) << role;
  }
}

TEST_F(OpencryptokiTest, AGroupThatNeedsEcIsRefusedBeforeAnythingIsMade) {
  const auto token = Token::Open(server_->uri());
  ASSERT_TRUE(token.ok()) << Describe(token.status());
  const auto root = Token::Open(MakeToken("demo-root")).value();
  const Status refused = InitialiseKeySet({.set = "demo",
                                           .folder = folder_.path() / "keys",
                                           .tokens = {{Group::kRoot, root},
                                                      {Group::kRelease, root},
                                                      {Group::kOnline, *token},
                                                      {Group::kCustody, root}},
                                           .controller_names = {"DNS:controller.lab"},
                                           .now = SystemClock().Now()},
                                          [](const std::string& /*line*/) {})
                             .status();
  EXPECT_EQ(ReasonOf(refused), Reason::kHsmMechanismMissing) << Describe(refused);
  for (const char* part : {"'controller-tls'", "'online'"}) {
    EXPECT_NE(MessageOf(refused).find(part), std::string::npos) << part << " in " << MessageOf(refused);
  }
  EXPECT_TRUE(root->keys().List()->empty());
  EXPECT_TRUE((*token)->keys().List()->empty());
  EXPECT_EQ(ReasonOf((*token)->keys().CheckMechanisms(KeyAlgorithm::kEcP256, KeyUse::kSign)),
            Reason::kHsmMechanismMissing);
  EXPECT_TRUE((*token)->keys().CheckMechanisms(KeyAlgorithm::kRsa3072, KeyUse::kDecrypt).ok());
}

TEST_F(OpencryptokiTest, ATokenThatIsFullSaysSo) {
  const auto token = Token::Open(server_->uri());
  ASSERT_TRUE(token.ok()) << Describe(token.status());
  CK_RV rv = CKR_OK;
  int made = 0;
  {
    const auto lease = (*token)->pool()->AcquireReadWrite();
    ASSERT_TRUE(lease.ok());
    for (; rv == CKR_OK && made < 4096; ++made) {
      Template wanted;
      wanted.Number(CKA_CLASS, CKO_DATA).Flag(CKA_TOKEN, true).Flag(CKA_PRIVATE, false);
      CK_OBJECT_HANDLE object = CK_INVALID_HANDLE;
      rv = (*token)->pool()->api().C_CreateObject(lease->handle(), wanted.data(), wanted.size(), &object);
    }
  }
  ASSERT_NE(rv, CKR_OK) << "no limit";
  const auto key = (*token)->keys().Generate(KeyAlgorithm::kRsa2048, KeyUse::kSign, "one too many");
  EXPECT_EQ(ReasonOf(key.status()), Reason::kHsmTokenFull) << made << " " << Describe(key.status());
  EXPECT_TRUE((*token)->keys().List()->empty()) << "nothing is half made";
}

TEST_F(OpencryptokiTest, ALockedPinIsReportedWithoutAnotherTry) {
  // opencryptoki locks after a few wrong ones; raw calls, since ours never send a second.
  {
    const auto module = Module::Load(server_->uri());
    ASSERT_TRUE(module.ok()) << Describe(module.status());
    CK_FUNCTION_LIST& api = (*module)->api();
    CK_SLOT_ID slot = (*module)->Slots(true)->at(0);
    CK_SESSION_HANDLE session = CK_INVALID_HANDLE;
    ASSERT_EQ(api.C_OpenSession(slot, CKF_SERIAL_SESSION, nullptr, nullptr, &session), CKR_OK);
    std::string wrong = "0000-000";
    CK_RV rv = CKR_OK;
    for (int attempt = 0; attempt < 20 && rv != CKR_PIN_LOCKED; ++attempt) {
      rv = api.C_Login(session, CKU_USER, reinterpret_cast<CK_UTF8CHAR*>(wrong.data()), wrong.size());
    }
    ASSERT_EQ(rv, CKR_PIN_LOCKED);
  }
  const Status locked = Token::Open(server_->uri()).status();
  EXPECT_EQ(ReasonOf(locked), Reason::kHsmPinLocked) << Describe(locked);
  EXPECT_NE(MessageOf(locked).find("token 'ock'"), std::string::npos);
}

}  // namespace
}  // namespace sealift::hsm
