#include "node-agent/volume/system_volumes.h"

#include <fmt/format.h>
#include <sys/mount.h>

#include <cerrno>
#include <chrono>
#include <system_error>

#include "node-agent/volume/luks_header.h"
#include "node-agent/volume/volume.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/base/subprocess.h"

namespace sealift::agent {
namespace {

// fsck(8): below this all is well, or was mended.
constexpr int kFsckUncorrected = 4;
// Two of them, the wait for disks and for the TPM, and a reset fit into sealift-unlock.service's time. A
// journal is replayed in seconds; what takes longer is left to the mount, or to somebody at the console.
constexpr std::chrono::seconds kFsckLimit{90};
constexpr std::size_t kMaxUeventBytes = 64u << 10;

// The value of "KEY=value" in a uevent file; empty where it has none.
std::string ValueOf(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    if (line.starts_with(key) && line.size() > key.size() && line[key.size()] == '=')
      return std::string(line.substr(key.size() + 1));
  }
  return "";
}

void Mend(const std::filesystem::path& device, const std::string& type) {
  if (!type.starts_with("ext")) return;
  const auto checked = RunCommand({.argv = {"fsck." + type, "-p", device.string()}, .timeout = kFsckLimit});
  if (!checked.ok()) {
    if (ReasonOf(checked.status()) != Reason::kToolMissing)
      log::Warning("file system was not checked", {{"error", Describe(checked.status())}});
    return;
  }
  if (checked->exit_code >= kFsckUncorrected) {
    log::Warning("file system check left errors",
                 {{"device", device.string()}, {"output", checked->out + checked->err}});
  }
}

}  // namespace

Result<std::filesystem::path> DeviceMapper::Map(const std::filesystem::path& device, const std::string& name,
                                                const SecretBytes& volume_key) {
  SEALIFT_ASSIGN_OR_RETURN(LuksHeader header, LuksHeader::Load(device));
  SEALIFT_RETURN_IF_ERROR(header.Activate(name, volume_key));
  return std::filesystem::path(kMappedFolder) / name;
}

Status DeviceMapper::Unmap(const std::string& name) { return DeactivateMapped(name); }

Status SystemMounts::MakeFileSystem(const std::filesystem::path& device, const std::string& type,
                                    const std::string& label) {
  const bool fat = type == "vfat" || type == "fat";
  std::vector<std::string> argv{"mkfs." + type, fat ? "-n" : "-L", label};
  if (type.starts_with("ext")) argv.insert(argv.end(), {"-q", "-F"});
  argv.push_back(device.string());
  const auto made = RunCommandChecked({.argv = argv});
  if (!made.ok()) return Annotate(made.status(), fmt::format("make file system on {}", device.string()));
  return OkStatus();
}

Status SystemMounts::Mount(const std::filesystem::path& device, const std::string& type,
                           const std::filesystem::path& target) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(target));
  Mend(device, type);
  if (::mount(device.c_str(), target.c_str(), type.c_str(), MS_NOSUID | MS_NODEV | MS_NOATIME, nullptr) == 0)
    return OkStatus();
  return ErrnoError(Code::kFailedPrecondition, Reason::kVolumeDamaged,
                    fmt::format("mount {} on {}", device.string(), target.string()), "mount", errno);
}

Status SystemMounts::Unmount(const std::filesystem::path& target) {
  if (::umount2(target.c_str(), UMOUNT_NOFOLLOW) == 0 || errno == EINVAL || errno == ENOENT)
    return OkStatus();
  return ErrnoError(Code::kUnavailable, Reason::kVolumeDamaged, fmt::format("unmount {}", target.string()),
                    "umount2", errno);
}

std::multimap<std::string, std::filesystem::path> PartitionsByLabel(const std::filesystem::path& sysfs,
                                                                    const std::filesystem::path& dev) {
  std::multimap<std::string, std::filesystem::path> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(sysfs, error)) {
    const auto text = ReadTextFile(entry.path() / "uevent", kMaxUeventBytes);
    if (!text.ok()) continue;
    const std::string label = ValueOf(*text, "PARTNAME");
    const std::string name = ValueOf(*text, "DEVNAME");
    if (label.empty() || name.empty() || name.find("..") != std::string::npos) continue;
    found.emplace(label, dev / name);
  }
  return found;
}

}  // namespace sealift::agent
