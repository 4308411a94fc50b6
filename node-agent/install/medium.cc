#include "node-agent/install/medium.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>

#include <cerrno>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "shared/base/files.h"

namespace sealift::agent {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kPatience{30};
constexpr std::chrono::milliseconds kPause{500};
constexpr int kMaxDepth = 8;

Status Unusable(std::string_view why) {
  return MakeError(Code::kFailedPrecondition, Reason::kMediumUnusable,
                   fmt::format("use install medium: {}", why));
}

std::string Text(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

void Collect(const Json& list, const std::filesystem::path& disk, int depth, std::vector<MediumDevice>& out) {
  if (!list.is_array() || depth > kMaxDepth) return;
  for (const Json& object : list) {
    if (!object.is_object()) continue;
    const std::filesystem::path path = Text(object, "path");
    const std::filesystem::path whole = disk.empty() ? path : disk;
    if (Text(object, "label") == kMediumLabel && Text(object, "fstype") == "iso9660") {
      // Written to a stick, the disk and the partition that covers it show the same volume.
      if (out.empty() || out.back().disk != whole) out.push_back({.volume = path, .disk = whole});
    }
    if (const auto children = object.find("children"); children != object.end())
      Collect(*children, whole, depth + 1, out);
  }
}

Result<MediumDevice> WaitForMedium(CommandRunner& runner) {
  const Clock::time_point deadline = Clock::now() + kPatience;
  for (;;) {
    SEALIFT_ASSIGN_OR_RETURN(const std::string json,
                             runner.Run({"lsblk", "--json", "--output", "NAME,PATH,TYPE,LABEL,FSTYPE"}));
    SEALIFT_ASSIGN_OR_RETURN(const std::optional<MediumDevice> found, FindMedium(json));
    if (found) return *found;
    if (Clock::now() >= deadline)
      return Unusable(fmt::format("no drive holds a volume called {}; is it still in?", kMediumLabel));
    std::this_thread::sleep_for(kPause);
  }
}

Status MountReadOnly(CommandRunner& runner, const std::string& type, const std::string& options,
                     const std::filesystem::path& from, const std::filesystem::path& to) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(to, 0700));
  const Result<std::string> mounted =
      runner.Run({"mount", "-t", type, "-o", "ro,nosuid,nodev,noexec" + options, from.string(), to.string()});
  return mounted.ok() ? OkStatus() : Unusable(MessageOf(mounted.status()));
}

}  // namespace

Result<bool> BootedFromMedium(EfiVariables& variables) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string entry, variables.ReadText("LoaderEntrySelected", kLoaderVendor));
  return entry.starts_with("norole");
}

Result<std::optional<MediumDevice>> FindMedium(std::string_view lsblk_json) {
  const Json root = Json::parse(lsblk_json, nullptr, false);
  if (!root.is_object() || !root.contains("blockdevices"))
    return Unusable("lsblk gave no list of block devices");
  std::vector<MediumDevice> found;
  Collect(root["blockdevices"], {}, 0, found);
  if (found.empty()) return std::optional<MediumDevice>();
  if (found.size() > 1) {
    return Unusable(fmt::format("'{}' and '{}' both hold one; leave only one in", found[0].volume.string(),
                                found[1].volume.string()));
  }
  return std::optional<MediumDevice>(found[0]);
}

Result<Medium> MountMedium(CommandRunner& runner) {
  SEALIFT_ASSIGN_OR_RETURN(const MediumDevice device, WaitForMedium(runner));
  Medium medium{.live = kLiveFolder, .release = kMediumEspFolder, .disk = device.disk};
  SEALIFT_RETURN_IF_ERROR(MountReadOnly(runner, "iso9660", "", device.volume, medium.live));
  SEALIFT_RETURN_IF_ERROR(
      MountReadOnly(runner, "vfat", ",loop", medium.live / kMediumEspImage, medium.release));
  return medium;
}

Status EnterOwnMounts() {
  if (::unshare(CLONE_NEWNS) != 0)
    return ErrnoError(Code::kInternal, Reason::kToolFailed, "enter own mount namespace", "unshare", errno);
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return ErrnoError(Code::kInternal, Reason::kToolFailed, "enter own mount namespace", "mount", errno);
  return OkStatus();
}

}  // namespace sealift::agent
