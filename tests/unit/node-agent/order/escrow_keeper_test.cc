#include "node-agent/order/escrow_keeper.h"

#include <gtest/gtest.h>

#include "node-agent/order/epoch_book.h"
#include "node-agent/order/machine_report.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"

namespace sealift::agent {
namespace {

class ListedKeys final : public RecoveryKeys {
 public:
  Result<std::vector<escrow::EscrowedKey>> List() override {
    if (!problem.ok()) return problem;
    return keys;
  }
  Status DropOthers(const std::string& volume, std::uint32_t keep_slot) override {
    dropped.emplace_back(volume, keep_slot);
    return drop;
  }
  std::vector<escrow::EscrowedKey> keys;
  Status problem;
  Status drop;
  std::vector<std::pair<std::string, std::uint32_t>> dropped;
};

class EscrowKeeperTest : public testing::Test {
 protected:
  EscrowKeeperTest() { Start(); }
  void Start() {
    keeper_ = std::make_unique<EscrowKeeper>(
        EscrowKeeper::Places{.book = folder_.path() / kEscrowBookName,
                             .replace_mark = folder_.path() / "replace-recovery",
                             .mounted = [this] { return mounted_; }},
        keys_);
  }
  static escrow::EscrowedKey Key(const std::string& volume, std::uint32_t slot) {
    return {.subject = {.volume = volume, .luks_uuid = "uuid of " + volume, .slot = slot},
            .encrypted_key = {1},
            .nonce = Bytes(12, 2),
            .ciphertext = Bytes(20, static_cast<std::uint8_t>(slot))};
  }
  Status Step() {
    return keeper_->Step([this](const escrow::EscrowedKey& key) -> Result<Sha256Digest> {
      if (!refuse_.ok()) return refuse_;
      sent_.push_back(key);
      return Sha256(AsBytes(lie_ ? "another" : escrow::Format(key)));
    });
  }
  bool Marked() const { return std::filesystem::exists(folder_.path() / "replace-recovery"); }

