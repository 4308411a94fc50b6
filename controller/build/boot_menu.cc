#include "controller/build/boot_menu.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "controller/build/command_line.h"
#include "shared/crypto/hash.h"
#include "shared/efi/boot_entry.h"

namespace sealift::build {
namespace {

constexpr std::string_view kMainId = "norole";
constexpr std::string_view kSingleId = "single_entry";
constexpr std::string_view kMainProfile = "main";
// Entry files of installed machines: an entry of the medium must not be taken for a role.
constexpr std::array<std::string_view, 5> kRoles = {"active", "passive", "recovery", "statereset", kMainId};
// With ".conf", a counter and a role's longer prefix this stays far below FAT's 255.
constexpr std::size_t kMaxId = 120;

Status Wrong(Reason reason, std::string what) {
  return MakeError(Code::kInvalidArgument, reason, fmt::format("plan boot menu: {}", what));
}

std::string_view Trim(std::string_view text) {
  const std::size_t from = text.find_first_not_of(' ');
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(' ') - from + 1);
}

std::string Lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

// Runs of what a boot entry's name cannot hold become one '_' each. What is too long ends in a digest
// instead.
std::string Sanitised(std::string_view text) {
  std::string name;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '.' || c == '-' || c == '_';
    if (plain) {
      name += c;
    } else if (name.empty() || name.back() != '_') {
      name += '_';
    }
  }
  if (name.size() <= kMaxId) return name;
  return name.substr(0, kMaxId) + "_" + Sha256(AsBytes(text)).hex().substr(0, 8);
}

std::string Joined(std::string_view line, std::string_view more) {
  if (line.empty() || more.empty()) return fmt::format("{}{}", line, more);
  return fmt::format("{} {}", line, more);
}

MenuEntry ExtraEntry(std::string_view line, const MenuOptions& options, std::string_view words) {
  return {.id = fmt::format("{}_{}", kMainId, Sanitised(words)),
          .title = options.branding,
          .command_line = Joined(line, words),
          .added = std::string(words)};
}

struct TitledWords {
  // Empty where the text names none.
  std::string_view title;
  std::string_view words;
};

TitledWords SplitTitle(std::string_view text) {
  const std::size_t colon = text.find(':');
  // A colon inside a word ("root=nfs:...") splits no title off.
  const bool titled =
      colon != std::string_view::npos && text.substr(0, colon).find('=') == std::string_view::npos;
  if (!titled) return {.title = {}, .words = Trim(text)};
  return {.title = Trim(text.substr(0, colon)), .words = Trim(text.substr(colon + 1))};
}

MenuEntry SingleEntry(std::string_view line, const MenuOptions& options, std::string_view text) {
  const auto [title, words] = SplitTitle(text);
  MenuEntry entry{.command_line = Joined(line, words), .added = std::string(words)};
  if (title.empty()) {
    entry.id = fmt::format("{}_{}", kSingleId, Sanitised(words));
    entry.title = options.branding;
  } else {
    entry.id = Sanitised(title);
    entry.title = fmt::format("{} ({})", options.branding, title);
  }
  return entry;
}

Status CheckEntries(const std::vector<MenuEntry>& entries) {
  std::set<std::string> names;
  for (const MenuEntry& entry : entries) {
    SEALIFT_RETURN_IF_ERROR(
        CheckCommandLine(entry.command_line, fmt::format("command line of '{}'", entry.id)));
    const bool main = &entry == &entries.front();
    if (!main && entry.added.empty())
      return Wrong(Reason::kCommandLineInvalid,
                   fmt::format("entry '{}' adds nothing to the command line", entry.id));
    const std::string name = Lower(entry.id);
    const bool role = !main && std::find(kRoles.begin(), kRoles.end(), name) != kRoles.end();
    if (role) return Wrong(Reason::kFileNameClash, fmt::format("'{}' is the name of a role", entry.id));
    if (!names.insert(name).second)
      return Wrong(Reason::kFileNameClash, fmt::format("two entries would be named '{}'", entry.id));
    // A title or words that no boot loader would read: not UTF-8, for one.
    if (const auto text =
            efi::BootEntry::Parse(fmt::format("title {}\ncmdline {}\n", entry.title, entry.added));
        !text.ok())
      return Annotate(text.status(), fmt::format("plan boot menu: entry '{}'", entry.id));
    if (!efi::BootEntryName::Parse(entry.id + ".conf").ok())
      return Wrong(Reason::kFileNameClash, fmt::format("'{}' cannot name a boot entry", entry.id));
  }
  return OkStatus();
}

