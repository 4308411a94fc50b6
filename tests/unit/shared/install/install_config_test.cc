#include "shared/install/install_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/install/yaml_tree.h"

namespace sealift {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// The long example of the seed, its lost parent keys put back.
constexpr std::string_view kSeedExample = R"(#cloud-config

install:
  device: "/dev/vda"
  auto: true
  reboot: true
  partitions:
    persistent:
      size: 500 # otherwise takes the whole disk
  extra-partitions:
    - name: second_partition
      size: 4000
      fs: ext4
  encrypted_partitions:
    - second_partition

users:
  - name: "kairos"
    passwd: "kairos"

stages:
  kairos-uki-install.after:
    - name: copy
      commands:
        - echo "Copying files to oem and persistent"
        - mkdir -p /usr/local/.state/opt.bind
  kairos-uki-reset.after: []
)";

std::string Why(std::string_view text) {
  const auto config = ParseInstallConfig(text);
  EXPECT_FALSE(config.ok());
  EXPECT_EQ(ReasonOf(config.status()), Reason::kInstallConfigInvalid);
  return config.ok() ? std::string() : MessageOf(config.status());
}

TEST(InstallConfig, ReadsTheSeedsExample) {
  std::string text(kSeedExample);
  text.erase(text.find("  kairos-uki-reset"));
  const auto config = ParseInstallConfig(text);
  ASSERT_TRUE(config.ok()) << Describe(config.status());
  EXPECT_EQ(config->device, "/dev/vda");
  EXPECT_TRUE(config->automatic);
  EXPECT_TRUE(config->reboot);
  EXPECT_FALSE(config->power_off);
  EXPECT_EQ(config->oem_bytes, 64ull << 20);
  EXPECT_EQ(config->persistent_bytes, 500ull << 20);
  ASSERT_EQ(config->extra.size(), 1u);
  EXPECT_EQ(config->extra[0].name, "second_partition");
  EXPECT_EQ(config->extra[0].bytes, 4000ull << 20);
  EXPECT_EQ(config->extra[0].file_system, "ext4");
  EXPECT_EQ(config->extra[0].label, "second_partition");
  EXPECT_TRUE(config->extra[0].encrypted);
  ASSERT_EQ(config->after.size(), 1u);
  EXPECT_THAT(config->after[0].commands, ElementsAre("echo \"Copying files to oem and persistent\"",
                                                     "mkdir -p /usr/local/.state/opt.bind"));
  EXPECT_TRUE(config->before.empty());
  EXPECT_THAT(config->left_to_os, ElementsAre("users"));
}

// It would never run, and nobody would know.
TEST(InstallConfig, RefusesAStageThatIsNoneOfAnInstallation) {
  EXPECT_THAT(Why(kSeedExample), HasSubstr("stages.kairos-uki-reset.after (line 27): is no stage"));
}

TEST(InstallConfig, AnEmptyFileAsksForNothing) {
  const auto config = ParseInstallConfig("#cloud-config\n");
  ASSERT_TRUE(config.ok()) << Describe(config.status());
  EXPECT_EQ(config->device, "auto");
  EXPECT_FALSE(config->automatic || config->reboot || config->power_off || config->overwrite_foreign);
  EXPECT_FALSE(config->consent_enrol_keys);
}

TEST(InstallConfig, TellsEveryProblemAtOnce) {
  const std::string why =
      Why("install:\n  device: sda\n  auto: yes please\n  reboot: true\n  poweroff: true\n  overwrite: "
          "everything\n"
          "  partitions: {oem: {size: -1}, root: {size: 4}}\n"
          "  extra-partitions: [{name: oem, fs: btrfs}]\n  encrypted_partitions: [nowhere]\nunheard: 1\n");
  for (const char* part :
       {"install.device (line 2)", "install.auto (line 3): must be true or false", "install.overwrite",
        "install.partitions.oem.size", "install.partitions.root", "install.extra-partitions[0].fs",
        "the name 'oem' is taken", "reboot and poweroff", "there is no partition 'nowhere'",
        "unheard (line 10): is not known", "only one partition can take what the others leave"}) {
    EXPECT_THAT(why, HasSubstr(part));
  }
}

TEST(InstallConfig, QuotedWordsAreNoFlags) {
  EXPECT_THAT(Why("install: {auto: \"true\"}"), HasSubstr("must be true or false"));
}

TEST(InstallConfig, NamesThatLeadElsewhereAreRefused) {
  for (const char* name : {"\"../x\"", "a/b", "\"a b\"", "-x", "\"\"", "'x\";y'"})
    EXPECT_THAT(
        Why(std::string(
                "install: {partitions: {persistent: {size: 9}}, extra-partitions: [{size: 9, name: ") +
            name + "}]}"),
        HasSubstr("extra-partitions[0].name"))
        << name;
  EXPECT_THAT(Why("install: {device: /dev/../etc/passwd}"), HasSubstr("install.device"));
}

TEST(InstallConfig, AnExtraPartitionCannotTakeTheStatesLabel) {
  EXPECT_THAT(Why("install: {extra-partitions: [{name: x, size: 9, label: COS_PERSISTENT}]}"),
              HasSubstr("the label 'COS_PERSISTENT' is taken"));
  // The next run would take the disk for one that was cut off, and make it anew.
  EXPECT_THAT(Why("install: {extra-partitions: [{name: sealift-unfinished, size: 9}]}"),
              HasSubstr("the name 'sealift-unfinished' is taken"));
}

TEST(YamlTree, RefusesWhatHidesWhatIsMeant) {
  for (const char* text : {"a: &x 1\nb: *x", "a: !!str 1", "a: 1\na: 2", "---\na: 1\n---\nb: 1", "? [a]\n: 1",
                           "%YAML 1.1\n---\na: 1", "<<: {a: 1}", "a: [1", "a: b: c"}) {
    const auto tree = ParseYaml(text);
    EXPECT_EQ(ReasonOf(tree.status()), Reason::kInstallConfigInvalid) << text;
  }
}

TEST(YamlTree, IsBoundedInDepthAndSize) {
  EXPECT_THAT(MessageOf(ParseYaml(std::string(200, '[')).status()), HasSubstr("too deep"));
  std::string many = "[";
  for (std::size_t i = 0; i < kMaxYamlNodes; ++i) many += "1,";
  EXPECT_THAT(MessageOf(ParseYaml(many + "1]").status()), HasSubstr("too many values"));
  EXPECT_THAT(MessageOf(ParseYaml(std::string(kMaxYamlBytes + 1, ' ')).status()), HasSubstr("larger than"));
}

TEST(YamlTree, KeepsBlocksAsTheyAre) {
  const auto tree = ParseYaml("commands:\n  - |\n    set -e\n    echo 'x'\n");
  ASSERT_TRUE(tree.ok());
  EXPECT_EQ(tree->Find("commands")->items[0].text, "set -e\necho 'x'\n");
}

}  // namespace
}  // namespace sealift
