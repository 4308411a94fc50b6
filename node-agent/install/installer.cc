#include "node-agent/install/installer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "node-agent/esp/boot_options.h"
#include "shared/base/files.h"
#include "shared/base/subprocess.h"
#include "shared/efi/guid.h"

namespace sealift::agent {
namespace {

constexpr std::chrono::minutes kHookLimit{10};
constexpr std::size_t kShownOutput = 2000;

std::filesystem::path Below(const std::filesystem::path& root, const std::filesystem::path& path) {
  return root / path.relative_path();
}

}  // namespace

Result<std::string> ShellHookRunner::Run(const std::string& command) {
  const Result<CommandOutput> output =
      RunCommand({.argv = {"/bin/sh", "-c", command}, .timeout = kHookLimit});
  if (!output.ok())
    return MakeError(Code::kFailedPrecondition, Reason::kHookFailed,
                     "run hook: " + MessageOf(output.status()));
  std::string text = output->out + output->err;
  if (output->exit_code == 0) return text;
  if (text.size() > kShownOutput) text.erase(0, text.size() - kShownOutput);
  return MakeError(Code::kFailedPrecondition, Reason::kHookFailed,
                   fmt::format("run hook: exit code {}: {}", output->exit_code, text));
}

Status Installer::Run(const TrustedConfig& config, const InstallPlan& plan, const MediumRelease& release) {
  const Status done = RunSteps(config, plan, release);
  if (!done.ok()) static_cast<void>(ReleaseAll());
  return done;
}

Status Installer::RunSteps(const TrustedConfig& config, const InstallPlan& plan,
                           const MediumRelease& release) {
  SEALIFT_RETURN_IF_ERROR(RunHooks("before", config.config.before));
  SEALIFT_RETURN_IF_ERROR(CheckUnchanged(plan));
  const bool encrypts = std::any_of(plan.partitions.begin(), plan.partitions.end(),
                                    [](const PlannedPartition& part) { return part.encrypted; });
  if (encrypts) SEALIFT_RETURN_IF_ERROR(parts_.volumes.Prepare());
  SEALIFT_RETURN_IF_ERROR(WriteTable(plan));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<Node> nodes, PartitionNodes(plan));
  for (const PlannedPartition& part : plan.partitions)
    if (part.name != kEspName) SEALIFT_RETURN_IF_ERROR(MakeVolume(part, nodes[part.number - 1]));
  const Node& esp = nodes[plan.Find(kEspName).number - 1];
  SEALIFT_RETURN_IF_ERROR(MakeEsp(esp, release));
  SEALIFT_RETURN_IF_ERROR(WriteRecords(config, release));
  SEALIFT_RETURN_IF_ERROR(RunHooks("after", config.config.after));
  SEALIFT_RETURN_IF_ERROR(ReleaseAll());
  return Finish(plan, esp);
}

Status Installer::RunHooks(std::string_view when, const std::vector<HookStep>& steps) {
  for (const HookStep& step : steps) {
    Tell(fmt::format("hook {}: {}", when, step.name));
    for (const std::string& command : step.commands) {
      const Result<std::string> output = parts_.hooks.Run(command);
      if (!output.ok()) return Annotate(output.status(), fmt::format("'{}'", step.name));
      if (!output->empty()) Tell(*output);
    }
  }
  return OkStatus();
}

// Between the plan and now somebody may have answered a question, or a hook may have written.
Status Installer::CheckUnchanged(const InstallPlan& plan) {
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<BlockDisk> disks, ListDisks(parts_.runner));
  const auto now = std::find_if(disks.begin(), disks.end(),
                                [&](const BlockDisk& disk) { return disk.path == plan.disk.path; });
  // Names of disks move, and disks of one model are of one size.
  const bool same = now != disks.end() && now->bytes == plan.disk.bytes && now->serial == plan.disk.serial &&
                    now->wwn == plan.disk.wwn;
  if (!same || StateOf(*now) != plan.state || now->in_use) {
    return MakeError(Code::kFailedPrecondition, Reason::kDiskHoldsData,
                     fmt::format("install on {}: it is another than a moment ago", DescribeDisk(plan.disk)));
  }
  return plan.state == DiskState::kEmpty ? CheckEmpty(plan) : OkStatus();
}

