// The early boot: which volumes open, and what keeps them all closed.
#include "node-agent/volume/unlock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

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
  Result<std::string> Pending() override { return pending.ok() ? Result<std::string>(id) : pending; }
  Status Consume(const std::string& consumed) override {
    EXPECT_EQ(consumed, id);
    if (consume.ok()) id.clear();
    return consume;
  }
  std::string id = "order-1";
  Status pending = OkStatus();
  Status consume = OkStatus();
};

// Time passes while somebody waits for it.
class PatientClock final : public Clock {
 public:
  UnixMillis Now() const override { return FromUnixMs(0); }
  std::chrono::steady_clock::time_point Steady() const override { return now_; }
  bool SleepFor(std::chrono::milliseconds duration, std::stop_token) override {
    now_ += duration;
    return true;
  }

 private:
  std::chrono::steady_clock::time_point now_;
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
    PatientClock clock;
    UnlockOptions options{
        .required = CosVolumes(), .image_epoch = image_epoch, .device_timeout = device_timeout_};
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
                          .partitions = [this] { return look_ ? look_() : partitions_; },
                          .opened = opened_});
  }

  std::uint64_t base_ = 0;
  MadeVolume oem_;
  MadeVolume persistent_;
  std::map<std::string, Bytes> keys_;
  std::vector<PublicKey> accepted_;
  std::multimap<std::string, std::filesystem::path> partitions_;
  std::function<std::multimap<std::string, std::filesystem::path>()> look_;
  std::chrono::milliseconds device_timeout_{};
  std::function<void(const UnlockReport&)> opened_;
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
  EXPECT_EQ(open->front().device, oem_.facts.device);
  EXPECT_EQ(open->front().header.name, "oem");
  EXPECT_EQ(open->front().header.luks_uuid, oem_.facts.luks_uuid);
  EXPECT_NE(open->front().slot, oem_.recovery.subject.slot);
  EXPECT_EQ(open->front().header.bindings.front().policy_key, key_->public_key());
  EXPECT_EQ(open->front().header.bindings.front().secure_boot,
            vault_->ReadPcrs(std::array<std::uint32_t, 1>{7})->at(7));
  // That nothing is known of is not that nothing is there.
  EXPECT_EQ(ReasonIdFrom(ReadOpenVolumes(folder_.path() / "never")), "EPOCH_UNUSABLE");
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
  ASSERT_EQ(report->volumes.size(), 2u);
  EXPECT_TRUE(report->volumes[0].mount.ok());
  EXPECT_EQ(ReasonIdOf(report->volumes[1].mount), "VOLUME_DAMAGED");
}

// A check of the file system may take longer than whoever waits for it.
TEST_F(UnlockTest, WhatOpenedIsToldBeforeAnythingIsMounted) {
  const auto runtime = folder_.path() / "run";
  bool called = false;
  opened_ = [&](const UnlockReport& report) {
    called = true;
    EXPECT_TRUE(mounts_.mounted.empty());
    ASSERT_TRUE(WriteUnlockState(runtime, report).ok());
    EXPECT_EQ(ReadOpenVolumes(runtime)->size(), 2u);
    for (const VolumeOutcome& one : report.volumes) EXPECT_FALSE(one.mount.ok()) << one.name;
  };
  ASSERT_TRUE(Unlock().ok());
  EXPECT_TRUE(called);
}

TEST_F(UnlockTest, ALookAlikeDoesNotEndTheWaitForTheRealDisk) {
  device_timeout_ = std::chrono::seconds(30);
  const auto plain = Device("aaa-plain");
  int looks = 0;
  look_ = [&] {
    partitions_ = {{"oem", oem_.facts.device}, {"persistent", plain}};
    if (++looks > 3) partitions_.insert({"persistent", persistent_.facts.device});
    return partitions_;
  };
  const auto report = Unlock();
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->missing.empty());
  EXPECT_EQ(mapper_.mapped["persistent"].device, persistent_.facts.device);
}

TEST_F(UnlockTest, WhatIsOpenedLaterTakesThePlaceOfWhatWasToldBefore) {
  const auto runtime = folder_.path() / "run";
  partitions_ = {{"oem", oem_.facts.device}, {"persistent", Device("plain")}};
  ASSERT_TRUE(WriteUnlockState(runtime, *Unlock()).ok());
  ASSERT_EQ(ReadOpenVolumes(runtime)->size(), 1u);
  UnlockReport later{.volumes = {{.name = "persistent",
                                  .device = folder_.path() / "plain",
                                  .status = OkStatus(),
                                  .luks_uuid = persistent_.facts.luks_uuid,
                                  .bindings = {},
                                  .recoveries = {},
                                  .recovered = true}}};
  ASSERT_TRUE(AddUnlockState(runtime, later).ok());
  // The TPM opened one alone, and the epoch is still known.
  EXPECT_EQ(ReadOpenVolumes(runtime)->size(), 1u);
  EXPECT_EQ(ReadEpochState(runtime)->epoch, 5u);
  const std::string text = ReadTextFile(runtime / kVolumesStateName, 1u << 20).value();
  EXPECT_THAT(text, HasSubstr("\"recovered\":true"));
  EXPECT_THAT(text, HasSubstr("\"missing\":{}"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("VOLUME_NOT_ENCRYPTED")));
}

