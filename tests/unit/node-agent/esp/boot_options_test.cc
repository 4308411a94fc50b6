#include "node-agent/esp/boot_options.h"

#include <gtest/gtest.h>

#include "tests/contract/map_efi_variables.h"

namespace sealift::agent {
namespace {

DiskBootOption Option() {
  return {.description = "Sealift",
          .partition_number = 1,
          .start_block = 2048,
          .blocks = 1048576,
          .partition = efi::Guid::Parse("6e42d80e-d67a-462b-b99c-2c1b5dda91cf").value(),
          .path = std::string(kNamedLoader)};
}

Bytes Order(MapEfiVariables& variables) {
  return variables.Read("BootOrder", kGlobalVendor).value().value_or(Bytes());
}

// Taken apart by hand along UEFI 2.10 sections 3.1.3, 10.3.5.1 and 10.3.5.4.
TEST(BootOption, IsALoadOptionWithAHardDrivePath) {
  EXPECT_EQ(
      HexEncode(EncodeBootOption(Option())),
      "01000000"                          // active
      "7400"                              // 116 bytes of device path
      "5300650061006c006900660074000000"  // "Sealift"
      "04012a00"
      "01000000"
      "0008000000000000"
      "0000100000000000"
      "0ed8426e7ad62b46b99c2c1b5dda91cf"
      "0202"
      "04044600"
      "5c004500460049005c00730079007300740065006d0064005c00730079007300740065006d0064002d0062006f006f00740078"
      "00360034002e006500660069000000"
      "7fff0400");
}

TEST(BootOption, ComesFirstAndKeepsTheOthers) {
  MapEfiVariables variables;
  variables.Set("Boot0000", kGlobalVendor, Bytes{1});
  variables.Set("Boot0002", kGlobalVendor, Bytes{1});
  variables.Set("BootOrder", kGlobalVendor, Bytes{2, 0, 0, 0});
  EXPECT_EQ(EnsureBootOption(variables, Option()).value(), 1);
  EXPECT_EQ(Order(variables), (Bytes{1, 0, 2, 0, 0, 0}));
  EXPECT_EQ(variables.AttributesOf("Boot0001", kGlobalVendor), 7u);
  EXPECT_EQ(variables.writes(), (std::vector<std::string>{"Boot0001", "BootOrder"}));
}

TEST(BootOption, IsWrittenOnce) {
  MapEfiVariables variables;
  ASSERT_TRUE(EnsureBootOption(variables, Option()).ok());
  const std::size_t writes = variables.writes().size();
  EXPECT_EQ(EnsureBootOption(variables, Option()).value(), 0);
  EXPECT_EQ(variables.writes().size(), writes);
}

TEST(BootOption, ReplacesTheOneOfAnEarlierInstallation) {
  MapEfiVariables variables;
  DiskBootOption old = Option();
  old.partition.bytes[0] ^= 1;
  ASSERT_TRUE(EnsureBootOption(variables, old).ok());
  EXPECT_EQ(EnsureBootOption(variables, Option()).value(), 1);
  EXPECT_EQ(Order(variables), (Bytes{1, 0}));
  EXPECT_FALSE(variables.Read("Boot0000", kGlobalVendor)->has_value());
}

TEST(BootOption, ARefusalChangesNoOrder) {
  MapEfiVariables variables;
  variables.Set("BootOrder", kGlobalVendor, Bytes{2, 0});
  variables.RefuseWrites("Boot0000");
  EXPECT_EQ(ReasonOf(EnsureBootOption(variables, Option()).status()), Reason::kFirmwareRefused);
  EXPECT_EQ(Order(variables), (Bytes{2, 0}));
}

TEST(BootOption, NextIsOneNumber) {
  MapEfiVariables variables;
  ASSERT_TRUE(SetBootNext(variables, 0x12).ok());
  EXPECT_EQ(**variables.Read("BootNext", kGlobalVendor), (Bytes{0x12, 0}));
}

}  // namespace
}  // namespace sealift::agent
