#include "node-agent/install/install_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace sealift::agent {
namespace {

constexpr std::uint64_t kMib = 1ull << 20;
// For the table at the front and its copy at the end.
constexpr std::uint64_t kMargin = 1 * kMib;
constexpr std::uint64_t kImagesOnEsp = 4;
constexpr std::uint64_t kEspRoom = 64 * kMib;
// FAT32 needs 65525 clusters.
constexpr std::uint64_t kMinEsp = 128 * kMib;
constexpr std::uint64_t kMinRest = 64 * kMib;
// LUKS2's own header, in front of an encrypted volume's data.
constexpr std::uint64_t kLuksHeader = 16 * kMib;
// Below it no file system is worth its name.
constexpr std::uint64_t kMinData = 8 * kMib;

std::uint64_t RoundUp(std::uint64_t bytes) { return (bytes + kMib - 1) / kMib * kMib; }

std::string ListOf(const std::vector<BlockDisk>& disks) {
  std::vector<std::string> names;
  for (const BlockDisk& disk : disks) names.push_back(DescribeDisk(disk));
  return names.empty() ? "there is no disk" : fmt::format("there are {}", fmt::join(names, ", "));
}

Status NotFound(const InstallConfig& config, const PlanInputs& inputs, std::string_view why) {
  return MakeError(Code::kNotFound, Reason::kDiskNotFound,
                   fmt::format("choose disk '{}': {}; {}", config.device, why, ListOf(inputs.disks)));
}

std::filesystem::path Resolve(const PlanInputs& inputs, const std::filesystem::path& path) {
  return inputs.resolve == nullptr ? path : inputs.resolve(path);
}

Status CheckState(const InstallConfig& config, const InstallPlan& plan) {
  const std::string disk = DescribeDisk(plan.disk);
  if (plan.state == DiskState::kInstallation) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kDiskHoldsInstallation,
        fmt::format("install on {}: it holds an installation ({})", disk, DescribeContent(plan.disk)));
  }
  if (plan.disk.in_use) {
    return MakeError(Code::kFailedPrecondition, Reason::kDiskHoldsData,
                     fmt::format("install on {}: it is in use ({})", disk, DescribeContent(plan.disk)));
  }
  if (plan.state == DiskState::kForeign && !config.overwrite_foreign) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kDiskHoldsData,
        fmt::format("install on {}: it holds other data ({})", disk, DescribeContent(plan.disk)));
  }
  return OkStatus();
}

std::vector<PlannedPartition> Wanted(const InstallConfig& config, const PlanInputs& inputs) {
  const auto type = [](bool encrypted) { return std::string(encrypted ? kLuksType : kLinuxType); };
  std::vector<PlannedPartition> parts;
  parts.push_back({.name = std::string(kEspName),
                   .type = std::string(kEspType),
                   .bytes = EspBytes(inputs.release),
                   .file_system = "vfat",
                   .label = "ESP"});
  parts.push_back({.name = std::string(kOemName),
                   .type = type(inputs.encrypt),
                   .bytes = config.oem_bytes,
                   .file_system = "ext4",
                   .label = std::string(kOemLabel),
                   .encrypted = inputs.encrypt,
                   .mount = "/oem"});
  parts.push_back({.name = std::string(kPersistentName),
                   .type = type(inputs.encrypt),
                   .bytes = config.persistent_bytes,
                   .file_system = "ext4",
                   .label = std::string(kPersistentLabel),
                   .encrypted = inputs.encrypt,
                   .mount = "/usr/local"});
  for (const ExtraPartition& extra : config.extra) {
    parts.push_back({.name = extra.name,
                     .type = type(extra.encrypted),
                     .bytes = extra.bytes,
                     .file_system = extra.file_system,
                     .label = extra.label,
                     .encrypted = extra.encrypted});
  }
  return parts;
}

Status TooSmall(const InstallPlan& plan, std::string_view why) {
  return MakeError(Code::kFailedPrecondition, Reason::kDiskTooSmall,
                   fmt::format("install on {}: {}", DescribeDisk(plan.disk), why));
}

Status LayOut(InstallPlan& plan) {
  const std::uint64_t usable =
      plan.disk.bytes < 2 * kMargin ? 0 : (plan.disk.bytes - 2 * kMargin) / kMib * kMib;
  std::uint64_t fixed = 0;
  for (const PlannedPartition& part : plan.partitions) {
    // Sizes are bounded by the configuration, so nothing overflows.
    fixed += part.bytes;
    if (part.bytes != 0 && part.bytes < kMinData + (part.encrypted ? kLuksHeader : 0))
      return TooSmall(plan, fmt::format("partition '{}' of {} is too small to hold anything", part.name,
                                        DescribeBytes(part.bytes)));
  }
  const bool rest = std::any_of(plan.partitions.begin(), plan.partitions.end(),
                                [](const PlannedPartition& part) { return part.bytes == 0; });
  if (fixed + (rest ? kMinRest : 0) > usable) {
    return TooSmall(plan, fmt::format("the partitions need {}, {} of it the EFI system partition",
                                      DescribeBytes(fixed + (rest ? kMinRest : 0)),
                                      DescribeBytes(plan.partitions.front().bytes)));
  }
  std::uint64_t at = kMargin;
  for (std::size_t i = 0; i < plan.partitions.size(); ++i) {
    PlannedPartition& part = plan.partitions[i];
    if (part.bytes == 0) part.bytes = usable - fixed;
    part.number = static_cast<std::uint32_t>(i + 1);
    part.start = at;
    at += part.bytes;
  }
  return OkStatus();
}

}  // namespace

