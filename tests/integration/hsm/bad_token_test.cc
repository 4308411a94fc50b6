// Tokens that are not as they should be, and ceremonies that fail midway: one clear error each, and nothing
// in the way of the next try.
#include <gtest/gtest.h>

#include <algorithm>

#include "hsm/ceremony.h"
#include "hsm/key_ring.h"
#include "hsm/objects.h"
#include "hsm/token_signer.h"
#include "tests/integration/hsm/softhsm_fixture.h"
#include "tests/support/tools.h"

namespace sealift::hsm {
namespace {

class BadTokenTest : public SoftHsmTest {
 protected:
  std::map<Group, std::shared_ptr<Token>> OpenAll() {
    std::map<Group, std::shared_ptr<Token>> tokens;
    for (const auto& [group, uri] : uris_) tokens[group] = Token::Open(uri).value();
    return tokens;
  }
  void MakeAll() {
    for (const Group group : AllGroups()) {
      uris_[group] = MakeToken("demo-" + std::string(GroupName(group)));
    }
  }
  Result<Inventory> Init(std::map<Group, std::shared_ptr<Token>> tokens) {
    return InitialiseKeySet({.set = "demo",
                             .folder = folder_.path() / "keys",
                             .tokens = std::move(tokens),
                             .controller_names = {"DNS:controller.lab"},
                             .now = SystemClock().Now()},
                            [](const std::string& /*line*/) {});
  }
  std::map<Group, TokenUri> uris_;
};

TEST_F(BadTokenTest, TwoTokensOfOneLabelAreToldApartBySerialNumber) {
  SEALIFT_NEED_TOOL("softhsm2-util");
  TokenUri uri = MakeToken("twin");
  const auto made = RunCommand({.argv = {"softhsm2-util", "--init-token", "--free", "--label", "twin",
                                         "--pin", kPin, "--so-pin", "87654321"},
                                .environment = {{"SOFTHSM2_CONF", SoftHsmConfig(store()).string()}}});
  ASSERT_TRUE(made.ok() && made->exit_code == 0) << made->err;
  const Status both = Token::Open(uri).status();
  EXPECT_EQ(ReasonOf(both), Reason::kHsmTokenAmbiguous) << Describe(both);
  std::vector<std::string> serials;
  {
    const auto module = Module::Load(uri).value();
    const auto slots = module->Slots(true).value();
    for (const CK_SLOT_ID slot : slots) {
      CK_TOKEN_INFO info{};
      ASSERT_EQ(module->api().C_GetTokenInfo(slot, &info), CKR_OK);
      if ((info.flags & CKF_TOKEN_INITIALIZED) != 0)
        serials.push_back(PaddedText(info.serialNumber, sizeof(info.serialNumber)));
    }
  }
  ASSERT_EQ(serials.size(), 2u);
  for (const std::string& serial : serials) {
    EXPECT_NE(MessageOf(both).find(serial), std::string::npos) << MessageOf(both);
    uri.serial = serial;
    const auto token = Token::Open(TokenUri::Parse(uri.Text()).value());
    ASSERT_TRUE(token.ok()) << Describe(token.status());
    EXPECT_EQ((*token)->pool()->token_serial(), serial);
  }
}

TEST_F(BadTokenTest, AModuleIsFoundByItsNameInP11KitsConfiguration) {
  TokenUri uri = MakeToken("by-name");
  uri.module_name = "softhsm2";
  const auto token = Token::Open(TokenUri::Parse(uri.Text()).value());
  ASSERT_TRUE(token.ok()) << Describe(token.status());
  const auto key = (*token)->keys().Generate(KeyAlgorithm::kEcP256, KeyUse::kSign, "k");
  ASSERT_TRUE(key.ok()) << Describe(key.status());
  uri.module_name = "no-such-module";
  const Status unknown = Token::Open(uri).status();
  EXPECT_EQ(ReasonOf(unknown), Reason::kHsmModuleUnusable);
  EXPECT_NE(MessageOf(unknown).find("'no-such-module'"), std::string::npos);
}

TEST_F(BadTokenTest, APrivateKeyUnderAnotherKeysIdSignsNothingThatLeaves) {
  const auto token = Token::Open(MakeToken("planted")).value();
  const auto in_place = KeyStore::Placement::kInPlace;
  const auto ours = token->keys().Generate(KeyAlgorithm::kEcP256, KeyUse::kSign, "a", in_place).value();
  const auto theirs = token->keys().Generate(KeyAlgorithm::kEcP256, KeyUse::kSign, "b", in_place).value();
  {
    const auto lease = token->pool()->AcquireReadWrite();
    ASSERT_TRUE(lease.ok());
    const TokenView view{&token->pool()->api(), lease->handle(), "test"};
    const auto rename = [&](const Sha256Digest& from, ByteView to) {
      Template changes;
      changes.Data(CKA_ID, to);
      const auto object = FindKey(view, CKO_PRIVATE_KEY, from.view()).value();
      return view.api->C_SetAttributeValue(view.session, object, changes.data(), changes.size());
    };
    ASSERT_EQ(rename(ours.key_id(), AsBytes("away")), CKR_OK);
    ASSERT_EQ(rename(theirs.key_id(), ours.key_id().view()), CKR_OK);
  }
  const auto signer = TokenSigner::Open(token, ours.key_id());
  ASSERT_TRUE(signer.ok()) << Describe(signer.status());
  EXPECT_EQ(ReasonOf((*signer)->SignMessage(AsBytes("x"), "test").status()), Reason::kKeyMismatch);
}

// --- a ceremony that fails midway

CK_C_GenerateKeyPair real_generate = nullptr;
int room = 0;
CK_RV GenerateWhileThereIsRoom(CK_SESSION_HANDLE session, CK_MECHANISM* mechanism,
                               CK_ATTRIBUTE* public_template, CK_ULONG public_size,
                               CK_ATTRIBUTE* private_template, CK_ULONG private_size,
                               CK_OBJECT_HANDLE* public_key, CK_OBJECT_HANDLE* private_key) {
  if (room-- <= 0) return CKR_DEVICE_MEMORY;
  return real_generate(session, mechanism, public_template, public_size, private_template, private_size,
                       public_key, private_key);
}

TEST_F(BadTokenTest, ACeremonyThatFailedInTheThirdTokenIsRunAgain) {
  MakeAll();
  auto tokens = OpenAll();
  CK_FUNCTION_LIST& api = tokens.at(Group::kOnline)->pool()->api();
  real_generate = api.C_GenerateKeyPair;
  api.C_GenerateKeyPair = GenerateWhileThereIsRoom;
  // Twice, so that what an unfinished run took over is not lost by the next failure.
  std::vector<StoredKey> left;
  for (const int calls : {10, 1}) {
    room = calls;
    const Status full = Init(tokens).status();
    EXPECT_EQ(ReasonOf(full), Reason::kHsmTokenFull) << Describe(full);
    EXPECT_NE(MessageOf(full).find("takes them over"), std::string::npos) << MessageOf(full);
    EXPECT_FALSE(std::filesystem::exists(folder_.path() / "keys"));
    left = tokens.at(Group::kRoot)->keys().List().value();
    EXPECT_EQ(left.size(), 4u);
  }
  api.C_GenerateKeyPair = real_generate;
  const auto made = Init(tokens);
  ASSERT_TRUE(made.ok()) << Describe(made.status());
  for (const StoredKey& key : left) {
    const bool taken_over = std::any_of(made->keys.begin(), made->keys.end(), [&](const InventoryKey& one) {
      return one.label == key.label && ToBytes(one.key_id.view()) == key.id && one.born_in_token;
    });
    EXPECT_TRUE(taken_over) << key.label;
  }
  EXPECT_EQ(tokens.at(Group::kOnline)->keys().List()->size(), 7u);
  // A finished set is nobody's to take over.
  std::filesystem::rename(folder_.path() / "keys", folder_.path() / "elsewhere");
  EXPECT_EQ(ReasonOf(Init(tokens).status()), Reason::kHsmKeyExists);
}

TEST_F(BadTokenTest, KeysThatMayBeDestroyedAreGoneAfterAFailure) {
  MakeAll();
  auto tokens = OpenAll();
  KeyStore& keys = tokens.at(Group::kRelease)->keys();
  const auto key =
      keys.Generate(KeyAlgorithm::kEcP256, KeyUse::kSign, "k", KeyStore::Placement::kInPlace).value();
  EXPECT_TRUE(keys.Destroy(key.key_id()).value());
  EXPECT_EQ(ReasonOf(keys.ReadPublicHalf(key.key_id()).status()), Reason::kHsmKeyMissing);
  EXPECT_TRUE(keys.List()->empty());
  const auto kept =
      keys.Generate(KeyAlgorithm::kEcP256, KeyUse::kSign, "k", KeyStore::Placement::kCopy).value();
  EXPECT_FALSE(keys.Destroy(kept.key_id()).value());
  EXPECT_TRUE(keys.ReadPublicHalf(kept.key_id()).ok());
}

}  // namespace
}  // namespace sealift::hsm
