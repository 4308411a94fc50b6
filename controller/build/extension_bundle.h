// The extensions of a release: checked, listed inside the image, laid beside it, and measured
// (docs/extensions.md).
//
// Not thread-safe: the tree is changed.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "controller/build/esp_tree.h"
#include "controller/build/node_kit.h"
#include "shared/release/extension_list.h"
#include "shared/release/image_measurements.h"

namespace sealift::build {

struct ExtensionBundle {
  std::vector<ListedExtension> list;
  // In the order of `list`.
  std::vector<std::filesystem::path> files;
  // PCR 13 of an image that they lie beside; none without extensions.
  std::vector<ParameterEvent> pcr13;
  // What configuration extensions among them add to PCR 12.
  std::vector<ParameterEvent> pcr12;
};

// Checks each file (signed by one of `certificates`, made for this OS), puts list and certificates into the
// tree and enables the agent's unit, which stands in for systemd-sysext and systemd-confext. Without files
// the tree stays as it is. Errors: EXTENSION_INVALID, EXTENSION_SIGNATURE_INVALID; UKI_STUB_UNSUPPORTED for a
// configuration extension that this stub would take for another thing; FAILED_PRECONDITION/ROOTFS_UNUSABLE
// for a tree without the agent; those of DescribeExtension.
Result<ExtensionBundle> BundleExtensions(std::span<const std::filesystem::path> files,
                                         std::span<const Bytes> certificates, const OsRelease& os_release,
                                         unsigned stub_major, Tree& tree);

// Copies the files to where the stub of the image at `image_path` looks. Errors: FILE_UNREADABLE,
// FILE_UNWRITABLE, DISK_FULL; FAILED_PRECONDITION/EXTENSION_INVALID for a file that changed meanwhile.
Status WriteExtensions(const ExtensionBundle& bundle, const std::string& image_path, EspTree& esp);

}  // namespace sealift::build
