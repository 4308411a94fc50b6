#include "node-agent/esp/efi_variables.h"

#include <gtest/gtest.h>

#include "node-agent/esp/os_release.h"
#include "shared/base/files.h"
#include "tests/contract/efi_variables_contract.h"
#include "tests/contract/map_efi_variables.h"

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

TEST_F(Efivarfs, WritesAttributesAndValueAsOne) {
  Put("SecureBoot", kGlobalVendor, std::string_view("\x06\0\0\0\x01", 5));
  ASSERT_TRUE(variables_.Write("BootOrder", kGlobalVendor, kPlainVariable, Bytes{1, 0}).ok());
  EXPECT_EQ(*ReadFile(temp_.path() / ("BootOrder-" + std::string(kGlobalVendor))), (Bytes{7, 0, 0, 0, 1, 0}));
}

TEST_F(Efivarfs, WritesNothingIntoAnEmptyMountPoint) {
  EXPECT_EQ(ReasonOf(variables_.Write("db", kImageSecurityVendor, kPlainVariable, Bytes{1})),
            Reason::kFirmwareVariableUnreadable);
  EXPECT_TRUE(std::filesystem::is_empty(temp_.path()));
}

TEST_F(Efivarfs, TellsAWriteThatFirmwareRefuses) {
  Put("SecureBoot", kGlobalVendor, std::string_view("\x06\0\0\0\x01", 5));
  // A name that cannot be opened for writing stands for a locked variable.
  std::filesystem::create_directory(temp_.path() / ("PK-" + std::string(kGlobalVendor)));
  EXPECT_EQ(ReasonOf(variables_.Write("PK", kGlobalVendor, kPlainVariable, Bytes{1})),
            Reason::kFirmwareRefused);
}

// A folder with efivarfs's names; it goes away with the variables.
class FolderEfiVariables final : public EfiVariables {
 public:
  FolderEfiVariables() {
    const std::string file = "SecureBoot-" + std::string(kGlobalVendor);
    SEALIFT_CHECK(WriteFileAtomically(temp_.path() / file, Bytes{6, 0, 0, 0, 1}).ok());
  }
  Result<std::optional<Bytes>> Read(std::string_view name, std::string_view vendor) override {
    return variables_.Read(name, vendor);
  }
  Status Write(std::string_view name, std::string_view vendor, std::uint32_t attributes,
               ByteView value) override {
    return variables_.Write(name, vendor, attributes, value);
  }
  Status Remove(std::string_view name, std::string_view vendor) override {
    return variables_.Remove(name, vendor);
  }

 private:
  TempDir temp_ = TempDir::Create("sealift-efivars").value();
  EfivarfsVariables variables_{temp_.path()};
};

INSTANTIATE_TEST_SUITE_P(
    Both, EfiVariablesContract,
    testing::Values(EfiVariablesFactory{"map", [] { return std::make_shared<MapEfiVariables>(); }},
                    EfiVariablesFactory{"efivarfs", [] { return std::make_shared<FolderEfiVariables>(); }}),
    [](const auto& each) { return each.param.name; });

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
