#include "node-agent/install/block_devices.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "shared/base/subprocess.h"
#include "shared/install/install_config.h"

namespace sealift::agent {
namespace {

using Json = nlohmann::json;

// Without NAME lsblk gives a flat list, where nothing says what is a part of what.
constexpr std::string_view kColumns =
    "NAME,PATH,TYPE,SIZE,RO,SERIAL,WWN,MODEL,PARTLABEL,LABEL,FSTYPE,PTTYPE,MOUNTPOINTS,LOG-SEC";
constexpr std::size_t kMaxDepth = 8;

std::string Text(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::uint64_t Number(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
}

bool Flag(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() && found->get<bool>();
}

const Json& Children(const Json& object) {
  static const Json kNone = Json::array();
  const auto found = object.find("children");
  return found != object.end() && found->is_array() ? *found : kNone;
}

bool IsMounted(const Json& object) {
  const auto found = object.find("mountpoints");
  if (found == object.end() || !found->is_array()) return false;
  return std::any_of(found->begin(), found->end(), [](const Json& point) { return point.is_string(); });
}

BlockPartition ReadPartition(const Json& object) {
  return {.path = Text(object, "path"),
          .bytes = Number(object, "size"),
          .name = Text(object, "partlabel"),
          .content = Text(object, "fstype"),
          .label = Text(object, "label"),
          .in_use = IsMounted(object) || !Children(object).empty()};
}

BlockDisk ReadDisk(const Json& object) {
  BlockDisk disk{.path = Text(object, "path"),
                 .bytes = Number(object, "size"),
                 .read_only = Flag(object, "ro"),
                 .serial = Text(object, "serial"),
                 .wwn = Text(object, "wwn"),
                 .model = Text(object, "model"),
                 .table = Text(object, "pttype"),
                 .content = Text(object, "fstype"),
                 .label = Text(object, "label"),
                 .in_use = IsMounted(object)};
  if (const std::uint64_t sector = Number(object, "log-sec"); sector >= 512 && sector <= 65536)
    disk.sector_bytes = static_cast<std::uint32_t>(sector);
  for (const Json& child : Children(object)) {
    if (!child.is_object()) continue;
    // A mapped device straight on the disk, for example.
    if (Text(child, "type") != "part") {
      disk.in_use = true;
      continue;
    }
    disk.partitions.push_back(ReadPartition(child));
    if (disk.partitions.back().in_use) disk.in_use = true;
  }
  return disk;
}

bool IsOurs(const BlockPartition& partition) {
  return partition.label == kOemLabel || partition.label == kPersistentLabel || partition.name == kOemLabel ||
         partition.name == kPersistentLabel;
}

bool HasPartition(const BlockDisk& disk, std::string_view name) {
  return std::any_of(disk.partitions.begin(), disk.partitions.end(),
                     [&](const BlockPartition& one) { return one.name == name; });
}

// Foreign text for a message: one line, no control characters.
std::string Printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 64)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return out;
}

}  // namespace

Result<std::string> SystemCommandRunner::Run(const std::vector<std::string>& argv, const std::string& input) {
  SEALIFT_ASSIGN_OR_RETURN(CommandOutput output, RunCommandChecked({.argv = argv, .stdin_text = input}));
  return std::move(output.out);
}

Result<std::vector<BlockDisk>> ParseLsblk(std::string_view json) {
  const auto deep = [depth = std::size_t{0}](int level, Json::parse_event_t, Json&) mutable {
    depth = std::max(depth, static_cast<std::size_t>(level));
    return depth <= kMaxDepth;
  };
  const Json root = Json::parse(json, deep, false);
  const auto found = root.is_object() ? root.find("blockdevices") : root.end();
  if (!root.is_object() || found == root.end() || !found->is_array()) {
    return MakeError(Code::kInternal, Reason::kToolFailed, "list disks: lsblk gave no list of block devices");
  }
  std::vector<BlockDisk> disks;
  for (const Json& object : *found) {
    if (!object.is_object()) continue;
    if (Text(object, "type") == "part") {
      return MakeError(Code::kInternal, Reason::kToolFailed,
                       "list disks: lsblk does not say which disk a partition is of");
    }
    if (Text(object, "type") != "disk") continue;
    const std::string name = std::filesystem::path(Text(object, "path")).filename();
    // Disks by type, memory by nature.
    if (name.starts_with("zram") || name.starts_with("ram") || name.starts_with("fd")) continue;
    BlockDisk disk = ReadDisk(object);
    if (disk.path.empty() || disk.bytes == 0) continue;
    disks.push_back(std::move(disk));
  }
  std::sort(disks.begin(), disks.end(),
            [](const BlockDisk& a, const BlockDisk& b) { return a.path < b.path; });
  return disks;
}

Result<std::vector<BlockDisk>> ListDisks(CommandRunner& runner) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string json,
                           runner.Run({"lsblk", "--json", "--bytes", "--output", std::string(kColumns)}));
  return ParseLsblk(json);
}

std::string_view DiskStateName(DiskState state) {
  constexpr std::array<std::string_view, 4> kNames{"empty", "unfinished", "installation", "foreign"};
  return kNames[static_cast<std::size_t>(state)];
}

DiskState StateOf(const BlockDisk& disk) {
  if (HasPartition(disk, kUnfinishedName)) return DiskState::kUnfinished;
  const bool ours = HasPartition(disk, kPersistentName) && HasPartition(disk, kOemName);
  if (ours || std::any_of(disk.partitions.begin(), disk.partitions.end(), IsOurs) ||
      disk.label == kPersistentLabel || disk.label == kOemLabel)
    return DiskState::kInstallation;
  if (!disk.content.empty() || !disk.partitions.empty() || disk.in_use) return DiskState::kForeign;
  return DiskState::kEmpty;
}

std::string DescribeBytes(std::uint64_t bytes) {
  const double mib = static_cast<double>(bytes) / (1u << 20);
  return mib < 1024 ? fmt::format("{:.1f} MiB", mib) : fmt::format("{:.1f} GiB", mib / 1024);
}

std::string DescribeDisk(const BlockDisk& disk) {
  std::string text = fmt::format("'{}' ({}", disk.path.string(), DescribeBytes(disk.bytes));
  if (!disk.model.empty()) text += ", " + Printable(disk.model);
  if (!disk.serial.empty()) text += ", serial " + Printable(disk.serial);
  return text + ")";
}

std::string DescribeContent(const BlockDisk& disk) {
  std::vector<std::string> parts;
  if (!disk.content.empty())
    parts.push_back(fmt::format("{} '{}'", Printable(disk.content), Printable(disk.label)));
  for (const BlockPartition& one : disk.partitions) {
    parts.push_back(fmt::format("partition '{}' ({})", Printable(one.name),
                                one.content.empty() ? "unknown content" : Printable(one.content)));
  }
  return parts.empty() ? "nothing" : fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace sealift::agent