// The main entry, the first, unlocks anyway and cannot be meant.
Status MarkUnlocking(const std::vector<std::string>& wanted, std::vector<MenuEntry>& entries) {
  for (const std::string& name : wanted) {
    MenuEntry* meant = nullptr;
    for (MenuEntry& entry : entries) {
      const bool main = &entry == &entries.front();
      if (main || (name != entry.id && name != entry.title && name != entry.added &&
                   !entry.title.ends_with(fmt::format(" ({})", name))))
        continue;
      if (meant != nullptr) {
        return Wrong(
            Reason::kInvalidArgument,
            fmt::format("'{}', which is to unlock disks, may be '{}' or '{}'; name it by one of these", name,
                        meant->id, entry.id));
      }
      meant = &entry;
    }
    if (meant == nullptr)
      return Wrong(Reason::kInvalidArgument,
                   fmt::format("no extra or single entry is called '{}', which is to unlock disks", name));
    meant->unlocks = true;
  }
  return OkStatus();
}

}  // namespace

std::string MenuEntry::image_path() const { return fmt::format("EFI/kairos/{}.efi", id); }
std::string MenuEntry::entry_path() const { return fmt::format("loader/entries/{}.conf", id); }

Result<std::vector<MenuEntry>> PlanMenu(std::string_view command_line, const MenuOptions& options) {
  SEALIFT_RETURN_IF_ERROR(CheckCommandLine(options.branding, "boot branding"));
  if (Trim(options.branding).empty()) return Wrong(Reason::kInvalidArgument, "the boot branding is empty");
  if (!options.extend.empty() && !options.extra.empty()) {
    return Wrong(Reason::kInvalidArgument,
                 "extend-cmdline and extra-cmdline exclude each other; put common words into --cmdline");
  }
  std::vector<MenuEntry> entries;
  const std::string_view extend = Trim(options.extend);
  entries.push_back({.id = std::string(kMainId),
                     .title = options.branding,
                     .command_line = Joined(command_line, extend),
                     .added = std::string(extend),
                     .unlocks = true});
  for (const std::string& words : options.extra)
    entries.push_back(ExtraEntry(command_line, options, Trim(words)));
  for (const std::string& text : options.single) entries.push_back(SingleEntry(command_line, options, text));
  SEALIFT_RETURN_IF_ERROR(CheckEntries(entries));
  SEALIFT_RETURN_IF_ERROR(MarkUnlocking(options.unlock_with, entries));
  return entries;
}

std::string MenuProfile::Text() const { return fmt::format("ID={}\nTITLE={}\n", id, title); }

Result<std::vector<MenuProfile>> PlanProfiles(const MenuOptions& options) {
  std::vector<MenuProfile> profiles;
  if (options.profiles.empty()) return profiles;
  profiles.push_back({.id = std::string(kMainProfile), .title = options.branding, .added = {}});
  std::set<std::string> ids = {std::string(kMainProfile)};
  for (const std::string& text : options.profiles) {
    const auto [title, words] = SplitTitle(text);
    MenuProfile profile{.id = Lower(Sanitised(title.empty() ? words : title)),
                        .title = title.empty() ? options.branding : std::string(title),
                        .added = std::string(words)};
    if (words.empty())
      return Wrong(Reason::kCommandLineInvalid,
                   fmt::format("profile '{}' adds nothing to the command line", profile.id));
    SEALIFT_RETURN_IF_ERROR(CheckCommandLine(profile.title, "title of a profile"));
    if (!ids.insert(profile.id).second)
      return Wrong(Reason::kFileNameClash, fmt::format("two profiles would be named '{}'", profile.id));
    profiles.push_back(std::move(profile));
  }
  return profiles;
}

Result<std::string> ProfileCommandLine(std::string_view line, const MenuProfile& profile) {
  std::string joined = Joined(line, profile.added);
  SEALIFT_RETURN_IF_ERROR(CheckCommandLine(joined, fmt::format("command line of profile '{}'", profile.id)));
  return joined;
}

std::string EntryText(const MenuEntry& entry, std::string_view version, const MenuOptions& options) {
  efi::BootEntry text;
  text.Set("title", entry.title);
  text.Set("efi", "/" + entry.image_path());
  if (options.include_version) text.Set("version", version);
  if (options.include_command_line) text.Set("cmdline", entry.added);
  return text.Format();
}

}  // namespace sealift::build