  TempDir folder_ = TempDir::Create("escrow").value();
  bool mounted_ = true;
  bool lie_ = false;
  Status refuse_;
  ListedKeys keys_;
  std::vector<escrow::EscrowedKey> sent_;
  std::unique_ptr<EscrowKeeper> keeper_;
};

TEST_F(EscrowKeeperTest, EveryKeyIsBroughtOnce) {
  keys_.keys = {Key("oem", 1), Key("persistent", 1)};
  refuse_ = MakeError(Code::kUnavailable, Reason::kPeerUnreachable, "away");
  EXPECT_FALSE(Step().ok());
  EXPECT_FALSE(keeper_->settled());
  refuse_ = OkStatus();
  ASSERT_TRUE(Step().ok());
  EXPECT_TRUE(keeper_->settled());
  EXPECT_EQ(sent_.size(), 2u);
  Start();
  ASSERT_TRUE(Step().ok());
  EXPECT_EQ(sent_.size(), 2u) << "remembered";
  EXPECT_TRUE(keys_.dropped.empty());
}

TEST_F(EscrowKeeperTest, AnAcknowledgementOfSomethingElseIsNone) {
  keys_.keys = {Key("persistent", 1)};
  lie_ = true;
  EXPECT_EQ(ReasonOf(Step()), Reason::kEscrowMalformed);
  lie_ = false;
  ASSERT_TRUE(Step().ok());
  EXPECT_EQ(sent_.size(), 2u);
}

TEST_F(EscrowKeeperTest, MachinesWithoutVolumesHaveNothingToBring) {
  ASSERT_TRUE(Step().ok());
  EXPECT_TRUE(keeper_->settled());
  EXPECT_EQ(ReasonOf(keeper_->Replace("order").status()), Reason::kRecoveryKeyUnknown);
  EXPECT_EQ(ReasonOf(keeper_->HasReplaced().status()), Reason::kRecoveryKeyUnknown);
  mounted_ = false;
  EXPECT_EQ(ReasonOf(keeper_->Replace("order").status()), Reason::kStateMissing);
}

// That the list cannot be read is not that it is empty.
TEST_F(EscrowKeeperTest, AListThatCannotBeReadIsToldAndReadAgain) {
  keys_.problem = MakeError(Code::kFailedPrecondition, Reason::kEpochUnusable, "volumes.json: EIO");
  EXPECT_EQ(ReasonOf(Step()), Reason::kEpochUnusable);
  EXPECT_FALSE(keeper_->settled());
  EXPECT_EQ(ReasonOf(keeper_->Replace("order").status()), Reason::kEpochUnusable);
  keys_.problem = OkStatus();
  keys_.keys = {Key("persistent", 1)};
  ASSERT_TRUE(Step().ok());
  EXPECT_EQ(sent_.size(), 1u);
  EXPECT_TRUE(keeper_->settled());
}

TEST_F(EscrowKeeperTest, AKeyThatIsRefusedKeepsNoOtherWaiting) {
  keys_.keys = {Key("oem", 1), Key("persistent", 1)};
  const auto step = [&] {
    return keeper_->Step([this](const escrow::EscrowedKey& key) -> Result<Sha256Digest> {
      if (key.subject.volume == "oem")
        return MakeError(Code::kInvalidArgument, Reason::kEscrowMalformed, "not of this machine");
      sent_.push_back(key);
      return Sha256(AsBytes(escrow::Format(key)));
    });
  };
  EXPECT_EQ(ReasonOf(step()), Reason::kEscrowMalformed);
  EXPECT_EQ(sent_.size(), 1u);
  EXPECT_FALSE(keeper_->settled());
  EXPECT_FALSE(step().ok());
  EXPECT_EQ(sent_.size(), 1u);
}

// Order, next boot, acknowledgement, removal: never without a key that somebody can use.
TEST_F(EscrowKeeperTest, AnOldKeyGoesOnlyWhenTheNewOneIsAcknowledged) {
  keys_.keys = {Key("oem", 1), Key("persistent", 1)};
  ASSERT_TRUE(Step().ok());
  EXPECT_FALSE(keeper_->Replace("order").value());
  EXPECT_FALSE(keeper_->HasReplaced().value());
  EXPECT_TRUE(Marked());
  ASSERT_TRUE(Step().ok());
  EXPECT_TRUE(keys_.dropped.empty()) << "this boot has no new keys";
  EXPECT_FALSE(keeper_->Replace("order").value()) << "asked again";

  Start();
  keys_.keys = {Key("oem", 1), Key("oem", 2), Key("persistent", 1), Key("persistent", 2)};
  refuse_ = MakeError(Code::kUnavailable, Reason::kPeerUnreachable, "away");
  EXPECT_FALSE(Step().ok());
  EXPECT_TRUE(keys_.dropped.empty());
  refuse_ = OkStatus();
  keys_.drop = MakeError(Code::kUnavailable, Reason::kVolumeDamaged, "not now");
  EXPECT_FALSE(Step().ok());
  keys_.drop = OkStatus();
  keys_.dropped.clear();
  ASSERT_TRUE(Step().ok());
  EXPECT_EQ(keys_.dropped,
            (std::vector<std::pair<std::string, std::uint32_t>>{{"oem", 2}, {"persistent", 2}}));
  EXPECT_FALSE(Marked());
  EXPECT_TRUE(keeper_->settled());
  EXPECT_TRUE(keeper_->HasReplaced().value());
  EXPECT_TRUE(keeper_->Replace("order").value());
  // The next boot lists what is left; nothing is sent or removed again.
  Start();
  keys_.keys = {Key("oem", 2), Key("persistent", 2)};
  const std::size_t sent = sent_.size();
  ASSERT_TRUE(Step().ok());
  EXPECT_EQ(sent_.size(), sent);
  EXPECT_EQ(keys_.dropped.size(), 2u);
  EXPECT_TRUE(keeper_->Replace("order").value());
  EXPECT_FALSE(keeper_->Replace("another order").value());
}

TEST_F(EscrowKeeperTest, ADamagedBookBeginsAnew) {
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / kEscrowBookName, AsBytes("[{]")).ok());
  keys_.keys = {Key("persistent", 1)};
  ASSERT_TRUE(Step().ok());
  EXPECT_EQ(sent_.size(), 1u);
}

// --- the epochs of what may boot

class EpochBookTest : public testing::Test {
 protected:
  static BootInventory Inventory(const std::string& running) {
    BootInventory inventory{.running_role = BootRole::kActive,
                            .running_image_path = "/EFI/kairos/" + running};
    inventory.entries = {{.file_name = "active.conf",
                          .role = BootRole::kActive,
                          .version = "3",
                          .image_path = "/EFI/kairos/c.efi"},
                         {.file_name = "passive.conf",
                          .role = BootRole::kPassive,
                          .version = "2",
                          .image_path = "/EFI/kairos/b.efi"},
                         {.file_name = "recovery.conf",
                          .role = BootRole::kRecovery,
                          .version = "1",
                          .image_path = "/EFI/kairos/a.efi"}};
    return inventory;
  }
  TempDir folder_ = TempDir::Create("epochs").value();
  EpochBook Book() {
    return EpochBook(folder_.path() / kEpochBookName, [] { return true; });
  }
};

