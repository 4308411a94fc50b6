// The early boot: which volumes open, and what keeps them all closed.
#include "node-agent/volume/unlock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/integration/node-agent/volume/volume_machine.h"

namespace sealift::agent {
namespace {

using test::ReasonIdFrom;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

// An order that somebody verified; good until consumed.
class OneReset final : public ResetOrders {
 public:
  Result<std::string> Pending() override { return id; }
  Status Consume(const std::string& consumed) override {
    EXPECT_EQ(consumed, id);
    id.clear();
    return OkStatus();
  }
  std::string id = "order-1";
};

class UnlockTest : public test::VolumeMachine {
 protected:
  void SetUp() override {
    VolumeMachine::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    base_ = NewEpochBase(*counters_, 5).value();
    oem_ = Make("oem", "oem-disk");
    persistent_ = Make("persistent", "persistent-disk");
    partitions_ = {{"oem", oem_.facts.device}, {"persistent", persistent_.facts.device}};
    Boot('f', 'n');
  }
  MadeVolume Make(const std::string& name, const std::string& file) {
    MakeOptions options = Options();
    options.epoch_base = base_;
    auto made = keeper_->Make({.device = Device(file), .name = name, .fs_label = "X"}, options);
    EXPECT_TRUE(made.ok()) << Describe(made.status());
    keys_[name] = mapper_.mapped[name].key;
    mapper_.mapped.clear();
    return *std::move(made);
  }
  Result<UnlockReport> Unlock(std::uint64_t image_epoch = 5, ResetOrders* resets = nullptr) {
    mapper_.mapped.clear();
    mounts_.mounted.clear();
    FakeClock clock{FromUnixMs(0)};
    UnlockOptions options{.required = CosVolumes(), .image_epoch = image_epoch, .device_timeout = {}};
    options.escrow = [this] { return Result<EscrowTo>(Options().escrow); };
    options.replace_recovery = folder_.path() / kReplaceRecoveryName;
    RunningImage image = Image();
    image.accepted_keys = accepted_;
    return UnlockVolumes(options, image,
                         {.keeper = *keeper_,
                          .counters = *counters_,
                          .mounts = mounts_,
                          .clock = clock,
                          .resets = resets,
                          .partitions = [this] { return partitions_; }});
  }

