// What stands for the kernel in tests of volumes: nothing is mapped or mounted, but it is remembered.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "node-agent/volume/seams.h"
#include "shared/base/bytes.h"

namespace sealift::test {

class RecordingMapper final : public agent::Mapper {
 public:
  Result<std::filesystem::path> Map(const std::filesystem::path& device, const std::string& name,
                                    const SecretBytes& volume_key) override {
    if (mapped.contains(name))
      return MakeError(Code::kAlreadyExists, Reason::kVolumeForeign, "map volume: it is mapped");
    mapped[name] = {device, ToBytes(volume_key.ExposeSecret())};
    return std::filesystem::path("/dev/mapper") / name;
  }
  Status Unmap(const std::string& name) override {
    mapped.erase(name);
    return OkStatus();
  }
  struct Mapping {
    std::filesystem::path device;
    Bytes key;
  };
  std::map<std::string, Mapping> mapped;
};

class RecordingMounts final : public agent::Mounts {
 public:
  Status MakeFileSystem(const std::filesystem::path& device, const std::string& type,
                        const std::string& label) override {
    if (!unmakeable.empty() && label == unmakeable)
      return MakeError(Code::kFailedPrecondition, Reason::kToolFailed, "mkfs: no space");
    made.push_back(type + " " + label + " on " + device.string());
    return OkStatus();
  }
  Status Mount(const std::filesystem::path& device, const std::string& type,
               const std::filesystem::path& target) override {
    if (!broken.empty() && device.filename() == broken)
      return MakeError(Code::kFailedPrecondition, Reason::kVolumeDamaged, "mount: bad superblock");
    mounted[target] = type + " " + device.string();
    return OkStatus();
  }
  Status Unmount(const std::filesystem::path& target) override {
    mounted.erase(target);
    return OkStatus();
  }
  std::vector<std::string> made;
  std::map<std::filesystem::path, std::string> mounted;
  // Name of a mapped device whose mount fails.
  std::string broken;
  // Label of a file system that cannot be made.
  std::string unmakeable;
};

}  // namespace sealift::test
