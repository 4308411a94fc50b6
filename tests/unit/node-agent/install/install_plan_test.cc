#include "node-agent/install/install_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace sealift::agent {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t kMib = 1ull << 20;
constexpr std::uint64_t kGib = 1ull << 30;

BlockDisk Disk(const char* path, std::uint64_t bytes) { return {.path = path, .bytes = bytes}; }

BlockPartition Part(const char* path, const char* name, const char* content = "", const char* label = "") {
  return {.path = path, .bytes = kGib, .name = name, .content = content, .label = label};
}

PlanInputs Inputs(std::vector<BlockDisk> disks) {
  return {.disks = std::move(disks), .release = {.image_bytes = 40 * kMib, .other_bytes = kMib}};
}

Reason Why(const InstallConfig& config, const PlanInputs& inputs) {
  return ReasonOf(MakePlan(config, inputs).status());
}

TEST(ChooseDisk, AutoTakesTheBiggestThatIsNotTheMedium) {
  PlanInputs inputs =
      Inputs({Disk("/dev/sda", 20 * kGib), Disk("/dev/sdb", 40 * kGib), Disk("/dev/sdc", 90 * kGib)});
  inputs.medium = "/dev/sdc";
  EXPECT_EQ(ChooseDisk({}, inputs)->path, "/dev/sdb");
  inputs.disks[1].read_only = true;
  EXPECT_EQ(ChooseDisk({}, inputs)->path, "/dev/sda");
}

TEST(ChooseDisk, OfEqualsTheFirst) {
  EXPECT_EQ(ChooseDisk({}, Inputs({Disk("/dev/sda", kGib), Disk("/dev/sdb", kGib)}))->path, "/dev/sda");
}

TEST(ChooseDisk, BySerialWwnPathAndLink) {
  PlanInputs inputs = Inputs({Disk("/dev/sda", kGib), Disk("/dev/sdb", kGib)});
  inputs.disks[1].serial = "S1";
  inputs.disks[1].wwn = "0x5000";
  EXPECT_EQ(ChooseDisk({.device = "serial:S1"}, inputs)->path, "/dev/sdb");
  EXPECT_EQ(ChooseDisk({.device = "wwn:0x5000"}, inputs)->path, "/dev/sdb");
  EXPECT_EQ(ChooseDisk({.device = "/dev/sdb"}, inputs)->path, "/dev/sdb");
  inputs.resolve = [](const std::filesystem::path&) { return std::filesystem::path("/dev/sda"); };
  EXPECT_EQ(ChooseDisk({.device = "/dev/disk/by-id/x"}, inputs)->path, "/dev/sda");
}

TEST(ChooseDisk, SaysWhichThereAreWhenNoneOrSeveralFit) {
  PlanInputs inputs = Inputs({Disk("/dev/sda", kGib), Disk("/dev/sdb", kGib)});
  inputs.disks[0].serial = inputs.disks[1].serial = "same";
  for (const char* device : {"serial:same", "serial:other", "/dev/sdz", "wwn:1"}) {
    const auto disk = ChooseDisk({.device = device}, inputs);
    EXPECT_EQ(ReasonOf(disk.status()), Reason::kDiskNotFound) << device;
    EXPECT_THAT(MessageOf(disk.status()), HasSubstr("'/dev/sdb'"));
  }
  inputs.medium = "/dev/sda";
  EXPECT_EQ(ReasonOf(ChooseDisk({.device = "/dev/sda"}, inputs).status()), Reason::kDiskNotFound);
}

TEST(MakePlan, LaysOutEspOemPersistentAndExtras) {
  InstallConfig config{.extra = {{.name = "data", .bytes = 100 * kMib, .label = "data", .encrypted = true}}};
  const auto plan = MakePlan(config, Inputs({Disk("/dev/vda", 20 * kGib)}));
  ASSERT_TRUE(plan.ok()) << Describe(plan.status());
  ASSERT_EQ(plan->partitions.size(), 4u);
  std::uint64_t at = kMib;
  for (const PlannedPartition& part : plan->partitions) {
    EXPECT_EQ(part.start, at) << part.name;
    EXPECT_EQ(part.bytes % kMib, 0u);
    at += part.bytes;
  }
  EXPECT_EQ(at, 20 * kGib - kMib);
  EXPECT_EQ(plan->Find("ESP").bytes, EspBytes({.image_bytes = 40 * kMib, .other_bytes = kMib}));
  EXPECT_EQ(plan->Find("oem").type, kLuksType);
  EXPECT_EQ(plan->Find("oem").label, "COS_OEM");
  EXPECT_EQ(plan->Find("persistent").mount, "/usr/local");
  EXPECT_EQ(plan->Find("data").bytes, 100 * kMib);
}

