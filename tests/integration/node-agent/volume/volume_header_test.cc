// Headers and tokens that whoever holds the disk has written: what they say counts for nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "node-agent/volume/luks_header.h"
#include "node-agent/volume/volume_keeper.h"
#include "node-agent/volume/volume_token.h"
#include "shared/crypto/hash.h"
#include "shared/escrow/recovery_key.h"
#include "tests/integration/node-agent/volume/header_edits.h"
#include "tests/integration/node-agent/volume/volume_machine.h"

namespace sealift::agent {
namespace {

using test::EditMetadata;
using test::EditUuid;
using test::ReasonIdFrom;

class VolumeHeaderTest : public test::VolumeMachine {};

TEST_F(VolumeHeaderTest, RefusesAHeaderThatWouldMapPlaintext) {
  const MadeVolume made = Make();
  const auto backup = folder_.path() / "backup";
  std::filesystem::copy_file(made.facts.device, backup);
  const auto with = [&](const std::function<void(nlohmann::ordered_json&)>& edit) {
    std::filesystem::copy_file(backup, made.facts.device, std::filesystem::copy_options::overwrite_existing);
    EditMetadata(made.facts.device, edit);
    return UnsealAndOpen(made.facts.device, "persistent");
  };
  EXPECT_TRUE(with([](auto&) {}).ok());
  mapper_.mapped.clear();
  // A cipher that encrypts nothing.
  EXPECT_EQ(ReasonIdFrom(with([](auto& json) { json["segments"]["0"]["encryption"] = "cipher_null-ecb"; })),
            "VOLUME_NOT_ENCRYPTED");
  EXPECT_EQ(ReasonIdFrom(with([](auto& json) { json["segments"]["0"]["encryption"] = "aes-ecb"; })),
            "VOLUME_NOT_ENCRYPTED");
  // A second segment in clear, as in a decryption under way.
  EXPECT_EQ(ReasonIdFrom(with([](auto& json) {
              json["segments"]["0"]["size"] = "1048576";
              json["segments"]["1"] = {{"type", "linear"}, {"offset", "17825792"}, {"size", "dynamic"}};
            })),
            "VOLUME_NOT_ENCRYPTED");
  EXPECT_EQ(ReasonIdFrom(with([](auto& json) {
              json["segments"]["0"] = {{"type", "linear"}, {"offset", "16777216"}, {"size", "dynamic"}};
              json["digests"]["0"]["segments"] = nlohmann::ordered_json::array();
            })),
            "VOLUME_NOT_ENCRYPTED");
  // Another place of the data: the ciphertext of our own file system, moved.
  EXPECT_EQ(ReasonIdFrom(with([](auto& json) { json["segments"]["0"]["iv_tweak"] = "8"; })),
            "VOLUME_NOT_ENCRYPTED");
  EXPECT_EQ(ReasonIdFrom(with([](auto& json) {
              json["config"]["requirements"]["mandatory"] =
                  nlohmann::ordered_json::array({"online-reencrypt-v2"});
            })),
            "VOLUME_DAMAGED");
  EXPECT_TRUE(mapper_.mapped.empty());
}

// A slot whose area is in a null cipher opens with any passphrase, also with a recovery key that somebody
// types; rounds of its PBKDF2 are computed by the early boot.
TEST_F(VolumeHeaderTest, RefusesSlotsThatAreNotAsWeMakeThem) {
  const MadeVolume made = Make();
  const auto backup = folder_.path() / "backup";
  std::filesystem::copy_file(made.facts.device, backup);
  const auto with = [&](const std::function<void(nlohmann::ordered_json&)>& edit) {
    std::filesystem::copy_file(backup, made.facts.device, std::filesystem::copy_options::overwrite_existing);
    EditMetadata(made.facts.device, edit);
    mapper_.mapped.clear();
    return keeper_->OpenByRecoveryKey(made.facts.device, "persistent", escrow::MakeRecoveryKey());
  };
  EXPECT_EQ(ReasonIdFrom(with([](auto&) {})), "RECOVERY_KEY_WRONG");
  const std::map<std::string, std::function<void(nlohmann::ordered_json&)>> edits = {
      {"null cipher", [](auto& json) { json["keyslots"]["1"]["area"]["encryption"] = "cipher_null-ecb"; }},
      {"weak cipher", [](auto& json) { json["keyslots"]["0"]["area"]["encryption"] = "aes-ecb"; }},
      {"short area key", [](auto& json) { json["keyslots"]["1"]["area"]["key_size"] = 32; }},
      {"other hash", [](auto& json) { json["keyslots"]["1"]["kdf"]["hash"] = "sha1"; }},
      {"long computing", [](auto& json) { json["keyslots"]["1"]["kdf"]["iterations"] = 2'000'000'000; }},
      {"other function",
       [](auto& json) {
         json["keyslots"]["1"]["kdf"] = {{"type", "argon2id"},
                                         {"time", 4},
                                         {"memory", 1048576},
                                         {"cpus", 1},
                                         {"salt", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}};
       }},
      {"long digest", [](auto& json) { json["digests"]["0"]["iterations"] = 2'000'000'000; }},
  };
  for (const auto& [what, edit] : edits) {
    const auto opened = with(edit);
    EXPECT_EQ(ReasonIdFrom(opened), "VOLUME_NOT_ENCRYPTED") << what << Describe(opened.status());
  }
}

// The UUID is not covered by what the library checks, and goes into messages, JSON and the escrow's subject.
TEST_F(VolumeHeaderTest, RefusesAUuidThatIsNone) {
  const MadeVolume made = Make();
  for (const std::string_view uuid : {"\xff\xfe", "not-a-uuid", "../../../../etc", ""}) {
    EditUuid(made.facts.device, uuid);
    const auto header = keeper_->ReadHeader(made.facts.device, "persistent");
    EXPECT_EQ(ReasonIdFrom(header), "VOLUME_FOREIGN") << uuid.size();
  }
  EditUuid(made.facts.device, made.facts.luks_uuid);
  EXPECT_TRUE(UnsealAndOpen(made.facts.device, "persistent").ok());
}

// Whoever has the disk can write tokens; what they say reaches nobody.
TEST_F(VolumeHeaderTest, RecoveryTokensThatThisMachineDidNotWriteCountForNothing) {
  const MadeVolume made = Make();
  const auto recoveries = [&] {
    const auto volume = keeper_->Unseal(made.facts.device, "persistent", Image());
    return volume.ok() ? volume->header().recoveries : std::vector<escrow::EscrowedKey>();
  };
  ASSERT_EQ(recoveries(), std::vector{made.recovery});
  RecoveryToken genuine;
  {
    auto header = LuksHeader::Load(made.facts.device).value();
    genuine = ParseRecoveryToken(header.Tokens(kRecoveryTokenType).front().json).value();
    RecoveryToken forged = genuine;
    forged.escrowed.ciphertext[0] ^= 1;
    ASSERT_TRUE(header.SetToken(-1, FormatRecoveryToken(forged)).ok());
    forged = genuine;
    forged.escrowed.subject.ek_digest = Sha256(AsBytes("another machine"));
    ASSERT_TRUE(header.SetToken(-1, FormatRecoveryToken(forged)).ok());
    forged = genuine;
    forged.order = "order-9";
    ASSERT_TRUE(header.SetToken(-1, FormatRecoveryToken(forged)).ok());
    forged = genuine;
    forged.slot = 0;
    ASSERT_TRUE(header.SetToken(-1, FormatRecoveryToken(forged)).ok());
  }
  EXPECT_EQ(recoveries(), std::vector{made.recovery});
  const auto volume = keeper_->Unseal(made.facts.device, "persistent", Image());
  EXPECT_FALSE(volume->HasRecoveryFor("order-9"));
  EXPECT_EQ(keeper_->RemoveForeignTokens(*volume, Image()).value(), 4u);
  EXPECT_EQ(keeper_->ReadHeader(made.facts.device, "persistent")->recoveries, std::vector{made.recovery});
  // A token that was genuine, for a slot that holds another key since.
  const auto added = keeper_->AddRecovery(*volume, Options().escrow, "order-1").value();
  const std::uint32_t old_slot = made.recovery.subject.slot;
  ASSERT_TRUE(keeper_
                  ->DropRecovery(made.facts.device, {.luks_uuid = made.facts.luks_uuid,
                                                     .tpm = volume->slot(),
                                                     .recovery = added.subject.slot})
                  .ok());
  const auto again = keeper_->AddRecovery(*volume, Options().escrow, "order-2").value();
  ASSERT_EQ(again.subject.slot, old_slot);
  {
    auto header = LuksHeader::Load(made.facts.device).value();
    ASSERT_TRUE(header.SetToken(-1, FormatRecoveryToken(genuine)).ok());
  }
  EXPECT_EQ(recoveries(), (std::vector{again, added}));
}

// A token that calls the released recovery slot the TPM's must not save it.
TEST_F(VolumeHeaderTest, OldRecoverySlotsGoWhateverTokensSay) {
  const MadeVolume made = Make();
  const SecretBytes old_key = escrow::Open(made.recovery, escrow_key_).value();
  const auto volume = keeper_->Unseal(made.facts.device, "persistent", Image());
  const auto added = keeper_->AddRecovery(*volume, Options().escrow, "order-1").value();
  {
    auto header = LuksHeader::Load(made.facts.device).value();
    auto token = ParseSealedToken(header.Tokens(kSealedTokenType).front().json).value();
    token.slot = made.recovery.subject.slot;
    ASSERT_TRUE(header.SetToken(-1, FormatSealedToken(token)).ok());
  }
  ASSERT_TRUE(keeper_
                  ->DropRecovery(made.facts.device, {.luks_uuid = made.facts.luks_uuid,
                                                     .tpm = volume->slot(),
                                                     .recovery = added.subject.slot})
                  .ok());
  EXPECT_EQ(ReasonIdFrom(keeper_->OpenByRecoveryKey(made.facts.device, "persistent", old_key)),
            "RECOVERY_KEY_WRONG");
}

}  // namespace
}  // namespace sealift::agent
