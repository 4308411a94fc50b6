// The install medium: an ISO 9660 volume whose EFI system partition is a file in it
// (controller/media/install_iso.h).
//
// Its files are foreign: overlay files are data for hooks, the release is verified before use (esp_layout.h).
// Not thread-safe.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "node-agent/esp/efi_variables.h"
#include "node-agent/install/block_devices.h"

namespace sealift::agent {

inline constexpr std::string_view kMediumLabel = "UKI_ISO_INSTALL";
// Where hooks find overlay files, as on the seed's media.
inline constexpr std::string_view kLiveFolder = "/run/initramfs/live";
inline constexpr std::string_view kMediumEspFolder = "/run/sealift/medium-esp";
inline constexpr std::string_view kMediumEspImage = "efiboot.img";

struct Medium {
  // Root of the ISO.
  std::filesystem::path live;
  // Root of its EFI system partition, with release.json.
  std::filesystem::path release;
  // The disk it lies on, which is no target; "/dev/sr0" for a CD.
  std::filesystem::path disk;
};

// The boot entry that was selected is one of a medium ("norole..."). Errors:
// FIRMWARE_VARIABLE_UNREADABLE.
Result<bool> BootedFromMedium(EfiVariables& variables);

// Looks for the one volume with the medium's label and mounts it and its EFI system partition, read-only, in
// this process's mount namespace. Waits up to half a minute for the drive. Errors:
// FAILED_PRECONDITION/MEDIUM_UNUSABLE: none, several, or it cannot be mounted.
Result<Medium> MountMedium(CommandRunner& runner);
// The volume's device and its disk, from lsblk's JSON; nothing when there is none. Errors: MEDIUM_UNUSABLE
// when there are several.
struct MediumDevice {
  std::filesystem::path volume;
  std::filesystem::path disk;
};
Result<std::optional<MediumDevice>> FindMedium(std::string_view lsblk_json);

// A mount namespace of this process's own: what is mounted from here on is seen by nobody else, and goes with
// it. Errors: INTERNAL/TOOL_FAILED.
Status EnterOwnMounts();

}  // namespace sealift::agent
