#include "controller/build/node_kit.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>

#include "controller/build/agent.h"
#include "controller/build/kernel_modules.h"

namespace sealift::build {
namespace {

constexpr unsigned kOldestSystemd = 252;
constexpr std::uint64_t kMaxKernelBytes = 256u << 20;
// The second where /usr is not merged, which systemd allowed until 254.
constexpr std::string_view kSystemd[] = {"usr/lib/systemd/systemd", "lib/systemd/systemd"};

Status Unusable(std::string_view what) {
  return MakeError(Code::kFailedPrecondition, Reason::kRootfsUnusable,
                   fmt::format("make root file system bootable: {}", what));
}

const char* OsReleasePath(const Tree& tree) {
  return tree.Resolve("etc/os-release").empty() ? "usr/lib/os-release" : "etc/os-release";
}

// Errors: ROOTFS_UNUSABLE when there is none, or an old one.
Result<std::string> FindSystemd(const Tree& tree, unsigned stub_major) {
  const TreeEntry* systemd = nullptr;
  std::string_view path;
  for (const std::string_view candidate : kSystemd) {
    systemd = tree.Find(tree.Resolve(candidate));
    path = candidate;
    if (systemd != nullptr) break;
  }
  if (systemd == nullptr || !S_ISREG(systemd->mode) || (systemd->mode & S_IXUSR) == 0) {
    return Unusable(fmt::format("there is no /{}, which a node's OS runs as its first process", kSystemd[0]));
  }
  const unsigned installed = InstalledSystemd(tree);
  const unsigned version = installed == 0 ? stub_major : installed;
  if (version < kOldestSystemd)
    return Unusable(fmt::format("its systemd is {}, but {} or newer is needed", version, kOldestSystemd));
  return "/" + std::string(path);
}

}  // namespace

unsigned InstalledSystemd(const Tree& tree) {
  constexpr std::string_view kLibrary = "libsystemd-shared-";
  for (const auto& [path, entry] : tree.entries()) {
    const std::size_t at = path.rfind(kLibrary);
    if (at == std::string::npos || (!path.starts_with("usr/lib") && !path.starts_with("lib/"))) continue;
    unsigned version = 0;
    const char* begin = path.data() + at + kLibrary.size();
    if (std::from_chars(begin, path.data() + path.size(), version).ec == std::errc()) return version;
  }
  return 0;
}

std::string OsRelease::Get(std::string_view key) const {
  std::string_view rest = text;
  std::string value;
  while (!rest.empty()) {
    const std::size_t end = rest.find('\n');
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (!line.starts_with(key) || line.size() <= key.size() || line[key.size()] != '=') continue;
    line.remove_prefix(key.size() + 1);
    if (line.size() >= 2 && (line.front() == '"' || line.front() == '\'') && line.back() == line.front())
      line = line.substr(1, line.size() - 2);
    value = line;
  }
  return value;
}

std::string OsRelease::Version() const {
  const std::string image = Get("IMAGE_VERSION");
  return image.empty() ? Get("VERSION_ID") : image;
}

std::string OsRelease::Title() const {
  for (const char* key : {"PRETTY_NAME", "NAME", "ID"})
    if (const std::string value = Get(key); !value.empty()) return value;
  return "Linux";
}

void OsRelease::SetImageVersion(Tree& tree, std::string_view version) {
  std::string changed;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (!line.starts_with("IMAGE_VERSION=")) changed += fmt::format("{}\n", line);
  }
  text = changed + fmt::format("IMAGE_VERSION={}\n", version);
  tree.PutFile(tree.Resolve(OsReleasePath(tree)), AsBytes(text));
}

Result<OsRelease> ReadOsRelease(const Tree& tree) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, tree.ReadFile(OsReleasePath(tree), 64u << 10));
  return OsRelease{.text = ToText(bytes)};
}

Result<Bytes> ReadKernel(const Tree& tree) {
  if (!tree.Resolve("boot/vmlinuz").empty()) return tree.ReadFile("boot/vmlinuz", kMaxKernelBytes);
  std::vector<std::string> found;
  constexpr std::string_view kPrefix = "boot/vmlinuz-";
  for (auto at = tree.entries().lower_bound(std::string(kPrefix));
       at != tree.entries().end() && at->first.starts_with(kPrefix); ++at)
    found.push_back(at->first);
  if (found.size() == 1) return tree.ReadFile(found[0], kMaxKernelBytes);
  return MakeError(
      Code::kNotFound, Reason::kRootfsUnusable,
      found.empty()
          ? "find kernel: there is no /boot/vmlinuz; name one with --kernel"
          : fmt::format("find kernel: {} and others are in /boot; name one with --kernel", found.front()));
}

std::string KernelRelease(ByteView kernel) {
  // Setup header of the Linux/x86 boot protocol: "HdrS" at 0x202, kernel_version at 0x20e.
  constexpr std::size_t kHeader = 0x202;
  if (kernel.size() < 0x210 || AsText(kernel.subspan(kHeader, 4)) != "HdrS") return {};
  const std::size_t at = 0x200u + kernel[0x20e] + (std::size_t{kernel[0x20f]} << 8);
  if (at >= kernel.size()) return {};
  const std::string_view text = AsText(kernel.subspan(at, std::min<std::size_t>(kernel.size() - at, 256)));
  return std::string(text.substr(0, text.find_first_of(std::string_view(" \0", 2))));
}

Result<std::vector<std::string>> MakeBootable(Tree& tree, const NodeKitOptions& options) {
  std::vector<std::string> remarks;
  SEALIFT_ASSIGN_OR_RETURN(const std::string systemd, FindSystemd(tree, options.systemd_major));
  SEALIFT_RETURN_IF_ERROR(EnsureModuleIndex(tree, options.kernel_release, remarks));
  if (!options.agent_deb.empty()) SEALIFT_RETURN_IF_ERROR(AddAgent(tree, options.agent_deb));
  CheckAgent(tree, remarks);
  tree.Remove("init");
  tree.PutLink("init", systemd);
  tree.Remove("etc/initrd-release");
  tree.Remove("usr/lib/initrd-release");
  tree.Remove("etc/machine-id");
  tree.PutFile("etc/machine-id", {}, 0444);
  if (const TreeEntry* boot = tree.Find("boot"); boot != nullptr && S_ISDIR(boot->mode))
    tree.RemoveContents("boot");
  for (const char* folder : {"dev", "proc", "run", "sys"})
    if (tree.Find(folder) == nullptr) tree.PutDirectory(folder);
  // They would merge what lies on partitions and beside the image, without asking what the release lists.
  for (const char* unit : {"systemd-sysext.service", "systemd-confext.service"})
    tree.PutLink(fmt::format("etc/systemd/system/{}", unit), "/dev/null");
  if (tree.Find("tmp") == nullptr) tree.PutDirectory("tmp", 01777);
  tree.PutFile(kBuildTimePath, AsBytes(FormatRfc3339(options.built) + "\n"));
  tree.PutFile(kEpochPath, AsBytes(fmt::format("{}\n", options.security_epoch)));
  if (!options.pcr_keys_pem.empty()) tree.PutFile(kPcrKeysPath, AsBytes(options.pcr_keys_pem));
  for (const auto& [path, bytes] : options.installer_files) tree.PutFile(path, bytes);
  if (options.node_config.has_value()) tree.PutFile(kNodeConfigPath, AsBytes(*options.node_config));
  return remarks;
}

}  // namespace sealift::build
