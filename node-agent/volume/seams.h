// What volumes ask of the kernel: mapped devices, file systems, mounts. Not thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "shared/base/secret.h"
#include "shared/base/status.h"

namespace sealift::agent {

// Mapped devices. DeviceMapper (device_mapper.h) is the real one; a test maps nothing.
class Mapper {
 public:
  virtual ~Mapper() = default;
  // Maps the LUKS2 volume on `device` with this volume key as /dev/mapper/<name>; the header was checked to
  // describe nothing but one AES-XTS segment. Returns the mapped device. Errors:
  // FAILED_PRECONDITION/VOLUME_DAMAGED; ALREADY_EXISTS/VOLUME_FOREIGN when the name is mapped already.
  virtual Result<std::filesystem::path> Map(const std::filesystem::path& device, const std::string& name,
                                            const SecretBytes& volume_key) = 0;
  // Success where it is not mapped. Waits a bounded time for others to let go of it.
  virtual Status Unmap(const std::string& name) = 0;
};

// File systems. SystemMounts (mounts.h) is the real one.
class Mounts {
 public:
  virtual ~Mounts() = default;
  // Runs mkfs.<type>. Errors: TOOL_MISSING, TOOL_FAILED.
  virtual Status MakeFileSystem(const std::filesystem::path& device, const std::string& type,
                                const std::string& label) = 0;
  // nosuid, nodev. Makes the folder. Errors: FAILED_PRECONDITION/VOLUME_DAMAGED.
  virtual Status Mount(const std::filesystem::path& device, const std::string& type,
                       const std::filesystem::path& target) = 0;
  virtual Status Unmount(const std::filesystem::path& target) = 0;
};

}  // namespace sealift::agent