TEST(MakePlan, TheEspHoldsFourImagesThatGrewByHalf) {
  EXPECT_GE(EspBytes({.image_bytes = 300 * kMib}), 4 * 450 * kMib + 64 * kMib);
  EXPECT_EQ(EspBytes({.image_bytes = kMib}), 128 * kMib);
}

TEST(MakePlan, WithoutEncryptionNothingSaysLuks) {
  PlanInputs inputs = Inputs({Disk("/dev/vda", 20 * kGib)});
  inputs.encrypt = false;
  const auto plan = MakePlan({}, inputs);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->Find("persistent").type, kLinuxType);
  EXPECT_FALSE(plan->Find("oem").encrypted);
}

TEST(MakePlan, RefusesAnInstallationWhateverTheConfigurationSays) {
  BlockDisk disk = Disk("/dev/vda", 20 * kGib);
  disk.table = "gpt";
  disk.partitions = {Part("/dev/vda1", "ESP", "vfat"), Part("/dev/vda2", "oem", "crypto_LUKS"),
                     Part("/dev/vda3", "persistent", "crypto_LUKS")};
  EXPECT_EQ(Why({.overwrite_foreign = true}, Inputs({disk})), Reason::kDiskHoldsInstallation);
  disk.partitions = {Part("/dev/vda1", "", "ext4", "COS_PERSISTENT")};
  EXPECT_EQ(Why({.overwrite_foreign = true}, Inputs({disk})), Reason::kDiskHoldsInstallation);
}

TEST(MakePlan, RefusesDataOfOthersUnlessItMayGo) {
  BlockDisk disk = Disk("/dev/vda", 20 * kGib);
  disk.partitions = {Part("/dev/vda1", "root", "ext4")};
  EXPECT_EQ(Why({}, Inputs({disk})), Reason::kDiskHoldsData);
  EXPECT_EQ(MakePlan({.overwrite_foreign = true}, Inputs({disk}))->state, DiskState::kForeign);
  disk.partitions[0].in_use = disk.in_use = true;
  EXPECT_EQ(Why({.overwrite_foreign = true}, Inputs({disk})), Reason::kDiskHoldsData);
  // A partition that nothing is known about may hold anything.
  disk = Disk("/dev/vda", 20 * kGib);
  disk.partitions = {Part("/dev/vda1", "")};
  EXPECT_EQ(Why({}, Inputs({disk})), Reason::kDiskHoldsData);
  disk = Disk("/dev/vda", 20 * kGib);
  disk.content = "crypto_LUKS";
  EXPECT_EQ(Why({}, Inputs({disk})), Reason::kDiskHoldsData);
}

TEST(MakePlan, ACutOffInstallationIsMadeAgain) {
  BlockDisk disk = Disk("/dev/vda", 20 * kGib);
  disk.partitions = {Part("/dev/vda1", "sealift-unfinished", "vfat"), Part("/dev/vda2", "oem", "crypto_LUKS"),
                     Part("/dev/vda3", "persistent")};
  const auto plan = MakePlan({}, Inputs({disk}));
  ASSERT_TRUE(plan.ok()) << Describe(plan.status());
  EXPECT_EQ(plan->state, DiskState::kUnfinished);
}

TEST(MakePlan, AnEmptyTableIsAnEmptyDisk) {
  BlockDisk disk = Disk("/dev/vda", 20 * kGib);
  disk.table = "gpt";
  EXPECT_EQ(MakePlan({}, Inputs({disk}))->state, DiskState::kEmpty);
}

