// The boot loader's entries on the ESP: loader/entries/*.conf (UAPI.1 type #1) with boot counters in their
// names (UAPI "automatic boot assessment": NAME+LEFT[-DONE].conf). What is read here is authenticated by
// nothing.
//
// Functions without state over a FileSystem; not thread-safe, as that is not.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "node-agent/esp/file_system.h"
#include "node-agent/esp/staging.h"

namespace sealift::agent {

inline constexpr std::string_view kEntriesDirectory = "loader/entries";
inline constexpr std::string_view kImagesDirectory = "EFI/kairos";

struct BootEntries {
  // Every *.conf that names an image for `efi`, ours or not. Sorted by file name.
  std::vector<RoleEntry> entries;
  // Title by file name.
  std::map<std::string, std::string> titles;
  // Lower-case paths (leading '/') that any entry names by any key.
  std::vector<std::string> referenced;
  // Files of *.conf that do not parse, or entries of ours without an image.
  std::vector<std::string> unreadable;
};

// Errors: FAILED_PRECONDITION/ESP_MISSING without the directory; UNAVAILABLE/ESP_IO.
Result<BootEntries> LoadBootEntries(FileSystem& fs);

// What one of our entries says.
struct EntryText {
  std::string title;
  BootRole role = BootRole::kActive;
  std::string version;
  std::string image_path;
};
std::string FormatEntry(const EntryText& entry);

// kUnknown for ids ("active+3.conf" has the id "active") that are no role.
BootRole RoleOfId(std::string_view id);
// FAT's idea of equality, for ASCII.
std::string LowerCase(std::string_view text);
bool SamePath(std::string_view a, std::string_view b);
// "loader/entries/<file name>".
std::string EntryPath(std::string_view file_name);
// "/EFI/kairos/x.efi" -> "EFI/kairos/x.efi", as FileSystem wants it.
std::string_view RelativePath(std::string_view path);

}  // namespace sealift::agent
