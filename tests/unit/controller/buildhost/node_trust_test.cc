#include "controller/buildhost/node_trust.h"

#include <gtest/gtest.h>

#include "shared/base/config.h"
#include "shared/base/files.h"
#include "shared/crypto/signer.h"

namespace sealift::controller {
namespace {

// A key set as keys init leaves it, of these roles; no token is at hand.
class NodeTrustTest : public testing::Test {
 protected:
  void AddKey(const std::string& role, hsm::Group group, std::uint32_t generation) {
    const PublicKey key = SoftwareSigner::Generate(KeyType::kEcP256).value()->public_key();
    const std::string name = role + "-" + std::to_string(generation);
    pems_[name] = key.Pem();
    inventory_.keys.push_back({.role = role,
                               .group = group,
                               .generation = generation,
                               .key_id = key.key_id(),
                               .label = hsm::KeyLabel("lab", role, generation),
                               .token_uri = "pkcs11:token=lab"});
    ASSERT_TRUE(MakeDirectories(folder_.path() / "public", 0755).ok());
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / "public" / (name + ".pem"), AsBytes(key.Pem())).ok());
    ASSERT_TRUE(
        WriteFileAtomically(folder_.path() / hsm::kInventoryFile, AsBytes(inventory_.Serialize())).ok());
  }
  // What the file is made into, read again.
  std::string With(const std::string& text) {
    const auto ring = hsm::KeyRing::Open(folder_.path(), {});
    if (!ring.ok()) return Describe(ring.status());
    const auto made = WithKeySetTrust(text, **ring);
    return made.ok() ? *made : Describe(made.status());
  }
  static std::string Value(const std::string& text, const char* path) {
    return ConfigReader::Parse(text, "node.toml").String(path, "none");
  }

  TempDir folder_ = *TempDir::Create("node-trust");
  hsm::Inventory inventory_{.set = "lab"};
  std::map<std::string, std::string> pems_;
};

TEST_F(NodeTrustTest, AddsTheNewestKeysOfTheSet) {
  AddKey("orders-root", hsm::Group::kRoot, 1);
  AddKey("escrow", hsm::Group::kCustody, 1);
  AddKey("escrow", hsm::Group::kCustody, 2);
  const std::string made = With("[node]\nlabels = { site = \"lab\" }");
  EXPECT_EQ(Value(made, "orders.root_pem"), pems_["orders-root-1"]);
  EXPECT_EQ(Value(made, "escrow.public_pem"), pems_["escrow-2"]);
  EXPECT_TRUE(made.starts_with("[node]\nlabels = { site = \"lab\" }\n"));
}

TEST_F(NodeTrustTest, LeavesTheFilesOwnWord) {
  AddKey("orders-root", hsm::Group::kRoot, 1);
  AddKey("escrow", hsm::Group::kCustody, 1);
  const std::string own = "[orders]\nroot_pem = \"own\"\n[escrow]\noaep = \"sha256\"\n";
  EXPECT_EQ(With(own), own);
  const std::string dotted = "orders.root_pem = \"own\"\nescrow.public_pem = \"own, too\"\n";
  EXPECT_EQ(With(dotted), dotted);
}

TEST_F(NodeTrustTest, AddsNothingThatTheSetHasNot) {
  AddKey("orders-root", hsm::Group::kRoot, 1);
  EXPECT_EQ(Value(With(""), "escrow.public_pem"), "none");
}

}  // namespace
}  // namespace sealift::controller