TEST(MakePlan, SaysWhatADiskThatIsTooSmallWouldNeed) {
  for (const std::uint64_t bytes : {std::uint64_t{0}, kMib, 400 * kMib}) {
    const auto plan = MakePlan({}, Inputs({Disk("/dev/vda", bytes)}));
    EXPECT_EQ(ReasonOf(plan.status()), Reason::kDiskTooSmall) << bytes;
  }
  EXPECT_EQ(Why({.persistent_bytes = 1ull << 50}, Inputs({Disk("/dev/vda", 20 * kGib)})),
            Reason::kDiskTooSmall);
  EXPECT_EQ(Why({.oem_bytes = kMib}, Inputs({Disk("/dev/vda", 20 * kGib)})), Reason::kDiskTooSmall);
}

TEST(MakePlan, TheTableIsUnfinishedUntilTheEnd) {
  const auto plan = MakePlan({}, Inputs({Disk("/dev/vda", 20 * kGib)}));
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(TableScript(*plan, true), HasSubstr("name=\"sealift-unfinished\""));
  EXPECT_THAT(TableScript(*plan, false), HasSubstr("start=2048, size="));
  EXPECT_EQ(TableScript(*plan, false).find("sealift-unfinished"), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(PlanJson(*plan))["partitions"][2]["name"], "persistent");
  EXPECT_THAT(PlanText(*plan), HasSubstr("encrypted, /usr/local"));
}

// As util-linux 2.38 prints it, shortened.
TEST(ParseLsblk, ReadsWhatMatters) {
  const auto disks = ParseLsblk(R"({"blockdevices": [
    {"path":"/dev/sr0","type":"rom","size":99,"ro":true},
    {"path":"/dev/vda","type":"disk","size":1234567,"ro":false,"serial":"disk","wwn":null,"model":null,
     "label":null,"fstype":null,"pttype":"gpt","mountpoints":[null],"log-sec":4096,
     "children":[{"path":"/dev/vda1","type":"part","size":77,"partlabel":"ESP","label":"ESP","fstype":"vfat","mountpoints":["/efi"]},
                 {"path":"/dev/vda2","type":"part","size":78,"partlabel":"x","fstype":"crypto_LUKS","mountpoints":[null],
                  "children":[{"path":"/dev/mapper/x","type":"crypt","size":70,"mountpoints":[null]}]},
                 {"path":"/dev/vda3","type":"part","size":79,"partlabel":null,"mountpoints":[null]}]},
    {"path":"/dev/zram0","type":"disk","size":5,"ro":false},
    {"path":"/dev/loop0","type":"loop","size":5,"ro":false}]})");
  ASSERT_TRUE(disks.ok());
  ASSERT_EQ(disks->size(), 1u);
  const BlockDisk& disk = disks->front();
  EXPECT_EQ(disk.path, "/dev/vda");
  EXPECT_EQ(disk.bytes, 1234567u);
  EXPECT_EQ(disk.serial, "disk");
  EXPECT_EQ(disk.sector_bytes, 4096u);
  EXPECT_TRUE(disk.in_use);
  ASSERT_EQ(disk.partitions.size(), 3u);
  EXPECT_TRUE(disk.partitions[0].in_use);
  EXPECT_TRUE(disk.partitions[1].in_use);
  EXPECT_FALSE(disk.partitions[2].in_use);
  EXPECT_EQ(disk.partitions[1].content, "crypto_LUKS");
}

// lsblk's flat form would make every disk look empty.
TEST(ParseLsblk, AListThatDoesNotNestIsAnError) {
  const auto disks = ParseLsblk(
      R"({"blockdevices":[{"path":"/dev/vda","type":"disk","size":9},{"path":"/dev/vda1","type":"part","size":7}]})");
  EXPECT_EQ(ReasonOf(disks.status()), Reason::kToolFailed);
}

TEST(ParseLsblk, AnythingElseIsAnError) {
  for (const char* text : {"", "[]", "{}", "{\"blockdevices\": 3}", "lsblk: error"})
    EXPECT_EQ(ReasonOf(ParseLsblk(text).status()), Reason::kToolFailed) << text;
}

}  // namespace
}  // namespace sealift::agent
