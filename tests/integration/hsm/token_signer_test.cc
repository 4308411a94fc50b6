#include "hsm/token_signer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>
#include <vector>

#include "hsm/key_ring.h"
#include "hsm/pin.h"
#include "shared/crypto/certificate.h"
#include "shared/crypto/hash.h"
#include "tests/integration/hsm/softhsm_fixture.h"

namespace sealift::hsm {
namespace {

class TokenSignerTest : public SoftHsmTest {
 protected:
  void SetUp() override {
    SoftHsmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    uri_ = MakeToken("signer-token");
    auto token = Token::Open(uri_, {.max_sessions = 2});
    ASSERT_TRUE(token.ok()) << Describe(token.status());
    token_ = *std::move(token);
  }
  std::shared_ptr<TokenSigner> NewSigner(const std::string& label,
                                         KeyAlgorithm algorithm = KeyAlgorithm::kEcP256) {
    const auto key = token_->keys().Generate(algorithm, KeyUse::kSign, label).value();
    return TokenSigner::Open(token_, key.key_id()).value();
  }
  TokenUri uri_;
  std::shared_ptr<Token> token_;
};

TEST_F(TokenSignerTest, SurvivesLosingEverySession) {
  const auto signer = NewSigner("lost");
  ASSERT_TRUE(signer->SignMessage(AsBytes("a"), "test").ok());
  ASSERT_EQ(token_->pool()->api().C_CloseAllSessions(token_->pool()->slot()), CKR_OK);
  const auto again = signer->SignMessage(AsBytes("b"), "test");
  EXPECT_TRUE(again.ok()) << Describe(again.status());
}

TEST_F(TokenSignerTest, SurvivesBeingLoggedOut) {
  const auto signer = NewSigner("logout");
  ASSERT_TRUE(signer->SignMessage(AsBytes("a"), "test").ok());
  {
    const auto lease = token_->pool()->Acquire();
    ASSERT_TRUE(lease.ok());
    ASSERT_EQ(token_->pool()->api().C_Logout(lease->handle()), CKR_OK);
  }
  const auto again = signer->SignMessage(AsBytes("b"), "test");
  EXPECT_TRUE(again.ok()) << Describe(again.status());
}

TEST_F(TokenSignerTest, ManyThreadsRecoverTogether) {
  const auto signer = NewSigner("storm");
  for (int round = 0; round < 3; ++round) {
    // Between operations: SoftHSM 2.6.1 frees keys that another thread is signing with, and crashes.
    ASSERT_EQ(token_->pool()->api().C_CloseAllSessions(token_->pool()->slot()), CKR_OK);
    std::atomic<int> good{0};
    {
      std::vector<std::jthread> threads;
      for (int i = 0; i < 8; ++i) {
        threads.emplace_back([&] {
          for (int n = 0; n < 8; ++n) {
            if (signer->SignMessage(AsBytes(std::to_string(n)), "test").ok()) ++good;
          }
        });
      }
    }
    EXPECT_EQ(good, 64) << "round " << round;
  }
}

TEST_F(TokenSignerTest, PoolIsBoundedAndSaysWhenItIsBusy) {
  const auto lone = Token::Open(uri_).value();
  EXPECT_EQ(lone, token_);
  auto pool = SessionPool::Open(Module::Load(uri_).value(), token_->pool()->slot(), ReadPin(uri_).value(),
                                {.max_sessions = 1, .acquire_timeout = std::chrono::milliseconds(1)});
  ASSERT_TRUE(pool.ok()) << Describe(pool.status());
  auto first = (*pool)->Acquire();
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(ReasonOf((*pool)->Acquire().status()), Reason::kHsmBusy);
  { const auto release = std::move(first).value(); }
  EXPECT_TRUE((*pool)->Acquire().ok());
}

TEST_F(TokenSignerTest, SignsCertificatesAndResolvesReferences) {
  const auto ca = NewSigner("ca");
  const auto leaf = NewSigner("leaf");
  const UnixMillis now = SystemClock().Now();
  const auto ca_certificate = IssueSelfSigned(
      {.common_name = "ca", .ca = true, .not_before = now, .not_after = now + std::chrono::hours(1)}, ca,
      "test");
  ASSERT_TRUE(ca_certificate.ok()) << Describe(ca_certificate.status());
  const auto certificate = IssueCertificate({.common_name = "leaf",
                                             .server_auth = true,
                                             .not_before = now,
                                             .not_after = now + std::chrono::hours(1)},
                                            leaf->public_key(), ca, *ca_certificate, "test");
  ASSERT_TRUE(certificate.ok()) << Describe(certificate.status());
  EXPECT_TRUE(VerifyChain(*certificate, {}, {*ca_certificate}, now + std::chrono::minutes(1),
                          CertificatePurpose::kServer)
                  .ok());
  RegisterPkcs11Resolver();
  const TokenUri reference = KeyUri(token_->uri(), leaf->public_key().key_id());
  EXPECT_EQ(reference.Text().find("pin"), std::string::npos);
  const auto key = LoadKeyReference(KeyReferencePem(reference.Text()));
  ASSERT_TRUE(key.ok()) << Describe(key.status());
  EXPECT_EQ(X509_check_private_key(certificate->x509(), key->get()), 1);
  TokenUri nobody = reference;
  nobody.id.back() ^= 1;
  EXPECT_EQ(ReasonOf(LoadKeyReference(KeyReferencePem(nobody.Text())).status()), Reason::kHsmKeyMissing);
  RegisterPkcs11Resolver();  // forgets the signers, which would keep this store open
}

TEST_F(TokenSignerTest, PinIsNowhereToBeSeen) {
  const auto signer = NewSigner("quiet");
  ASSERT_TRUE(signer->SignMessage(AsBytes("a"), "test").ok());
  for (const char* path : {"/proc/self/cmdline", "/proc/self/environ"}) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream content;
    content << file.rdbuf();
    EXPECT_EQ(content.str().find(kPin), std::string::npos) << path;
  }
  EXPECT_EQ(std::getenv("SOFTHSM2_CONF"), nullptr);
  EXPECT_EQ(token_->uri().Text().find("pin"), std::string::npos);
}

// --- a wrong PIN

CK_RV last_login_rv = CKR_OK;
int logins = 0;
CK_C_Login real_login = nullptr;
CK_RV CountingLogin(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR* pin, CK_ULONG size) {
  ++logins;
  last_login_rv = real_login(session, user, pin, size);
  return last_login_rv;
}

TEST_F(SoftHsmTest, AWrongPinIsReportedOnceAndNeverTriedAgain) {
  const TokenUri uri = MakeToken("wrong-pin");
  const std::string wrong = PinFile("other", "not-the-pin");
  // Watches the real function of the real module: p11-kit's table is writable.
  const auto module = Module::Load(uri).value();
  CK_FUNCTION_LIST& api = module->api();
  real_login = api.C_Login;
  api.C_Login = CountingLogin;
  logins = 0;
  TokenUri bad = uri;
  bad.pin_file = wrong;
  const Status first = Token::Open(bad).status();
  EXPECT_EQ(ReasonOf(first), Reason::kHsmPinIncorrect);
  EXPECT_NE(MessageOf(first).find("wrong-pin"), std::string::npos);
  EXPECT_NE(MessageOf(first).find("C_Login: CKR_PIN_INCORRECT"), std::string::npos);
  EXPECT_EQ(MessageOf(first).find("not-the-pin"), std::string::npos);
  EXPECT_EQ(logins, 1);
  EXPECT_EQ(last_login_rv, CKR_PIN_INCORRECT);
  const Status second = Token::Open(bad).status();
  EXPECT_EQ(Describe(second), Describe(first));
  EXPECT_EQ(logins, 1);
  api.C_Login = real_login;
  // The token is as it was: another program still gets in with the right PIN.
  const auto listing = Pkcs11Tool({"--token-label", "wrong-pin", "--login", "--pin", kPin, "--list-objects"});
  EXPECT_EQ(listing.exit_code, 0) << listing.err;
}

// --- tokens and stores

TEST_F(SoftHsmTest, UriWorksFromAnyFolderWithAnEmptyEnvironment) {
  const TokenUri uri = MakeToken("anywhere");
  EXPECT_TRUE(uri.pin_file.starts_with('/'));
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path("/");
  const auto token = Token::Open(TokenUri::Parse(uri.Text()).value());
  std::filesystem::current_path(before);
  ASSERT_TRUE(token.ok()) << Describe(token.status());
  EXPECT_EQ((*token)->label(), "anywhere");
}

TEST_F(SoftHsmTest, SaysWhatIsMissing) {
  const TokenUri uri = MakeToken("present");
  TokenUri other = uri;
  other.token = "absent";
  const Status absent = Token::Open(other).status();
  EXPECT_EQ(ReasonOf(absent), Reason::kHsmTokenMissing);
  EXPECT_NE(MessageOf(absent).find("'absent'"), std::string::npos);
  TokenUri elsewhere = uri;
  elsewhere.softhsm_store = folder_.path() / "nowhere";
  EXPECT_EQ(ReasonOf(Token::Open(elsewhere).status()), Reason::kHsmTokenMissing);
  TokenUri no_module = uri;
  no_module.module_path = "/usr/lib/no-such-module.so";
  EXPECT_EQ(ReasonOf(Token::Open(no_module).status()), Reason::kHsmModuleUnusable);
  EXPECT_EQ(
      ReasonOf(CreateSoftHsmToken({.store = store(), .label = "present", .pin_file = uri.pin_file}).status()),
      Reason::kHsmTokenExists);
  EXPECT_FALSE(CreateSoftHsmToken({.store = store(), .label = "a b", .pin_file = uri.pin_file}).ok());
}

TEST_F(SoftHsmTest, OneProgramUsesOneStoreAtATime) {
  const auto token = Token::Open(MakeToken("first")).value();
  const auto second =
      CreateSoftHsmToken({.store = folder_.path() / "second", .label = "x", .pin_file = PinFile("x")});
  EXPECT_EQ(ReasonOf(second.status()), Reason::kHsmModuleUnusable);
  EXPECT_NE(MessageOf(second.status()).find("one --store"), std::string::npos);
}

}  // namespace
}  // namespace sealift::hsm
