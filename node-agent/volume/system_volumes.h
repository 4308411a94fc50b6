// The kernel behind the seams: device mapper, mkfs, mount, and the partitions of this machine.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "node-agent/volume/seams.h"

namespace sealift::agent {

// Through libcryptsetup. Reads and checks the header again, and maps what it checked.
class DeviceMapper final : public Mapper {
 public:
  Result<std::filesystem::path> Map(const std::filesystem::path& device, const std::string& name,
                                    const SecretBytes& volume_key) override;
  Status Unmap(const std::string& name) override;
};

class SystemMounts final : public Mounts {
 public:
  Status MakeFileSystem(const std::filesystem::path& device, const std::string& type,
                        const std::string& label) override;
  // Replays and mends ext4 first (`fsck.ext4 -p`, where the image has it).
  Status Mount(const std::filesystem::path& device, const std::string& type,
               const std::filesystem::path& target) override;
  Status Unmount(const std::filesystem::path& target) override;
};

// Block devices by the name of their partition (PARTLABEL), read from sysfs and not from udev's links, which
// show one of several. A name may have many: whoever plugs in a disk chooses its labels.
std::multimap<std::string, std::filesystem::path> PartitionsByLabel(
    const std::filesystem::path& sysfs = "/sys/class/block", const std::filesystem::path& dev = "/dev");

}  // namespace sealift::agent