// Asks the disk itself: what the kernel and udev have not told may still be there.
Status Installer::CheckEmpty(const InstallPlan& plan) {
  const auto holds = [&](std::string_view what) {
    return MakeError(Code::kFailedPrecondition, Reason::kDiskHoldsData,
                     fmt::format("install on {}: it holds {}", DescribeDisk(plan.disk), what));
  };
  const std::string disk = plan.disk.path.string();
  SEALIFT_ASSIGN_OR_RETURN(const std::string found,
                           parts_.runner.Run({"wipefs", "--json", "--no-act", disk}));
  bool table = false;
  const nlohmann::json json = nlohmann::json::parse(found, nullptr, false);
  // An empty answer is how wipefs says that there is nothing.
  if (json.is_object() && json.contains("signatures")) {
    for (const auto& signature : json["signatures"]) {
      const std::string type = signature.is_object() ? signature.value("type", "") : "";
      table = table || type == "gpt" || type == "PMBR" || type == "dos";
      if (type != "gpt" && type != "PMBR" && type != "dos") return holds(type);
    }
  }
  if (!table) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, parts_.runner.Run({"sfdisk", "--json", disk}));
  const nlohmann::json parts = nlohmann::json::parse(text, nullptr, false);
  if (!parts.is_object() || !parts.contains("partitiontable"))
    return holds("a partition table that does not parse");
  if (!parts["partitiontable"].value("partitions", nlohmann::json::array()).empty())
    return holds("partitions");
  return OkStatus();
}

Status Installer::WriteTable(const InstallPlan& plan) {
  const std::string disk = plan.disk.path.string();
  Tell(fmt::format("partitioning {}", DescribeDisk(plan.disk)));
  // Partitions first: what was on them must not shine through in new ones.
  std::vector<std::string> wipe{"wipefs", "--quiet", "--all", "--force"};
  for (const BlockPartition& old : plan.disk.partitions) wipe.push_back(old.path.string());
  wipe.push_back(disk);
  SEALIFT_RETURN_IF_ERROR(parts_.runner.Run(wipe).status());
  SEALIFT_RETURN_IF_ERROR(
      parts_.runner
          .Run({"sfdisk", "--quiet", "--wipe", "always", "--wipe-partitions", "always", disk},
               TableScript(plan, true))
          .status());
  return parts_.runner.Run({"udevadm", "settle", "--timeout=30"}).status();
}

Result<std::vector<Installer::Node>> Installer::PartitionNodes(const InstallPlan& plan) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string json,
                           parts_.runner.Run({"sfdisk", "--json", plan.disk.path.string()}));
  const nlohmann::json table = nlohmann::json::parse(json, nullptr, false);
  std::vector<Node> nodes;
  if (table.is_object() && table.contains("partitiontable") && table["partitiontable"].is_object()) {
    for (const auto& part : table["partitiontable"].value("partitions", nlohmann::json::array())) {
      if (!part.is_object()) break;
      nodes.push_back({.path = part.value("node", ""), .uuid = part.value("uuid", "")});
    }
  }
  if (nodes.size() == plan.partitions.size()) return nodes;
  return MakeError(Code::kInternal, Reason::kToolFailed,
                   fmt::format("partition {}: the new table has {} partitions instead of {}",
                               DescribeDisk(plan.disk), nodes.size(), plan.partitions.size()));
}

