#include "node-agent/esp/efi_variables.h"

#include <gtest/gtest.h>

#include "node-agent/esp/os_release.h"
#include "shared/base/files.h"

namespace sealift::agent {
namespace {

class Efivarfs : public testing::Test {
 protected:
  void Put(std::string_view name, std::string_view vendor, std::string_view content) {
    const std::string file = std::string(name) + "-" + std::string(vendor);
    ASSERT_TRUE(WriteFileAtomically(temp_.path() / file, AsBytes(content)).ok());
  }
  TempDir temp_ = TempDir::Create("sealift-efivars").value();
  EfivarfsVariables variables_{temp_.path()};
};

TEST_F(Efivarfs, DropsTheAttributes) {
  Put("SecureBoot", kGlobalVendor, std::string_view("\x06\0\0\0\x01", 5));
  EXPECT_EQ(**variables_.Read("SecureBoot", kGlobalVendor), Bytes{1});
  EXPECT_TRUE(*variables_.ReadFlag("SecureBoot", kGlobalVendor));
}

TEST_F(Efivarfs, ReadsTextWithoutItsTerminator) {
  Put("SecureBoot", kGlobalVendor, std::string_view("\x06\0\0\0\0", 5));
  Put("LoaderEntrySelected", kLoaderVendor, std::string_view("\x06\0\0\0a\0.\0c\0\0\0", 12));
  EXPECT_EQ(*variables_.ReadText("LoaderEntrySelected", kLoaderVendor), "a.c");
  EXPECT_EQ(*variables_.ReadText("LoaderBootCountPath", kLoaderVendor), "");
  EXPECT_FALSE(*variables_.ReadFlag("SecureBoot", kGlobalVendor));
  EXPECT_FALSE(variables_.Read("dbx", kImageSecurityVendor)->has_value());
}

// An unmounted efivarfs must not look like a firmware without dbx.
TEST_F(Efivarfs, DoesNotTakeAnEmptyMountPointForFirmwareWithoutVariables) {
  EXPECT_EQ(ReasonOf(variables_.Read("dbx", kImageSecurityVendor).status()),
            Reason::kFirmwareVariableUnreadable);
}

TEST_F(Efivarfs, RefusesAVariableWithoutAttributes) {
  Put("SecureBoot", kGlobalVendor, "\x06\x01");
  EXPECT_EQ(ReasonOf(variables_.Read("SecureBoot", kGlobalVendor).status()),
            Reason::kFirmwareVariableUnreadable);
}

TEST(OsRelease, PrefersTheImageVersion) {
  EXPECT_EQ(*OsReleaseVersion("ID=debian\nVERSION_ID=\"12\"\nIMAGE_VERSION='2.0.1'\n"), "2.0.1");
  EXPECT_EQ(*OsReleaseVersion("VERSION_ID=\"12\""), "12");
  EXPECT_EQ(*OsReleaseVersion("VERSION_ID=1\r\nVERSION_ID=2\r\n"), "2");
  EXPECT_EQ(OsReleaseValue("XVERSION_ID=1\n#VERSION_ID=2\n", "VERSION_ID"), "");
  EXPECT_EQ(ReasonOf(OsReleaseVersion("ID=debian\n").status()), Reason::kImageMalformed);
  EXPECT_EQ(ReasonOf(OsReleaseVersion("VERSION_ID=../../etc\n").status()), Reason::kImageMalformed);
}

}  // namespace
}  // namespace sealift::agent
