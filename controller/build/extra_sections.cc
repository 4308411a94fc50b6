#include "controller/build/extra_sections.h"

#include <fmt/format.h>

#include "shared/base/files.h"

namespace sealift::build {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxMicrocode = 64u << 20;
constexpr std::uint64_t kMaxDeviceTree = 16u << 20;
constexpr std::uint64_t kMaxHardwareIds = 4u << 20;
constexpr std::uint64_t kMaxSbat = 16u << 10;
// What ukify writes for an image when it is not told otherwise.
constexpr char kOwnSbat[] =
    "uki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/\n";
// Devicetree specification 0.4, 5.2: the header's first word, big-endian.
constexpr std::string_view kDeviceTreeMagic = "\xd0\x0d\xfe\xed";
// newc without and with checksums (the kernel's buffer-format.rst).
constexpr std::string_view kCpioMagics[] = {"070701", "070702"};

struct Kind {
  std::string_view option;
  std::string_view section;
  std::uint64_t max_bytes;
};
constexpr Kind kMicrocodeKind = {"--microcode", uki::kMicrocode, kMaxMicrocode};
constexpr Kind kDeviceTreeKind = {"--dtb", uki::kDeviceTree, kMaxDeviceTree};
constexpr Kind kDeviceTreeAutoKind = {"--dtb-auto", uki::kDeviceTreeAuto, kMaxDeviceTree};
constexpr Kind kHardwareIdsKind = {"--hwids", uki::kHardwareIds, kMaxHardwareIds};
constexpr Kind kSbatKind = {"--sbat", uki::kSbat, kMaxSbat};

Status Wrong(const Kind& kind, const fs::path& path, std::string_view cause) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("take {} '{}': {}", kind.option, path.string(), cause));
}

// Nothing for no path.
Result<Bytes> ReadSection(const Kind& kind, const fs::path& path, const uki::SystemdMagic& stub) {
  if (path.empty()) return Bytes();
  if (const Status known = uki::CheckSectionKnown(kind.section, stub.major); !known.ok())
    return Annotate(known, fmt::format("take {} '{}'", kind.option, path.string()));
  SEALIFT_ASSIGN_OR_RETURN(Bytes bytes, ReadFile(path, kind.max_bytes));
  if (bytes.empty()) return Wrong(kind, path, "it is empty");
  return bytes;
}

Result<Bytes> ReadMicrocode(const fs::path& path, const uki::SystemdMagic& stub) {
  SEALIFT_ASSIGN_OR_RETURN(Bytes bytes, ReadSection(kMicrocodeKind, path, stub));
  if (bytes.empty()) return bytes;
  for (const std::string_view magic : kCpioMagics)
    if (AsText(bytes).starts_with(magic)) return bytes;
  return Wrong(kMicrocodeKind, path, "it is no uncompressed cpio, so the kernel would not see it");
}

Result<Bytes> ReadDeviceTree(const Kind& kind, const fs::path& path, const uki::SystemdMagic& stub) {
  SEALIFT_ASSIGN_OR_RETURN(Bytes bytes, ReadSection(kind, path, stub));
  if (bytes.empty() || AsText(bytes).starts_with(kDeviceTreeMagic)) return bytes;
  return Wrong(kind, path, "it is no compiled device tree");
}

}  // namespace

Result<ExtraSections> ExtraSections::Read(const ExtraSectionFiles& files, const uki::SystemdMagic& stub) {
  ExtraSections extra;
  SEALIFT_ASSIGN_OR_RETURN(extra.microcode_, ReadMicrocode(files.microcode, stub));
  SEALIFT_ASSIGN_OR_RETURN(extra.device_tree_, ReadDeviceTree(kDeviceTreeKind, files.device_tree, stub));
  for (const fs::path& path : files.device_trees_auto) {
    SEALIFT_ASSIGN_OR_RETURN(Bytes tree, ReadDeviceTree(kDeviceTreeAutoKind, path, stub));
    for (const Bytes& other : extra.device_trees_auto_)
      if (other == tree) return Wrong(kDeviceTreeAutoKind, path, "the same tree was given before");
    extra.device_trees_auto_.push_back(std::move(tree));
  }
  SEALIFT_ASSIGN_OR_RETURN(extra.hardware_ids_, ReadSection(kHardwareIdsKind, files.hardware_ids, stub));
  SEALIFT_ASSIGN_OR_RETURN(const Bytes sbat, ReadSection(kSbatKind, files.sbat, stub));
  extra.sbat_ = sbat.empty() ? kOwnSbat : ToText(sbat);
  return extra;
}

void ExtraSections::AddTo(UkiParts& parts) const {
  parts.microcode = microcode_;
  parts.device_tree = device_tree_;
  for (const Bytes& tree : device_trees_auto_) parts.device_trees_auto.emplace_back(tree);
  parts.hardware_ids = hardware_ids_;
  parts.sbat = sbat_;
}

}  // namespace sealift::build
