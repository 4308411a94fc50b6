#include "shared/efi/boot_entry.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace sealift::efi {
namespace {

using test::ReasonIdFrom;

TEST(BootEntryTest, ReadsKeysOfAnyKind) {
  const auto entry = BootEntry::Parse(
      "# comment\ntitle   My OS \r\n\nefi\t/EFI/kairos/1.efi\nx-new 1\noptions a\noptions b");
  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_EQ(entry->Get("title"), "My OS");
  EXPECT_EQ(entry->Get("efi"), "/EFI/kairos/1.efi");
  EXPECT_EQ(entry->Get("absent"), "");
  EXPECT_EQ(entry->fields().size(), 5u);
  EXPECT_EQ(entry->Format(), "title My OS\nefi /EFI/kairos/1.efi\nx-new 1\noptions a\noptions b\n");
  EXPECT_EQ(BootEntry::Parse(entry->Format()).value(), *entry);
}

TEST(BootEntryTest, SetReplacesOrAppends) {
  BootEntry entry;
  entry.Set("title", "A");
  entry.Set("version", "1.0");
  entry.Set("title", " B ");
  EXPECT_EQ(entry.Format(), "title B\nversion 1.0\n");
}

TEST(BootEntryTest, KeepsUtf8AndRefusesOtherBytes) {
  EXPECT_EQ(BootEntry::Parse("title Gr\xc3\xbc\xc3\x9f"
                             "e \xf0\x9f\x9a\x80")
                ->Get("title"),
            "Gr\xc3\xbc\xc3\x9f"
            "e \xf0\x9f\x9a\x80");
  for (const std::string_view bad :
       {std::string_view("title a\0b", 9), std::string_view("title \xff"), std::string_view("title \xc0\xaf"),
        std::string_view("title \xed\xa0\x80"), std::string_view("title \xf4\x90\x80\x80"),
        std::string_view("title \xc3"), std::string_view("title \x1b[2J"), std::string_view("tItle x"),
        std::string_view("ti=tle x")})
    EXPECT_EQ(ReasonIdFrom(BootEntry::Parse(bad)), "BOOT_ENTRY_MALFORMED") << bad;
}

TEST(BootEntryTest, IsBounded) {
  EXPECT_EQ(ReasonIdFrom(BootEntry::Parse(std::string(kMaxEntryBytes + 1, 'a'))), "BOOT_ENTRY_MALFORMED");
  std::string lines;
  for (int i = 0; i < 257; ++i) lines += "a b\n";
  EXPECT_EQ(ReasonIdFrom(BootEntry::Parse(lines)), "BOOT_ENTRY_MALFORMED");
}

TEST(BootEntryNameTest, ReadsAndWritesCounters) {
  const struct {
    const char* text;
    std::string id;
    std::optional<BootCounter> counter;
  } cases[] = {{"active.conf", "active", std::nullopt},
               {"active+3.conf", "active", BootCounter{3, 0, 1, 0}},
               {"active+2-1.conf", "active", BootCounter{2, 1, 1, 1}},
               {"active+02-010.conf", "active", BootCounter{2, 10, 2, 3}},
               {"active+0-3.efi", "active", BootCounter{0, 3, 1, 1}},
               {"os-1.2+3.efi", "os-1.2", BootCounter{3, 0, 1, 0}}};
  for (const auto& one : cases) {
    const auto name = BootEntryName::Parse(one.text);
    ASSERT_TRUE(name.ok()) << one.text;
    EXPECT_EQ(name->id, one.id);
    EXPECT_EQ(name->counter, one.counter) << one.text;
    EXPECT_EQ(name->Format(), one.text);
  }
  EXPECT_TRUE(BootEntryName::Parse("a+0-3.conf")->counter->exhausted());
}

TEST(BootEntryNameTest, KeepsTheWidthOfItsDigits) {
  BootEntryName name = BootEntryName::Parse("a+10-09.conf").value();
  name.counter->left = 9;
  name.counter->done = 10;
  EXPECT_EQ(name.Format(), "a+09-10.conf");
}

TEST(BootEntryNameTest, FreshTriesAndBlessing) {
  const BootEntryName name = BootEntryName::Parse("active+0-2.conf").value();
  EXPECT_EQ(name.WithTries(3).Format(), "active+3.conf");
  EXPECT_EQ(name.Blessed().Format(), "active.conf");
}

TEST(BootEntryNameTest, RefusesWhatSystemdBootWouldReadOtherwise) {
  for (const char* text : {"", "active", ".conf", "active.txt", "active+.conf", "active+a.conf",
                           "active+1-.conf", "active+1-2-3.conf", "active+1+2.conf", "active+1234567890.conf",
                           "a b.conf", "../a.conf", "a\\b.conf", ".hidden.conf"})
    EXPECT_EQ(ReasonIdFrom(BootEntryName::Parse(text)), "BOOT_ENTRY_MALFORMED") << text;
}

TEST(LoaderConfTest, NeverNamesADefault) {
  EXPECT_EQ((LoaderConf{.timeout_seconds = 0, .secure_boot_enroll = "force"}).Format(),
            "timeout 0\neditor no\nsecure-boot-enroll force\n");
  EXPECT_EQ(LoaderConf{}.Format().find("default"), std::string::npos);
}

TEST(LoaderConfTest, EnrollModesByLoaderVersion) {
  for (const char* mode : {"off", "manual", "force"})
    EXPECT_TRUE(CheckEnrollMode(mode, "252.39-1~deb12u2").ok());
  EXPECT_EQ(ReasonIdFrom(CheckEnrollMode("if-safe", "252.39-1~deb12u2")), "ENROLL_MODE_UNKNOWN");
  EXPECT_TRUE(CheckEnrollMode("if-safe", "257.8").ok());
  EXPECT_EQ(ReasonIdFrom(CheckEnrollMode("yes", "257.8")), "ENROLL_MODE_UNKNOWN");
}

}  // namespace
}  // namespace sealift::efi
