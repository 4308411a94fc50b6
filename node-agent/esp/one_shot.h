// Which entry the boot loader starts once, and which there are: `sealift-agent bootentry`.
//
// LoaderEntryOneShot of the Boot Loader Interface (https://systemd.io/BOOT_LOADER_INTERFACE): UTF-16, the
// file name of the entry with its counter. Functions without state.
#pragma once

#include <string>

#include "node-agent/esp/boot_entries.h"
#include "node-agent/esp/efi_variables.h"
#include "node-agent/esp/file_system.h"

namespace sealift::agent {

struct BootChoice {
  // Sorted by file name.
  std::vector<RoleEntry> entries;
  // What the boot loader said it started (LoaderEntrySelected); empty where it said nothing.
  std::string started;
  // LoaderEntryOneShot; empty: none.
  std::string once;
};

// Errors: those of LoadBootEntries and EfiVariables.
Result<BootChoice> ReadBootChoice(FileSystem& esp, EfiVariables& variables);

// The next boot, and only that, starts this role. Among entries of one role: the one that is blessed. Errors:
// NOT_FOUND/BOOT_STATE_UNKNOWN when no entry of the role names an image that is there; FIRMWARE_REFUSED when
// the firmware keeps something else; those of ReadBootChoice.
Result<RoleEntry> SelectOnce(FileSystem& esp, EfiVariables& variables, BootRole role);

}  // namespace sealift::agent
