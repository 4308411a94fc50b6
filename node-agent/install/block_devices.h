// The machine's disks, and what lies on them.
//
// Names, labels and serials come from disks and are foreign: they are compared, quoted and printed escaped,
// never run. Plain values; thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"

namespace sealift::agent {

// Runs a program; RunCommandChecked on a node, a script of answers in tests. Returns its standard output.
class CommandRunner {
 public:
  virtual ~CommandRunner() = default;
  // Errors: TOOL_MISSING, TOOL_FAILED, TIMEOUT.
  virtual Result<std::string> Run(const std::vector<std::string>& argv, const std::string& input = {}) = 0;
};

class SystemCommandRunner final : public CommandRunner {
 public:
  Result<std::string> Run(const std::vector<std::string>& argv, const std::string& input = {}) override;
};

struct BlockPartition {
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  // PARTLABEL.
  std::string name;
  // Of the file system or volume on it, as libblkid names them ("crypto_LUKS"); empty: none it knows.
  std::string content;
  std::string label;
  // Mounted, swapped to, or held by another device.
  bool in_use = false;
};

struct BlockDisk {
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  std::uint32_t sector_bytes = 512;
  bool read_only = false;
  std::string serial;
  std::string wwn;
  std::string model;
  // "gpt", "dos", ...; empty: none.
  std::string table;
  // A file system or volume on the whole disk.
  std::string content;
  std::string label;
  bool in_use = false;
  std::vector<BlockPartition> partitions;
};

// Asks lsblk. Whole disks only: no CD drive, loop or RAM device, no floppy. In the order of their names.
// Errors: INSTALL errors of the runner; INTERNAL/TOOL_FAILED for an answer that is no lsblk JSON.
Result<std::vector<BlockDisk>> ListDisks(CommandRunner& runner);
// The parser alone. Errors: INTERNAL/TOOL_FAILED.
Result<std::vector<BlockDisk>> ParseLsblk(std::string_view json);

// What a disk is to the installer.
enum class DiskState {
  // Nothing that libblkid knows, or an empty partition table.
  kEmpty,
  // An installation of ours that was cut off; it may be made again.
  kUnfinished,
  // An installation of ours.
  kInstallation,
  // Anything else.
  kForeign,
};
std::string_view DiskStateName(DiskState state);

// The ESP's partition name until the installation is complete.
inline constexpr std::string_view kUnfinishedName = "sealift-unfinished";

// From names and labels alone, so it protects against accidents, not against who can write to the disk: he
// can wipe it anyway. In doubt it is an installation.
DiskState StateOf(const BlockDisk& disk);

// "'/dev/vda' (20.0 GiB, QEMU HARDDISK, serial abc)", for messages.
std::string DescribeDisk(const BlockDisk& disk);
// What lies on it, for messages: "partitions 'EFI' (vfat), 'root' (ext4)".
std::string DescribeContent(const BlockDisk& disk);
// "512.0 MiB".
std::string DescribeBytes(std::uint64_t bytes);

}  // namespace sealift::agent
