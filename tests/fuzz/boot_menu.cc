// Options of build-uki as an operator's script may give them: lines of the input are branding, default
// command line, words to add, single entries. What is accepted makes names, entries and command lines that
// others can read.
#include "controller/build/boot_menu.h"

#include "controller/build/command_line.h"
#include "controller/build/fat_names.h"
#include "shared/base/bytes.h"
#include "shared/efi/boot_entry.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view rest = AsText(ByteView(data, size));
  const auto line = [&] {
    const std::string_view taken = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), taken.size() + 1));
    return std::string(taken);
  };
  build::MenuOptions options{.branding = line(), .include_version = true, .include_command_line = true};
  const std::string command_line = line();
  for (int i = 0; i < 3; ++i) options.extra.push_back(line());
  while (!rest.empty() && options.single.size() < 16) options.single.push_back(line());
  const auto menu = build::PlanMenu(command_line, options);
  if (!menu.ok()) return 0;
  std::vector<std::string> paths;
  for (const build::MenuEntry& entry : *menu) {
    const auto text = efi::BootEntry::Parse(build::EntryText(entry, "1.0", options));
    SEALIFT_CHECK(text.ok() && text->Get("efi") == "/" + entry.image_path());
    SEALIFT_CHECK(build::CheckCommandLine(entry.command_line, "entry").ok());
    SEALIFT_CHECK(entry.unlocks == (&entry == &menu->front()));
    for (const build::RiskyWord& risky : build::FindRiskyWords(entry.command_line))
      SEALIFT_CHECK(!risky.finding.empty());
    paths.push_back(entry.image_path());
    paths.push_back(entry.entry_path());
  }
  SEALIFT_CHECK(build::CheckFatNames(paths, "menu").ok());
  return 0;
}
