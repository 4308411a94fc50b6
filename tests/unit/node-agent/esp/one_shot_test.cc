#include "node-agent/esp/one_shot.h"

#include <gtest/gtest.h>

#include "tests/contract/map_efi_variables.h"
#include "tests/contract/memory_file_system.h"

namespace sealift::agent {
namespace {

class OneShotTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(esp_.MakeDurableDirectory(kEntriesDirectory).ok());
    ASSERT_TRUE(esp_.MakeDurableDirectory(kImagesDirectory).ok());
  }
  void Put(const std::string& file, BootRole role, const std::string& image, bool present = true) {
    const std::string text =
        FormatEntry({.title = "X", .role = role, .version = "1", .image_path = "/EFI/kairos/" + image});
    ASSERT_TRUE(esp_.Replace(std::string(kEntriesDirectory) + "/" + file, AsBytes(text)).ok());
    if (!present) return;
    ASSERT_TRUE(esp_.Replace("EFI/kairos/" + image, AsBytes("MZ")).ok());
  }
  MemoryFileSystem esp_;
  MapEfiVariables variables_;
};

TEST_F(OneShotTest, NamesTheEntryWithItsCounterInUtf16) {
  Put("active+2-1.conf", BootRole::kActive, "b.efi");
  Put("recovery.conf", BootRole::kRecovery, "a.efi");
  const auto chosen = SelectOnce(esp_, variables_, BootRole::kActive);
  ASSERT_TRUE(chosen.ok()) << Describe(chosen.status());
  EXPECT_EQ(chosen->file_name, "active+2-1.conf");
  Bytes expected = Utf16Le("active+2-1.conf");
  Append(expected, Bytes{0, 0});
  EXPECT_EQ(variables_.Read("LoaderEntryOneShot", kLoaderVendor)->value(), expected);
  const auto choice = ReadBootChoice(esp_, variables_);
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->once, "active+2-1.conf");
  EXPECT_EQ(choice->entries.size(), 2u);
}

TEST_F(OneShotTest, PrefersWhatIsBlessed) {
  Put("active+3.conf", BootRole::kActive, "new.efi");
  Put("active.conf", BootRole::kActive, "old.efi");
  EXPECT_EQ(SelectOnce(esp_, variables_, BootRole::kActive)->file_name, "active.conf");
}

TEST_F(OneShotTest, AnEntryWithoutItsImageIsNone) {
  Put("passive.conf", BootRole::kPassive, "gone.efi", false);
  for (const BootRole role : {BootRole::kPassive, BootRole::kRecovery})
    EXPECT_EQ(ReasonOf(SelectOnce(esp_, variables_, role).status()), Reason::kBootStateUnknown);
  EXPECT_FALSE(variables_.Read("LoaderEntryOneShot", kLoaderVendor)->has_value());
}

}  // namespace
}  // namespace sealift::agent