const PlannedPartition& InstallPlan::Find(std::string_view name) const {
  const auto found = std::find_if(partitions.begin(), partitions.end(),
                                  [&](const PlannedPartition& part) { return part.name == name; });
  SEALIFT_CHECK(found != partitions.end());
  return *found;
}

std::uint64_t EspBytes(const ReleaseSizes& sizes) {
  const std::uint64_t images = kImagesOnEsp * (sizes.image_bytes + sizes.image_bytes / 2);
  // FAT and its copy: 4 bytes a cluster each.
  return std::max(kMinEsp, RoundUp((images + sizes.other_bytes) / 100 * 101 + kEspRoom));
}

Result<BlockDisk> ChooseDisk(const InstallConfig& config, const PlanInputs& inputs) {
  std::vector<BlockDisk> disks;
  for (const BlockDisk& disk : inputs.disks)
    if (!disk.read_only && (inputs.medium.empty() || disk.path != inputs.medium)) disks.push_back(disk);
  std::vector<BlockDisk> fitting;
  const std::string_view device = config.device;
  if (device == "auto") {
    const auto biggest = std::max_element(
        disks.begin(), disks.end(), [](const BlockDisk& a, const BlockDisk& b) { return a.bytes < b.bytes; });
    if (biggest != disks.end()) fitting.push_back(*biggest);
  } else if (device.starts_with("serial:")) {
    std::copy_if(disks.begin(), disks.end(), std::back_inserter(fitting),
                 [&](const BlockDisk& disk) { return disk.serial == device.substr(7); });
  } else if (device.starts_with("wwn:")) {
    std::copy_if(disks.begin(), disks.end(), std::back_inserter(fitting),
                 [&](const BlockDisk& disk) { return disk.wwn == device.substr(4); });
  } else {
    const std::filesystem::path path = Resolve(inputs, std::filesystem::path(device));
    std::copy_if(disks.begin(), disks.end(), std::back_inserter(fitting),
                 [&](const BlockDisk& disk) { return disk.path == path; });
  }
  if (fitting.empty()) return NotFound(config, inputs, "no disk fits that is writable and not the medium");
  if (fitting.size() > 1) return NotFound(config, inputs, "several disks fit");
  return fitting.front();
}

Result<InstallPlan> MakePlan(const InstallConfig& config, const PlanInputs& inputs) {
  InstallPlan plan;
  SEALIFT_ASSIGN_OR_RETURN(plan.disk, ChooseDisk(config, inputs));
  plan.state = StateOf(plan.disk);
  SEALIFT_RETURN_IF_ERROR(CheckState(config, plan));
  plan.partitions = Wanted(config, inputs);
  SEALIFT_RETURN_IF_ERROR(LayOut(plan));
  return plan;
}

std::string TableScript(const InstallPlan& plan, bool unfinished) {
  const std::uint64_t sector = plan.disk.sector_bytes;
  std::string script = "label: gpt\n";
  for (const PlannedPartition& part : plan.partitions) {
    const std::string_view name = unfinished && part.name == kEspName ? kUnfinishedName : part.name;
    script += fmt::format("start={}, size={}, type={}, name=\"{}\"\n", part.start / sector,
                          part.bytes / sector, part.type, name);
  }
  return script;
}

std::string PlanText(const InstallPlan& plan) {
  std::string text = fmt::format("disk  {}: {}, {}\n", DescribeDisk(plan.disk), DiskStateName(plan.state),
                                 DescribeContent(plan.disk));
  for (const PlannedPartition& part : plan.partitions) {
    text += fmt::format("{:>3}  {:<20} {:>12}  {:<5} {:<15} {}{}\n", part.number, part.name,
                        DescribeBytes(part.bytes), part.file_system, part.label,
                        part.encrypted ? "encrypted" : "in clear text",
                        part.mount.empty() ? "" : ", " + part.mount.string());
  }
  return text;
}

std::string PlanJson(const InstallPlan& plan) {
  nlohmann::ordered_json json;
  json["disk"] = {{"path", plan.disk.path.string()}, {"bytes", plan.disk.bytes},
                  {"serial", plan.disk.serial},      {"wwn", plan.disk.wwn},
                  {"model", plan.disk.model},        {"state", DiskStateName(plan.state)}};
  json["partitions"] = nlohmann::ordered_json::array();
  for (const PlannedPartition& part : plan.partitions) {
    json["partitions"].push_back({{"number", part.number},
                                  {"name", part.name},
                                  {"type", part.type},
                                  {"start", part.start},
                                  {"bytes", part.bytes},
                                  {"file_system", part.file_system},
                                  {"label", part.label},
                                  {"encrypted", part.encrypted},
                                  {"mount", part.mount.string()}});
  }
  // Labels and serials are foreign: what is no UTF-8 becomes U+FFFD.
  return json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace sealift::agent