  std::uint64_t base_ = 0;
  MadeVolume oem_;
  MadeVolume persistent_;
  std::map<std::string, Bytes> keys_;
  std::vector<PublicKey> accepted_;
  std::multimap<std::string, std::filesystem::path> partitions_;
};

TEST_F(UnlockTest, OpensAndMountsBothAndTellsTheEpoch) {
  const auto report = Unlock();
  ASSERT_TRUE(report.ok()) << Describe(report.status());
  EXPECT_TRUE(report->missing.empty());
  EXPECT_EQ(report->epoch, 5u);
  EXPECT_EQ(report->epoch_base, base_);
  EXPECT_THAT(mounts_.mounted, UnorderedElementsAre(Pair("/oem", "ext4 /dev/mapper/oem"),
                                                    Pair("/usr/local", "ext4 /dev/mapper/persistent")));
  EXPECT_EQ(mapper_.mapped["persistent"].key, keys_["persistent"]);
  ASSERT_TRUE(WriteUnlockState(folder_.path() / "run", *report).ok());
  const auto state = ReadEpochState(folder_.path() / "run");
  ASSERT_TRUE(state.ok()) << Describe(state.status());
  EXPECT_EQ(state->epoch, 5u);
  EXPECT_EQ(state->counter - state->base, 5u);
  const auto open = ReadOpenVolumes(folder_.path() / "run");
  ASSERT_TRUE(open.ok()) << Describe(open.status());
  ASSERT_EQ(open->size(), 2u);
  EXPECT_EQ(open->front().name, "oem");
  EXPECT_EQ(open->front().bindings.front().policy_key, key_->public_key());
  EXPECT_EQ(open->front().bindings.front().secure_boot,
            vault_->ReadPcrs(std::array<std::uint32_t, 1>{7})->at(7));
  EXPECT_TRUE(ReadOpenVolumes(folder_.path() / "never")->empty());
  EXPECT_THAT(ReadEscrowedKeys(folder_.path() / "run").value(),
              ElementsAre(oem_.recovery, persistent_.recovery));
}

TEST_F(UnlockTest, AnOldImageOpensNothingOnceTheEpochWasRaised) {
  ASSERT_TRUE(Unlock(5).ok());
  ASSERT_TRUE(counters_->IncrementCounter(kEpochCounter).ok());
  const auto refused = Unlock(5);
  EXPECT_EQ(ReasonIdFrom(refused), "EPOCH_TOO_LOW");
  EXPECT_TRUE(mapper_.mapped.empty());
  EXPECT_TRUE(mounts_.mounted.empty());
  EXPECT_TRUE(Unlock(6).ok());
}

TEST_F(UnlockTest, AMissingOrRedefinedCounterOpensNothing) {
  keeper_.reset();
  vault_.reset();
  counters_.reset();
  swtpm_->Tool({"tpm2_nvundefine", "0x1810020"});
  Connect();
  EXPECT_EQ(ReasonIdFrom(Unlock(5)), "EPOCH_UNUSABLE");
  EXPECT_TRUE(mapper_.mapped.empty());
  // Defined anew it stands above what it was: closed, too.
  ASSERT_TRUE(counters_->DefineCounter(kEpochCounter).ok());
  EXPECT_EQ(ReasonIdFrom(Unlock(5)), "EPOCH_TOO_LOW");
  EXPECT_TRUE(mapper_.mapped.empty());
}

TEST_F(UnlockTest, TakesOursAmongPlantedDisksOfTheSameName) {
  // Sorted before ours: plaintext, and a volume of another machine.
  const auto plain = Device("aaa-plain");
  partitions_.clear();
  partitions_ = {{"oem", oem_.facts.device}, {"persistent", plain}, {"persistent", persistent_.facts.device}};
  const auto report = Unlock();
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->missing.empty());
  EXPECT_EQ(mapper_.mapped["persistent"].device, persistent_.facts.device);
  ASSERT_EQ(report->volumes.size(), 3u);
  EXPECT_EQ(ReasonIdOf(report->volumes[1].status), "VOLUME_NOT_ENCRYPTED");
}

TEST_F(UnlockTest, OneClosedVolumeDoesNotCloseTheOther) {
  partitions_ = {{"oem", oem_.facts.device}, {"persistent", Device("plain")}};
  auto report = Unlock();
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(ReasonIdOf(report->missing.at("persistent")), "VOLUME_NOT_ENCRYPTED");
  EXPECT_THAT(mounts_.mounted, ElementsAre(Pair("/oem", "ext4 /dev/mapper/oem")));
  partitions_.erase("persistent");
  report = Unlock();
  EXPECT_EQ(ReasonIdOf(report->missing.at("persistent")), "VOLUME_MISSING");
  // Swapped.
  partitions_ = {{"oem", persistent_.facts.device}, {"persistent", oem_.facts.device}};
  report = Unlock();
  EXPECT_EQ(ReasonIdOf(report->missing.at("persistent")), "VOLUME_FOREIGN");
  EXPECT_EQ(ReasonIdOf(report->missing.at("oem")), "VOLUME_FOREIGN");
  EXPECT_TRUE(mapper_.mapped.empty());
}

// Rotation: an image signed by the old key names the next one; from then on images of either open the disk.
TEST_F(UnlockTest, AnImageThatNamesTheNextPolicyKeyBindsTheDisksToItOnce) {
  const auto next = SoftwareSigner::Generate(KeyType::kRsa).value();
  EXPECT_EQ(ReasonIdFrom(keeper_->Unseal(persistent_.facts.device, "persistent", Image(*next))),
            "VOLUME_LOCKED");
  accepted_ = {key_->public_key(), next->public_key()};
  for (int boot = 0; boot < 2; ++boot) {
    const auto report = Unlock();
    ASSERT_TRUE(report.ok());
    for (const VolumeOutcome& one : report->volumes) EXPECT_EQ(one.bindings.size(), 2u) << one.name << boot;
  }
  Boot('f', 'z');
  mapper_.mapped.clear();
  const auto opened = keeper_->Unseal(persistent_.facts.device, "persistent", Image(*next));
  ASSERT_TRUE(opened.ok()) << Describe(opened.status());
  EXPECT_EQ(opened->epoch_base(), base_);
  ASSERT_TRUE(keeper_->Open(*opened).ok());
  EXPECT_EQ(mapper_.mapped["persistent"].key, keys_["persistent"]);
  EXPECT_TRUE(keeper_->Unseal(persistent_.facts.device, "persistent", Image()).ok());
  // In another Secure Boot state neither does.
  Boot('o', 'z');
  EXPECT_FALSE(keeper_->Unseal(persistent_.facts.device, "persistent", Image(*next)).ok());
}

TEST(RunningImageTest, ReadsSignaturesAndEveryKeyTheImageNames) {
  const TempDir folder = TempDir::Create("sealift-extra").value();
  const auto write = [&](const char* name, std::string_view text) {
    ASSERT_TRUE(WriteFileAtomically(folder.path() / name, AsBytes(text)).ok());
  };
  const PublicKey& first = test::PolicyKey().public_key();
  const PublicKey& second = test::EscrowKey().public_key();
  write("tpm2-pcr-signature.json", "{\"sha256\":[]}");
  write("tpm2-pcr-public-key.pem", first.Pem());
  const auto keys = folder.path() / "keys.pem";
  EXPECT_TRUE(ReadRunningImage(true, folder.path(), keys)->accepted_keys.empty());
  write("keys.pem", first.Pem() + second.Pem());
  const auto image = ReadRunningImage(true, folder.path(), keys);
  ASSERT_TRUE(image.ok()) << Describe(image.status());
  EXPECT_EQ(image->policy_key, first);
  EXPECT_THAT(image->accepted_keys, ElementsAre(first, second));
  write("keys.pem", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
  EXPECT_FALSE(ReadRunningImage(true, folder.path(), keys).ok());
}

TEST_F(UnlockTest, AFileSystemThatDoesNotMountIsMissing) {
  mounts_.broken = "persistent";
  const auto report = Unlock();
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(ReasonIdOf(report->missing.at("persistent")), "VOLUME_DAMAGED");
}

TEST_F(UnlockTest, OtherEncryptedPartitionsAreOpenedButNotMounted) {
  Boot('f', 'i');
  const MadeVolume data = Make("data", "data-disk");
  partitions_.insert({{"data", data.facts.device}, {"swap", Device("swap")}});
  const auto report = Unlock();
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(mapper_.mapped.contains("data"));
  EXPECT_EQ(mounts_.mounted.size(), 2u);
  EXPECT_EQ(report->volumes.size(), 3u);
}

TEST_F(UnlockTest, AResetOrderMakesPersistentAnewOnceAndKeepsOem) {
  OneReset order;
  const auto report = Unlock(5, &order);
  ASSERT_TRUE(report.ok()) << Describe(report.status());
  EXPECT_EQ(report->reset, "order-1");
  EXPECT_NE(mapper_.mapped["persistent"].key, keys_["persistent"]);
  EXPECT_EQ(mapper_.mapped["oem"].key, keys_["oem"]);
  EXPECT_EQ(mounts_.mounted.size(), 2u);
  EXPECT_THAT(mounts_.made, ::testing::Contains("ext4 COS_PERSISTENT on /dev/mapper/persistent"));
  const auto fresh = mapper_.mapped["persistent"].key;
  Boot('f', 'n');
  const auto next = Unlock(5, &order);
  ASSERT_TRUE(next.ok());
  EXPECT_EQ(next->reset, "");
  EXPECT_EQ(next->epoch, 5u);
  EXPECT_EQ(mapper_.mapped["persistent"].key, fresh);
  // The old recovery key is worth nothing.
  const auto old_key = escrow::Open(persistent_.recovery, escrow_key_).value();
  EXPECT_EQ(ReasonIdFrom(keeper_->OpenByRecoveryKey(persistent_.facts.device, "persistent", old_key)),
            "RECOVERY_KEY_WRONG");
}

TEST_F(UnlockTest, ARefusedEpochCarriesOutNoReset) {
  ASSERT_TRUE(counters_->IncrementCounter(kEpochCounter).ok());
  OneReset order;
  EXPECT_EQ(ReasonIdFrom(Unlock(5, &order)), "EPOCH_TOO_LOW");
  EXPECT_EQ(order.id, "order-1");
}

TEST_F(UnlockTest, ResetMendsADamagedHeaderButNotOneOfSeveralStrangers) {
  const auto plain = Device("plain");
  partitions_ = {{"oem", oem_.facts.device}, {"persistent", plain}, {"persistent", Device("plain2")}};
  OneReset order;
  ASSERT_TRUE(Unlock(5, &order).ok());
  EXPECT_EQ(order.id, "order-1");
  partitions_ = {{"oem", oem_.facts.device}, {"persistent", plain}};
  ASSERT_TRUE(Unlock(5, &order).ok());
  EXPECT_EQ(order.id, "");
  EXPECT_TRUE(mounts_.mounted.contains("/usr/local"));
}

TEST_F(UnlockTest, AddsNewRecoveryKeysWhereTheyAreAskedForAndOnce) {
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / kReplaceRecoveryName, {}).ok());
  for (int boot = 0; boot < 2; ++boot) {
    const auto report = Unlock();
    ASSERT_TRUE(report.ok());
    for (const VolumeOutcome& one : report->volumes) EXPECT_EQ(one.recoveries.size(), 2u) << one.name << boot;
  }
}

TEST(ImageEpochTest, IsOneDecimalLine) {
  const TempDir folder = TempDir::Create("sealift-epoch").value();
  const auto read = [&](std::string_view text) {
    EXPECT_TRUE(WriteFileAtomically(folder.path() / "epoch", AsBytes(text)).ok());
    return ReadImageEpoch(folder.path() / "epoch");
  };
  EXPECT_EQ(read("0\n").value(), 0u);
  EXPECT_EQ(read("42").value(), 42u);
  for (const char* bad : {"", "\n", "-1\n", "1x\n", "99999999999999999999999\n"})
    EXPECT_EQ(ReasonIdFrom(read(bad)), "EPOCH_UNUSABLE") << bad;
  EXPECT_EQ(ReasonIdFrom(ReadImageEpoch(folder.path() / "none")), "EPOCH_UNUSABLE");
}

}  // namespace
}  // namespace sealift::agent