Status Installer::MakeVolume(const PlannedPartition& part, const Node& node) {
  Tell(fmt::format("making {} ({}, {})", part.name, DescribeBytes(part.bytes),
                   part.encrypted ? "encrypted" : "in clear text"));
  std::filesystem::path device = node.path;
  if (part.encrypted) {
    SEALIFT_ASSIGN_OR_RETURN(
        device,
        parts_.volumes.Make(
            {.device = node.path, .name = part.name, .fs_label = part.label, .fs_type = part.file_system}));
    opened_.push_back(part.name);
  } else if (part.file_system != "none") {
    SEALIFT_RETURN_IF_ERROR(parts_.mounts.MakeFileSystem(device, part.file_system, part.label));
  }
  if (part.mount.empty()) return OkStatus();
  return Mount(device, part.file_system, Below(places_.root, part.mount));
}

Status Installer::MakeEsp(const Node& node, const MediumRelease& release) {
  Tell(fmt::format("writing {} to the EFI system partition", release.manifest.version));
  SEALIFT_RETURN_IF_ERROR(
      parts_.runner.Run({"mkfs.vfat", "-F", "32", "-n", std::string(kEspName), node.path.string()}).status());
  SEALIFT_RETURN_IF_ERROR(Mount(node.path, "vfat", places_.esp));
  return FillEsp(release, *parts_.open_esp(places_.esp));
}

Status Installer::WriteRecords(const TrustedConfig& config, const MediumRelease& release) {
  const std::filesystem::path oem = Below(places_.root, "/oem");
  // It may hold password hashes.
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(oem / kOemConfigName, AsBytes(config.text), 0600));
  const std::filesystem::path state = Below(places_.root, "/usr/local/.state/sealift");
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(state, 0700));
  for (const StateFile& file : parts_.state_files) {
    SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(state / file.name, file.content.ExposeSecret(), 0600));
  }
  const nlohmann::ordered_json record{{"config_digest", config.digest.hex()},
                                      {"config_source", config.source},
                                      {"version", release.manifest.version},
                                      {"installed", FormatRfc3339(parts_.now)}};
  return WriteFileAtomically(state / kInstallRecordName, AsBytes(record.dump() + "\n"), 0600);
}

Status Installer::Mount(const std::filesystem::path& device, const std::string& type,
                        const std::filesystem::path& target) {
  SEALIFT_RETURN_IF_ERROR(parts_.mounts.Mount(device, type, target));
  mounted_.push_back(target);
  return OkStatus();
}

Status Installer::ReleaseAll() {
  Status first = OkStatus();
  const auto note = [&](const Status& status) {
    if (first.ok()) first = status;
  };
  while (!mounted_.empty()) {
    note(parts_.mounts.Unmount(mounted_.back()));
    mounted_.pop_back();
  }
  while (!opened_.empty()) {
    note(parts_.volumes.Close(opened_.back()));
    opened_.pop_back();
  }
  return first;
}

Status Installer::Finish(const InstallPlan& plan, const Node& esp) {
  const PlannedPartition& part = plan.Find(kEspName);
  const std::string disk = plan.disk.path.string();
  SEALIFT_RETURN_IF_ERROR(parts_.runner
                              .Run({"sfdisk", "--quiet", "--part-label", disk, std::to_string(part.number),
                                    std::string(kEspName)})
                              .status());
  SEALIFT_RETURN_IF_ERROR(parts_.runner.Run({"sync"}).status());
  SEALIFT_ASSIGN_OR_RETURN(const efi::Guid guid, efi::Guid::Parse(esp.uuid));
  const std::uint64_t sector = plan.disk.sector_bytes;
  const Result<std::uint16_t> number =
      EnsureBootOption(parts_.variables, {.description = std::string(kBootOptionName),
                                          .partition_number = part.number,
                                          .start_block = part.start / sector,
                                          .blocks = part.bytes / sector,
                                          .partition = guid,
                                          .path = std::string(kNamedLoader)});
  // The medium may still be in its drive, and first in the order of a firmware that keeps its own.
  const Status next = number.ok() ? SetBootNext(parts_.variables, *number) : number.status();
  if (!next.ok())
    Tell(fmt::format("the firmware took no boot option ({}); it will find the disk by itself",
                     MessageOf(next)));
  Tell("installed");
  return OkStatus();
}

}  // namespace sealift::agent
