// What an installation would do to which disk: computed before anything is touched, printed by --dry-run.
//
// Pure functions over values; thread-safe.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "node-agent/install/block_devices.h"
#include "shared/install/install_config.h"

namespace sealift::agent {

// GPT partition types (Discoverable Partitions Specification; UEFI 2.10 table 5-7).
inline constexpr std::string_view kEspType = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
inline constexpr std::string_view kLinuxType = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
inline constexpr std::string_view kLuksType = "CA7D7CCB-63ED-4C53-861C-1742536059CC";

struct PlannedPartition {
  // From 1, its place in the table.
  std::uint32_t number = 0;
  std::string name;
  std::string type;
  std::uint64_t start = 0;
  std::uint64_t bytes = 0;
  // "vfat", "ext4", ...; "none".
  std::string file_system;
  std::string label;
  bool encrypted = false;
  // Where hooks find it; empty: not mounted.
  std::filesystem::path mount;
};

struct InstallPlan {
  BlockDisk disk;
  DiskState state = DiskState::kEmpty;
  std::vector<PlannedPartition> partitions;

  // SEALIFT_CHECKs that there is one.
  const PlannedPartition& Find(std::string_view name) const;
};

// What the release needs of the ESP.
struct ReleaseSizes {
  // Of the image that nodes stage, with what lies beside it.
  std::uint64_t image_bytes = 0;
  // Boot loader twice, configuration, manifest.
  std::uint64_t other_bytes = 0;
};

// Three images (active, passive, recovery), a fourth while one is being written, each half as large again as
// this one, and 64 MiB. In whole MiB.
std::uint64_t EspBytes(const ReleaseSizes& sizes);

struct PlanInputs {
  std::vector<BlockDisk> disks;
  // What the installer runs from; empty when it is no disk.
  std::filesystem::path medium;
  ReleaseSizes release;
  // oem and persistent.
  bool encrypt = true;
  // Resolves links ("/dev/disk/by-id/..."); the identity in tests.
  std::filesystem::path (*resolve)(const std::filesystem::path&) = nullptr;
};

// The disk that the configuration means. "auto": the biggest writable one that is not the medium; of equals,
// the first by name. Errors: NOT_FOUND/DISK_NOT_FOUND listing those there are, also for a serial that several
// have.
Result<BlockDisk> ChooseDisk(const InstallConfig& config, const PlanInputs& inputs);

// Errors: as ChooseDisk; FAILED_PRECONDITION with DISK_HOLDS_INSTALLATION, DISK_HOLDS_DATA (also for a disk
// in use, whatever the configuration says) or DISK_TOO_SMALL.
Result<InstallPlan> MakePlan(const InstallConfig& config, const PlanInputs& inputs);

// The input of sfdisk; `unfinished`: the ESP gets the name that says so. No ids: sfdisk makes random ones.
std::string TableScript(const InstallPlan& plan, bool unfinished);

// For people, and for machines.
std::string PlanText(const InstallPlan& plan);
std::string PlanJson(const InstallPlan& plan);

}  // namespace sealift::agent
