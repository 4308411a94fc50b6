// The table that an installation writes, made by the real sfdisk on a file and read back by it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "node-agent/install/install_plan.h"
#include "shared/base/files.h"
#include "tests/support/tools.h"

namespace sealift::agent {
namespace {

using nlohmann::json;

class PartitionTable : public testing::Test {
 protected:
  PartitionTable() {
    EXPECT_TRUE(WriteFileAtomically(disk_, Bytes{}).ok());
    std::filesystem::resize_file(disk_, kBytes);
  }
  InstallPlan Plan() {
    InstallConfig config{
        .extra = {{.name = "data", .bytes = 100ull << 20, .label = "data", .encrypted = true}}};
    return MakePlan(config,
                    {.disks = {{.path = disk_, .bytes = kBytes}}, .release = {.image_bytes = 40u << 20}})
        .value();
  }
  json Table() {
    auto text = runner_.Run({"sfdisk", "--json", disk_.string()});
    EXPECT_TRUE(text.ok()) << Describe(text.status());
    return json::parse(text.value_or("{}"))["partitiontable"];
  }

  static constexpr std::uint64_t kBytes = 2ull << 30;
  TempDir folder_ = TempDir::Create("sealift-table").value();
  std::filesystem::path disk_ = folder_.path() / "disk.img";
  SystemCommandRunner runner_;
};

TEST_F(PartitionTable, IsThePlansToTheByte) {
  SEALIFT_NEED_TOOL("sfdisk");
  const InstallPlan plan = Plan();
  ASSERT_TRUE(runner_.Run({"sfdisk", "--quiet", disk_.string()}, TableScript(plan, true)).ok());
  json table = Table();
  EXPECT_EQ(table["label"], "gpt");
  ASSERT_EQ(table["partitions"].size(), plan.partitions.size());
  for (std::size_t i = 0; i < plan.partitions.size(); ++i) {
    const PlannedPartition& part = plan.partitions[i];
    const json& real = table["partitions"][i];
    EXPECT_EQ(real["start"].get<std::uint64_t>() * 512, part.start);
    EXPECT_EQ(real["size"].get<std::uint64_t>() * 512, part.bytes);
    EXPECT_EQ(real["type"], part.type);
    EXPECT_EQ(real["name"], i == 0 ? std::string(kUnfinishedName) : part.name);
  }
  // As the last step does.
  ASSERT_TRUE(runner_.Run({"sfdisk", "--quiet", "--part-label", disk_.string(), "1", "ESP"}).ok());
  EXPECT_EQ(Table()["partitions"][0]["name"], "ESP");
}

TEST_F(PartitionTable, TwoMachinesShareNoId) {
  SEALIFT_NEED_TOOL("sfdisk");
  ASSERT_TRUE(runner_.Run({"sfdisk", "--quiet", disk_.string()}, TableScript(Plan(), false)).ok());
  const json first = Table();
  ASSERT_TRUE(runner_.Run({"sfdisk", "--quiet", disk_.string()}, TableScript(Plan(), false)).ok());
  const json second = Table();
  EXPECT_NE(first["id"], second["id"]);
  for (std::size_t i = 0; i < first["partitions"].size(); ++i)
    EXPECT_NE(first["partitions"][i]["uuid"], second["partitions"][i]["uuid"]);
}

// What lsblk says of this machine parses, whatever it is.
TEST(Lsblk, OfThisMachineParses) {
  SEALIFT_NEED_TOOL("lsblk");
  SystemCommandRunner runner;
  const auto disks = ListDisks(runner);
  ASSERT_TRUE(disks.ok()) << Describe(disks.status());
  for (const BlockDisk& disk : *disks) EXPECT_GT(disk.bytes, 0u) << disk.path;
}

}  // namespace
}  // namespace sealift::agent
