// The conformance suite every Signer passes, on each way to a token.
#include "tests/contract/signer_contract.h"

#include <functional>
#include <utility>

#include "hsm/token_signer.h"
#include "tests/integration/hsm/opencryptoki.h"
#include "tests/integration/hsm/p11_kit_server.h"
#include "tests/integration/hsm/softhsm_fixture.h"

namespace sealift::hsm {
namespace {

struct ContractToken {
  TempDir folder = TempDir::Create("contract").value();
  std::unique_ptr<P11KitServer> server;
  std::unique_ptr<Opencryptoki> opencryptoki;
  std::shared_ptr<Token> token;
};

// Holds the newest one: a store is given up before the next test opens its own, and the last one in TearDown,
// while SoftHSM still lives. Its exit handlers run before the destructors of our statics would.
class ContractTokens : public ::testing::Environment {
 public:
  void TearDown() override { current.reset(); }
  std::unique_ptr<ContractToken> current;
};

ContractTokens& TheContractTokens() {
  static auto* const tokens = new ContractTokens;  // gtest owns it
  return *tokens;
}
const auto* const kRegistered = ::testing::AddGlobalTestEnvironment(&TheContractTokens());

enum class Way { kDirect, kP11KitServer, kOpencryptoki };

std::shared_ptr<Signer> ContractSigner(Way way, KeyAlgorithm algorithm) {
  if (way == Way::kOpencryptoki ? !HasOpencryptoki() : !HasSoftHsm()) return nullptr;
  auto& current = TheContractTokens().current;
  current.reset();
  current = std::make_unique<ContractToken>();
  if (way == Way::kOpencryptoki) {
    current->opencryptoki = std::make_unique<Opencryptoki>(current->folder.path());
    current->token = Token::Open(current->opencryptoki->uri(), {.max_sessions = 2}).value();
    const auto key = current->token->keys().Generate(algorithm, KeyUse::kSign, "contract").value();
    return TokenSigner::Open(current->token, key.key_id()).value();
  }
  const auto pin = current->folder.path() / "pin";
  EXPECT_TRUE(WriteFileAtomically(pin, AsBytes(kPin), 0600).ok());
  const auto store = current->folder.path() / "store";
  TokenUri uri = CreateSoftHsmToken({.store = store, .label = "contract", .pin_file = pin}).value();
  if (way == Way::kP11KitServer) {
    current->server = P11KitServer::ForSoftHsm(current->folder.path(), store);
    uri = P11KitServer::Remote(uri);
  }
  current->token = Token::Open(uri, {.max_sessions = 2}).value();
  const auto key = current->token->keys().Generate(algorithm, KeyUse::kSign, "contract").value();
  return TokenSigner::Open(current->token, key.key_id()).value();
}

SignerFactory Factory(const std::string& name, Way way, KeyAlgorithm algorithm) {
  return {name, [=] { return ContractSigner(way, algorithm); }};
}

}  // namespace
}  // namespace sealift::hsm

namespace sealift {
namespace {
using hsm::Factory;
using hsm::KeyAlgorithm;
using hsm::Way;
INSTANTIATE_TEST_SUITE_P(
    Token, SignerContract,
    ::testing::Values(Factory("SoftHsmRsa", Way::kDirect, KeyAlgorithm::kRsa2048),
                      Factory("SoftHsmP256", Way::kDirect, KeyAlgorithm::kEcP256),
                      Factory("SoftHsmRsa4096", Way::kDirect, KeyAlgorithm::kRsa4096),
                      Factory("SoftHsmP384", Way::kDirect, KeyAlgorithm::kEcP384),
                      Factory("P11KitServerRsa", Way::kP11KitServer, KeyAlgorithm::kRsa2048),
                      Factory("OpencryptokiRsa", Way::kOpencryptoki, KeyAlgorithm::kRsa2048),
                      Factory("P11KitServerP256", Way::kP11KitServer, KeyAlgorithm::kEcP256)),
    SignerFactoryName);
}  // namespace
}  // namespace sealift
