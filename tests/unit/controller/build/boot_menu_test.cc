// Names and lines as the seed page prints them.
#include "controller/build/boot_menu.h"

#include <gtest/gtest.h>

#include "controller/build/fat_names.h"
#include "tests/support/status_matchers.h"

namespace sealift::build {
namespace {

using test::ReasonIdFrom;

std::vector<MenuEntry> Menu(const MenuOptions& options) { return PlanMenu("console=tty1", options).value(); }

TEST(BootMenuTest, DefaultIsOneEntryCalledKairos) {
  const auto menu = Menu({});
  ASSERT_EQ(menu.size(), 1u);
  EXPECT_EQ(menu[0].entry_path(), "loader/entries/norole.conf");
  EXPECT_EQ(menu[0].image_path(), "EFI/kairos/norole.efi");
  EXPECT_EQ(menu[0].command_line, "console=tty1");
  EXPECT_TRUE(menu[0].unlocks);
  EXPECT_EQ(EntryText(menu[0], "v3.1.3", {}), "title Kairos\nefi /EFI/kairos/norole.efi\n");
}

TEST(BootMenuTest, ExtendChangesTheDefaultEntryAndSaysWhatItAdds) {
  const MenuOptions options{.branding = "Awesome OS",
                            .extend = "awesome=true",
                            .include_version = true,
                            .include_command_line = true};
  const auto menu = Menu(options);
  ASSERT_EQ(menu.size(), 1u);
  EXPECT_EQ(menu[0].command_line, "console=tty1 awesome=true");
  EXPECT_TRUE(menu[0].unlocks);
  EXPECT_EQ(EntryText(menu[0], "v3.1.3", options),
            "title Awesome OS\nefi /EFI/kairos/norole.efi\nversion v3.1.3\ncmdline awesome=true\n");
}

TEST(BootMenuTest, CommandLineOfADefaultInstallationIsShownEmpty) {
  const MenuOptions options{.include_command_line = true};
  EXPECT_EQ(EntryText(Menu(options)[0], "1", options), "title Kairos\nefi /EFI/kairos/norole.efi\ncmdline\n");
}

TEST(BootMenuTest, ExtraAndSingleEntriesKeepTheDefaultOne) {
  const MenuOptions options{.branding = "My awesome OS",
                            .extra = {"rd.debug rd.immucore.debug", "a=1  b/c"},
                            .single = {"Debug logs: rd.debug rd.immucore.debug", "root=nfs:x quiet"},
                            .include_command_line = true};
  const auto menu = Menu(options);
  ASSERT_EQ(menu.size(), 5u);
  EXPECT_EQ(menu[0].added, "");
  EXPECT_EQ(menu[1].id, "norole_rd.debug_rd.immucore.debug");
  EXPECT_EQ(menu[1].title, "My awesome OS");
  EXPECT_EQ(menu[1].command_line, "console=tty1 rd.debug rd.immucore.debug");
  EXPECT_EQ(menu[2].id, "norole_a_1_b_c");
  EXPECT_EQ(menu[3].id, "Debug_logs");
  EXPECT_EQ(menu[3].title, "My awesome OS (Debug logs)");
  EXPECT_EQ(EntryText(menu[3], "1", options),
            "title My awesome OS (Debug logs)\nefi /EFI/kairos/Debug_logs.efi\ncmdline rd.debug "
            "rd.immucore.debug\n");
  EXPECT_EQ(menu[4].id, "single_entry_root_nfs_x_quiet");
  EXPECT_EQ(menu[4].title, "My awesome OS");
  for (std::size_t i = 1; i < menu.size(); ++i) EXPECT_FALSE(menu[i].unlocks) << menu[i].id;
}

TEST(BootMenuTest, UnlockingIsForTheNamedEntriesOnly) {
  MenuOptions options{.extra = {"rd.debug"}, .single = {"One: a", "Two: b"}};
  for (const char* name : {"One", "Kairos (One)", "a"}) {
    options.unlock_with = {name};
    const auto menu = Menu(options);
    EXPECT_TRUE(menu[2].unlocks) << name;
    EXPECT_FALSE(menu[1].unlocks || menu[3].unlocks) << name;
  }
  options.unlock_with = {"norole_rd.debug"};
  EXPECT_TRUE(Menu(options)[1].unlocks);
  // Nobody's name, the main entry's, and one that several have: which of them would be signed was not said.
  options = {.extra = {"rd.debug", "quiet"}, .single = {"One: a"}};
  for (const char* name : {"Three", "norole", "Kairos"}) {
    options.unlock_with = {name};
    EXPECT_EQ(ReasonIdFrom(PlanMenu("", options)), "INVALID_ARGUMENT") << name;
  }
  options = {.unlock_with = {"Kairos"}};
  EXPECT_EQ(ReasonIdFrom(PlanMenu("", options)), "INVALID_ARGUMENT");
}

TEST(BootMenuTest, RefusesWhatNoMenuCanHold) {
  const auto reason = [](const MenuOptions& options) { return ReasonIdFrom(PlanMenu("quiet", options)); };
  EXPECT_EQ(reason({.extend = "a", .extra = {"b"}}), "INVALID_ARGUMENT");
  EXPECT_EQ(reason({.extra = {"a b", "a/b"}}), "FILE_NAME_CLASH");
  EXPECT_EQ(reason({.single = {"Debug: a", "debug: b"}}), "FILE_NAME_CLASH");
  for (const char* role : {"active: a", "Recovery: a", "norole: a"})
    EXPECT_EQ(reason({.single = {role}}), "FILE_NAME_CLASH") << role;
  EXPECT_EQ(reason({.extra = {""}}), "COMMAND_LINE_INVALID");
  EXPECT_EQ(reason({.single = {"Nothing: "}}), "COMMAND_LINE_INVALID");
  EXPECT_EQ(reason({.extra = {"a\nb"}}), "COMMAND_LINE_INVALID");
  EXPECT_EQ(reason({.extra = {std::string("a\0b", 3)}}), "COMMAND_LINE_INVALID");
  EXPECT_EQ(reason({.extra = {std::string(2042, 'a')}}), "COMMAND_LINE_INVALID");
  EXPECT_EQ(reason({.branding = "two\nlines"}), "COMMAND_LINE_INVALID");
  EXPECT_EQ(reason({.branding = "\xff"}), "BOOT_ENTRY_MALFORMED");
  EXPECT_EQ(reason({.branding = " "}), "INVALID_ARGUMENT");
}

TEST(BootMenuTest, LongCommandLinesGetNamesThatStayApart) {
  const std::string words(300, 'a');
  const auto menu = Menu({.extra = {words + " b", words + " c"}});
  EXPECT_LT(menu[1].id.size(), 150u);
  EXPECT_NE(menu[1].id, menu[2].id);
}

TEST(FatNamesTest, CaseAndOddCharactersDecide) {
  const auto reason = [](const std::vector<std::string>& paths) {
    return ReasonIdFrom(CheckFatNames(paths, "overlay"));
  };
  EXPECT_EQ(reason({"a/b", "a/c", "ab", "Größe.txt", "a/b.c"}), "NONE");
  EXPECT_EQ(reason({"a/README", "a/readme"}), "FILE_NAME_CLASH");
  EXPECT_EQ(reason({"Data/x", "data/y"}), "FILE_NAME_CLASH");
  EXPECT_EQ(reason({"data/x", "data"}), "FILE_NAME_CLASH");
  for (const char* odd : {"a:b", "a*", "what?", "a\\b", "a\tb", "dot.", "space ", "a//b", "", "\xff"})
    EXPECT_EQ(reason({odd}), "FILE_NAME_CLASH") << odd;
  EXPECT_EQ(reason({std::string(255, 'a')}), "NONE");
  EXPECT_EQ(reason({std::string(256, 'a')}), "FILE_NAME_CLASH");
}

}  // namespace
}  // namespace sealift::build
