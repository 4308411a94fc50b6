// The firmware's own boot menu: Boot#### and BootOrder (UEFI 2.10 sections 3.1.2 and 3.1.3).
//
// Functions over EfiVariables, as thread-safe as that. Names and order are authenticated by nothing and
// decide nothing but convenience: a firmware without them starts EFI/BOOT/BOOTX64.EFI.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "node-agent/esp/efi_variables.h"
#include "shared/efi/guid.h"

namespace sealift::agent {

// Where the boot loader lies on an ESP: where firmware looks for one by itself, and the second copy that our
// boot option names.
inline constexpr std::string_view kFallbackLoader = "EFI/BOOT/BOOTX64.EFI";
inline constexpr std::string_view kNamedLoader = "EFI/systemd/systemd-bootx64.efi";
inline constexpr std::string_view kBootOptionName = "Sealift";

// A program on a GPT partition.
struct DiskBootOption {
  std::string description;
  // From 1.
  std::uint32_t partition_number = 0;
  // In blocks of the disk.
  std::uint64_t start_block = 0;
  std::uint64_t blocks = 0;
  // The partition's own GUID.
  efi::Guid partition;
  // From the root of the file system, forward slashes: "EFI/systemd/systemd-bootx64.efi".
  std::string path;
};

// EFI_LOAD_OPTION, active.
Bytes EncodeBootOption(const DiskBootOption& option);

// Makes the option the first of BootOrder: found where it is there already, else under the lowest free
// number. Earlier ones with the same description are removed. Boot#### is written before BootOrder, so that a
// cut leaves an order that works. Returns the number. Errors: those of EfiVariables.
Result<std::uint16_t> EnsureBootOption(EfiVariables& variables, const DiskBootOption& option);

// The option that the next boot takes, once. Errors: those of EfiVariables.
Status SetBootNext(EfiVariables& variables, std::uint16_t number);

}  // namespace sealift::agent
