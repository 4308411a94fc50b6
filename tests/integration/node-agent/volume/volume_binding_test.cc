// To which software a volume stays bound, over years of images and keys.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "node-agent/volume/luks_header.h"
#include "node-agent/volume/volume_keeper.h"
#include "node-agent/volume/volume_token.h"
#include "tests/integration/node-agent/volume/volume_machine.h"

namespace sealift::agent {
namespace {

using ::testing::HasSubstr;

class VolumeBindingTest : public test::VolumeMachine {};

// One release that lets go of PCR 7 is no reason to open for everybody from then on.
TEST_F(VolumeBindingTest, AnImageThatLetsGoOfPcr7WeakensNoDiskThatHasIt) {
  const MadeVolume made = Make();
  const auto next = SoftwareSigner::Generate(KeyType::kRsa).value();
  RunningImage lax = Image();
  lax.bind_secure_boot = false;
  lax.accepted_keys = {key_->public_key(), next->public_key()};
  const auto volume = keeper_->Unseal(made.facts.device, "persistent", lax);
  ASSERT_TRUE(volume.ok()) << Describe(volume.status());
  EXPECT_EQ(keeper_->AddBindings(*volume, lax).value(), 1u);
  const auto header = keeper_->ReadHeader(made.facts.device, "persistent").value();
  ASSERT_EQ(header.bindings.size(), 2u);
  for (const VolumeBound& bound : header.bindings) EXPECT_TRUE(bound.secure_boot.has_value());
  Boot('o', 'i');
  lax.signatures = Image().signatures;
  EXPECT_FALSE(keeper_->Unseal(made.facts.device, "persistent", lax).ok());
}

// As an earlier version of the agent left disks.
TEST_F(VolumeBindingTest, TokensWithoutPcr7GoWhenTheImageDemandsIt) {
  const MadeVolume made = Make();
  const RunningImage image = Image();
  const auto volume = keeper_->Unseal(made.facts.device, "persistent", image);
  {
    auto header = LuksHeader::Load(made.facts.device).value();
    auto token = ParseSealedToken(header.Tokens(kSealedTokenType).front().json).value();
    token.policy.literal.clear();
    ASSERT_TRUE(header.SetToken(-1, FormatSealedToken(token)).ok());
  }
  EXPECT_EQ(keeper_->RemoveForeignTokens(*volume, image).value(), 1u);
  const auto header = keeper_->ReadHeader(made.facts.device, "persistent").value();
  ASSERT_EQ(header.bindings.size(), 1u);
  EXPECT_TRUE(header.bindings.front().secure_boot.has_value());
  EXPECT_TRUE(UnsealAndOpen(made.facts.device, "persistent").ok());
}

// Five tokens fit: those of keys that are no longer named make room, and without any the caller hears of it.
TEST_F(VolumeBindingTest, KeyRotationGoesOnWhenTheHeaderIsFull) {
  const MadeVolume made = Make();
  std::vector<std::unique_ptr<SoftwareSigner>> keys;
  RunningImage image = Image();
  image.accepted_keys = {key_->public_key()};
  const auto name_another = [&] {
    keys.push_back(SoftwareSigner::Generate(KeyType::kRsa).value());
    image.accepted_keys.push_back(keys.back()->public_key());
  };
  for (int i = 0; i < 4; ++i) name_another();
  const auto volume = keeper_->Unseal(made.facts.device, "persistent", image);
  EXPECT_EQ(keeper_->AddBindings(*volume, image).value(), 4u);
  name_another();
  const auto full = keeper_->AddBindings(*volume, image);
  EXPECT_THAT(MessageOf(full.status()), HasSubstr("no room"));
  const PublicKey retired = image.accepted_keys[1];
  image.accepted_keys.erase(image.accepted_keys.begin() + 1);
  EXPECT_EQ(keeper_->AddBindings(*volume, image).value(), 1u);
  const auto header = keeper_->ReadHeader(made.facts.device, "persistent").value();
  EXPECT_EQ(header.bindings.size(), 5u);
  for (const VolumeBound& bound : header.bindings) EXPECT_FALSE(bound.policy_key == retired);
  EXPECT_TRUE(UnsealAndOpen(made.facts.device, "persistent").ok());
}

}  // namespace
}  // namespace sealift::agent
