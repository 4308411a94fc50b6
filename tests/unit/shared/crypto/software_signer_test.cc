#include "tests/contract/signer_contract.h"

namespace sealift {
namespace {

SignerFactory Software(const std::string& name, KeyType type) {
  return {name, [type] { return std::shared_ptr<Signer>(SoftwareSigner::Generate(type).value()); }};
}

INSTANTIATE_TEST_SUITE_P(Software, SignerContract,
                         ::testing::Values(Software("Rsa", KeyType::kRsa), Software("P256", KeyType::kEcP256),
                                           Software("P384", KeyType::kEcP384)),
                         SignerFactoryName);

}  // namespace
}  // namespace sealift