TEST_F(UnlockTest, BytesThatAreNoTextDoNotEndTheBoot) {
  UnlockReport report{.missing = {{"oem", MakeError(Code::kNotFound, Reason::kVolumeMissing, "\xff\xfe")}}};
  ASSERT_TRUE(WriteUnlockState(folder_.path() / "run", report).ok());
  EXPECT_TRUE(ReadOpenVolumes(folder_.path() / "run")->empty());
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

// The old volume is gone by then: nothing may be written to the new one, since the next boot makes it anew.
TEST_F(UnlockTest, AResetWhoseOrderStaysGoodLeavesTheVolumeClosed) {
  OneReset order;
  order.consume = MakeError(Code::kUnavailable, Reason::kTpmUnavailable, "count: no answer");
  const auto report = Unlock(5, &order);
  ASSERT_TRUE(report.ok()) << Describe(report.status());
  EXPECT_EQ(report->reset, "");
  EXPECT_EQ(ReasonIdOf(report->missing.at("persistent")), "TPM_UNAVAILABLE");
  EXPECT_THAT(mounts_.mounted, ElementsAre(Pair("/oem", "ext4 /dev/mapper/oem")));
}

TEST_F(UnlockTest, AResetThatCannotBeCarriedOutKeepsNothingClosed) {
  OneReset order;
  order.pending = MakeError(Code::kUnavailable, Reason::kTpmUnavailable, "read counter: no answer");
  ASSERT_TRUE(Unlock(5, &order).ok());
  EXPECT_EQ(mounts_.mounted.size(), 2u);
  order.pending = OkStatus();
  mounts_.unmakeable = "COS_PERSISTENT";
  const auto report = Unlock(5, &order);
  ASSERT_TRUE(report.ok()) << Describe(report.status());
  EXPECT_TRUE(mounts_.mounted.contains("/oem"));
}

TEST_F(UnlockTest, AResetBindsToTheOtherKeysInTheSameBoot) {
  const auto next = SoftwareSigner::Generate(KeyType::kRsa).value();
  accepted_ = {key_->public_key(), next->public_key()};
  OneReset order;
  const auto report = Unlock(5, &order);
  ASSERT_TRUE(report.ok());
  ASSERT_EQ(report->reset, "order-1");
  for (const VolumeOutcome& one : report->volumes) EXPECT_EQ(one.bindings.size(), 2u) << one.name;
  EXPECT_TRUE(keeper_->Unseal(persistent_.facts.device, "persistent", Image(*next)).ok());
}

// The image's epoch counts from the first moment, and no base is above its counter: a controller believes no
// such one.
TEST_F(UnlockTest, ANewBaseBeginsWithTheImagesEpoch) {
  const std::uint64_t counter = counters_->ReadCounter(kEpochCounter).value();
  EXPECT_EQ(NewEpochBase(*counters_, 0).value(), counter);
  EXPECT_EQ(NewEpochBase(*counters_, counter).value(), 0u);
  // A young counter is counted up.
  EXPECT_EQ(NewEpochBase(*counters_, counter + 7).value(), 0u);
  EXPECT_EQ(counters_->ReadCounter(kEpochCounter).value(), counter + 7);
  EXPECT_EQ(ReasonIdFrom(NewEpochBase(*counters_, counter + 7 + kMaxEpochSteps + 1)), "EPOCH_UNUSABLE");
  EXPECT_EQ(counters_->ReadCounter(kEpochCounter).value(), counter + 7);
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
  const auto ask = [&](std::string_view order) {
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / kReplaceRecoveryName, AsBytes(order)).ok());
  };
  ask("");
  for (int boot = 0; boot < 2; ++boot) {
    const auto report = Unlock();
    ASSERT_TRUE(report.ok());
    for (const VolumeOutcome& one : report->volumes) EXPECT_EQ(one.recoveries.size(), 2u) << one.name << boot;
  }
  // Another order, while two are there: keys that were never acknowledged keep nobody from new ones.
  ask("0123456789abcdef\n");
  for (int boot = 0; boot < 2; ++boot) {
    const auto report = Unlock();
    ASSERT_TRUE(report.ok());
    for (const VolumeOutcome& one : report->volumes) EXPECT_EQ(one.recoveries.size(), 3u) << one.name << boot;
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
