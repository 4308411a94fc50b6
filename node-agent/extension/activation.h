// Lays the release's system extensions over /usr and /opt and its configuration extensions over /etc, once,
// early in the boot, after checking each.
//
// What may be laid over is listed inside the image, which was measured; the files themselves lie beside the
// image on the ESP, where anybody may write, and come here through the stub (PCR 13). systemd-sysext
// would not ask what the release lists, and before 254 not even for signatures: it is masked, and this takes
// its place (docs/extensions.md). Not thread-safe.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/ddi/extension_image.h"

namespace sealift::agent {

// What touches the kernel. SystemMounter is the real one.
class Mounter {
 public:
  virtual ~Mounter() = default;
  // The file system at `offset` of the file, read-only, on a folder that is made. Errors: TOOL_FAILED.
  virtual Status MountImage(const std::filesystem::path& file, std::uint64_t offset, std::uint64_t bytes,
                            const std::filesystem::path& on) = 0;
  // `layers`, first on top, over what is at `on` already. `changes`: a folder that is made, on a file system
  // that overlays may write to, for what is changed there from then on; empty: read-only. Errors:
  // TOOL_FAILED.
  virtual Status Overlay(const std::vector<std::filesystem::path>& layers, const std::filesystem::path& on,
                         const std::filesystem::path& changes) = 0;
};

// mount(8): squashfs through a loop device, and overlayfs.
class SystemMounter final : public Mounter {
 public:
  Status MountImage(const std::filesystem::path& file, std::uint64_t offset, std::uint64_t bytes,
                    const std::filesystem::path& on) override;
  Status Overlay(const std::vector<std::filesystem::path>& layers, const std::filesystem::path& on,
                 const std::filesystem::path& changes) override;
};

struct ActivationPlaces {
  std::filesystem::path root = "/";
  // Where a stub puts *.raw files found beside the image.
  std::filesystem::path images = "/.extra/sysext";
  // Where one of 256 or later puts *.confext.raw.
  std::filesystem::path configurations = "/.extra/confext";
  std::filesystem::path mounts = "/run/sealift/extensions";
};

struct RefusedExtension {
  // File name, or the name of one that is listed and absent.
  std::string name;
  Status why;
};

struct Activation {
  std::vector<std::string> merged;
  // EXTENSION_NOT_LISTED: lies there without being listed, or is another file than the listed one.
  // EXTENSION_SIGNATURE_INVALID: not signed by a key in the image. EXTENSION_INVALID: listed and absent,
  // damaged, or for another OS.
  std::vector<RefusedExtension> refused;
};

// Those that pass are laid over together, whatever is wrong with the others; nothing of a refused one is
// mounted. Errors, with nothing changed or some images mounted and none laid over: EXTENSION_INVALID for the
// list itself; FILE_UNREADABLE; those of the mounter.
Result<Activation> ActivateExtensions(const ActivationPlaces& places, Mounter& mounter);

}  // namespace sealift::agent