TEST_F(EpochBookTest, AnEpochIsRaisedOnlyWhenAllThatMayBootWasSeenToMeetIt) {
  ASSERT_TRUE(Book().Note(Inventory("b.efi"), 2).ok());
  EpochBook book = Book();
  ASSERT_TRUE(book.Note(Inventory("c.efi"), 2).ok());
  EXPECT_EQ(ReasonOf(book.CheckRaise(Inventory("c.efi"), 2)), Reason::kEpochTooLow) << "recovery is unknown";
  EXPECT_EQ(book.EpochOf(Inventory("c.efi"), BootRole::kPassive), 2u);
  EXPECT_EQ(book.EpochOf(Inventory("c.efi"), BootRole::kRecovery), 0u);
  ASSERT_TRUE(book.Note(Inventory("A.EFI"), 1).ok());
  EXPECT_EQ(ReasonOf(book.CheckRaise(Inventory("c.efi"), 2)), Reason::kEpochTooLow);
  ASSERT_TRUE(book.Note(Inventory("a.efi"), 2).ok());
  EXPECT_TRUE(book.CheckRaise(Inventory("c.efi"), 2).ok());
  EXPECT_EQ(ReasonOf(book.CheckRaise(Inventory("c.efi"), 3)), Reason::kEpochTooLow);
  BootInventory trial = Inventory("c.efi");
  trial.entries[0].tries_left = 3;
  EXPECT_EQ(ReasonOf(book.CheckRaise(trial, 2)), Reason::kBootNotBlessed);
  // What no entry names is forgotten.
  BootInventory fewer = Inventory("c.efi");
  fewer.entries.pop_back();
  ASSERT_TRUE(book.Note(fewer, 2).ok());
  EpochBook again = Book();
  ASSERT_TRUE(again.Note(fewer, 2).ok());
  EXPECT_EQ(again.EpochOf(Inventory("c.efi"), BootRole::kRecovery), 0u);
}

// --- what others left for the controller

TEST(MachineReportTest, ReadsWhatEarlyBootAndInstallerLeftAndForgivesTheRest) {
  const TempDir folder = TempDir::Create("report").value();
  const auto put = [&](const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomically(folder.path() / name, AsBytes(text)).ok());
  };
  EXPECT_TRUE(ReadVolumeReports(folder.path()).empty());
  put("volumes.json", R"({"volumes":[{"name":"oem","luks_uuid":"u","open":true,"recovery_keys":[],
       "bindings":[{"secure_boot":"aa"},{}]},
      {"name":"persistent","luks_uuid":"","open":false,"reason":"VOLUME_FOREIGN","message":"planted"},
      {"name":"data","open":false,"reason":"VOLUME_LOCKED"}, 7,
      {"name":"half","open":true,"reason":"VOLUME_DAMAGED","bindings":[{"secure_boot":"aa"}]},
      {"name":"typed","open":false,"recovered":true}], "missing":{"persistent":"x","swap":"gone"}})");
  const auto volumes = ReadVolumeReports(folder.path());
  ASSERT_EQ(volumes.size(), 6u);
  EXPECT_EQ(volumes[0].state, VolumeState::kOpen);
  EXPECT_TRUE(volumes[0].without_pcr7);
  EXPECT_EQ(volumes[1].state, VolumeState::kRefused);
  EXPECT_EQ(volumes[1].reason, "VOLUME_FOREIGN");
  EXPECT_EQ(volumes[2].state, VolumeState::kLocked);
  EXPECT_EQ(volumes[3].state, VolumeState::kRefused) << "open, and not mounted";
  EXPECT_FALSE(volumes[3].without_pcr7);
  EXPECT_EQ(volumes[4].state, VolumeState::kRecovered);
  EXPECT_EQ(volumes[5].name, "swap");
  EXPECT_EQ(volumes[5].state, VolumeState::kMissing);
  put("volumes.json", "[");
  EXPECT_TRUE(ReadVolumeReports(folder.path()).empty());

  EXPECT_FALSE(ReadInstallRecord(folder.path() / "install.json"));
  put("install.json",
      R"({"config_digest":")" + std::string(64, 'a') +
          R"(","config_source":"medium","version":"1.2","installed":"2026-11-26T03:00:00Z"})");
  const auto record = ReadInstallRecord(folder.path() / "install.json");
  ASSERT_TRUE(record);
  EXPECT_EQ(record->version, "1.2");
  EXPECT_EQ(FormatRfc3339(record->installed), "2026-11-26T03:00:00Z");
  put("install.json", R"({"config_digest":"a","config_source":"medium"})");
  EXPECT_FALSE(ReadInstallRecord(folder.path() / "install.json"));
}

}  // namespace
}  // namespace sealift::agent
