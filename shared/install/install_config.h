// The install configuration: a YAML cloud-config in the shape that Kairos uses (docs/install.md has an
// example).
//
// Strict: everything that is wrong is told at once, and an unknown key is wrong. Who wrote it is another
// question (config_source.h). A plain value; parsing is thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"

namespace sealift {

struct ExtraPartition {
  // PARTLABEL, and /dev/mapper/<name> when encrypted.
  std::string name;
  // 0: what the others leave.
  std::uint64_t bytes = 0;
  // "ext2", "ext3", "ext4", "vfat"; "none": not formatted.
  std::string file_system = "ext2";
  // Of the file system; empty: the name.
  std::string label;
  bool encrypted = false;
};

// One step of a hook; its commands run one after the other, each by /bin/sh -c.
struct HookStep {
  std::string name;
  std::vector<std::string> commands;
};

struct InstallConfig {
  // "auto" (the biggest disk that is not the medium), a path, "serial:..." or "wwn:...".
  std::string device = "auto";
  // An install medium starts the installation by itself.
  bool automatic = false;
  // What follows a success. At most one; neither leaves the machine on.
  bool reboot = false;
  bool power_off = false;
  // Disks with data of others may be overwritten. Never one with an installation of ours.
  bool overwrite_foreign = false;
  // Keys may be enrolled in firmware without asking at the console.
  bool consent_enrol_keys = false;
  std::uint64_t oem_bytes = 64ull << 20;
  // 0: what the others leave.
  std::uint64_t persistent_bytes = 0;
  std::vector<ExtraPartition> extra;
  // stages.kairos-uki-install.pre and before-install: before the disk is written.
  std::vector<HookStep> before;
  // stages.after-install and kairos-uki-install.after: with the new volumes mounted.
  std::vector<HookStep> after;
  // Keys and stages that are for the OS, which gets the file as /oem/90_custom.yaml.
  std::vector<std::string> left_to_os;

  bool has_hooks() const { return !before.empty() || !after.empty(); }
};

// Names that partitions of an installation have anyway.
inline constexpr std::string_view kEspName = "ESP";
inline constexpr std::string_view kOemName = "oem";
inline constexpr std::string_view kPersistentName = "persistent";
inline constexpr std::string_view kOemLabel = "COS_OEM";
inline constexpr std::string_view kPersistentLabel = "COS_PERSISTENT";

// Sizes are MiB in the text. Errors: INVALID_ARGUMENT/INSTALL_CONFIG_INVALID naming every problem with its
// path,
// "; " between them; a text that is no YAML has one.
Result<InstallConfig> ParseInstallConfig(std::string_view text);

}  // namespace sealift
