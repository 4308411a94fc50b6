// What the boot menu of a medium shows: the main entry and those with other command lines, each an image of
// its own, because the command line is part of what is signed and measured.
//
// Names and lines are those of the seed's builder, so its documents and scripts hold. Thread-safe functions
// over plain values.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"

namespace sealift::build {

struct MenuOptions {
  // Title of every entry.
  std::string branding = "Kairos";
  // Words more for the main entry.
  std::string extend;
  // One entry each, to be installed beside every role: the words it adds.
  std::vector<std::string> extra;
  // One entry each, apart from the roles: "Title: words it adds", or the words alone.
  std::vector<std::string> single;
  // One more profile of every image each, by the same rules: "Title: words it adds", or the words alone. None
  // unlocks disks.
  std::vector<std::string> profiles;
  // Names of extra and single entries (ids, titles or the words they add) that may unlock disks.
  std::vector<std::string> unlock_with;
  bool include_version = false;
  bool include_command_line = false;
};

struct MenuEntry {
  // Stem of the files EFI/kairos/<id>.efi and loader/entries/<id>.conf: [A-Za-z0-9._-].
  std::string id;
  std::string title;
  // As signed.
  std::string command_line;
  // What differs from the default command line.
  std::string added;
  // Whether the image carries PCR signatures, without which a TPM unlocks no disk for it.
  bool unlocks = false;

  std::string image_path() const;
  std::string entry_path() const;
};

// Of a multi-profile image (UAPI.5); the first one is the image as it is without.
struct MenuProfile {
  // [A-Za-z0-9._-]; "main" for the first.
  std::string id;
  std::string title;
  // What it adds to the image's command line.
  std::string added;

  // The .profile section.
  std::string Text() const;
};

// None where none are asked for, else the main one and those of `profiles`. Errors: INVALID_ARGUMENT/
// COMMAND_LINE_INVALID: one that adds nothing; INVALID_ARGUMENT/FILE_NAME_CLASH: two of one id.
Result<std::vector<MenuProfile>> PlanProfiles(const MenuOptions& options);
// `line` with what the profile adds. Errors: INVALID_ARGUMENT/COMMAND_LINE_INVALID.
Result<std::string> ProfileCommandLine(std::string_view line, const MenuProfile& profile);

// The main entry ("norole") first. Errors: INVALID_ARGUMENT/COMMAND_LINE_INVALID: a line that is no command
// line, or an entry that adds nothing; INVALID_ARGUMENT/FILE_NAME_CLASH: two entries of one name, or one with
// the name of a role; INVALID_ARGUMENT: a name in `unlock_with` that no entry has, or several have, besides
// the main one, `extend` together with `extra`, a branding that is not one line. `command_line`: the default
// one, which every entry begins with.
Result<std::vector<MenuEntry>> PlanMenu(std::string_view command_line, const MenuOptions& options);

// The text of loader/entries/<id>.conf: title, efi and, where asked for, version and cmdline.
std::string EntryText(const MenuEntry& entry, std::string_view version, const MenuOptions& options);

}  // namespace sealift::build
