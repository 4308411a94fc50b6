// Turns an OS tree into one that runs from memory as the whole OS: what must be there, what is added, what
// goes.
//
// Works on a Tree in memory; the folder it came from stays as it was. Thread-safe functions.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "controller/source/tree.h"
#include "shared/base/clock.h"

namespace sealift::build {

inline constexpr std::string_view kStubPath = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";
inline constexpr std::string_view kBootLoaderPath = "usr/lib/systemd/boot/efi/systemd-bootx64.efi";
inline constexpr std::string_view kInstallConfigPath = "usr/lib/sealift/install.yaml";
inline constexpr std::string_view kFirmwareKeysFolder = "usr/lib/sealift/keys";
inline constexpr std::string_view kNodeConfigPath = "usr/lib/sealift/node.toml";
// RFC 3339, one line: the agent's clock never runs before it. A file of its own, since archives carry no
// times.
inline constexpr std::string_view kBuildTimePath = "usr/lib/sealift/built";
// Every generation of the PCR policy key that disks are to open for.
inline constexpr std::string_view kPcrKeysPath = "usr/lib/sealift/pcr-keys.pem";
// The release's security epoch, one decimal line: what the early boot compares with the TPM's.
inline constexpr std::string_view kEpochPath = "usr/lib/sealift/epoch";

// KEY=value lines of os-release, unquoted. Errors: NOT_FOUND/ROOTFS_UNUSABLE.
struct OsRelease {
  std::string text;
  // Empty when absent.
  std::string Get(std::string_view key) const;
  // IMAGE_VERSION, else VERSION_ID.
  std::string Version() const;
  // PRETTY_NAME, else NAME, else ID.
  std::string Title() const;
  // Sets IMAGE_VERSION here and in the tree's own file.
  void SetImageVersion(Tree& tree, std::string_view version);
};
Result<OsRelease> ReadOsRelease(const Tree& tree);

// The kernel of the tree: boot/vmlinuz, else the one boot/vmlinuz-*. Errors: NOT_FOUND/ROOTFS_UNUSABLE also
// when there are several and none is named.
Result<Bytes> ReadKernel(const Tree& tree);
// "6.1.0-56-cloud-amd64", from the setup header of an x86 bzImage; empty when it holds none.
std::string KernelRelease(ByteView kernel);

// Major version of the tree's systemd, from the name of its private library; 0 where it does not tell.
unsigned InstalledSystemd(const Tree& tree);

struct NodeKitOptions {
  // Of the stub; systemd must be at least 252.
  unsigned systemd_major = 0;
  std::string kernel_release;
  UnixMillis built;
  std::uint64_t security_epoch = 0;
  // Empty: the image names none.
  std::string pcr_keys_pem;
  // The agent's Debian package, unless the tree has the agent already.
  std::filesystem::path agent_deb;
  // Becomes /usr/lib/sealift/node.toml, which is measured with the image.
  std::optional<std::string> node_config;
  // What the installer needs, by path: the enrolment files it expects firmware to hold, and its
  // configuration. Measured with the image, so that no medium can bring others.
  std::map<std::string, Bytes> installer_files = {};
};

// /init runs systemd; nothing says "initrd", so systemd takes its default target and extends PCR 11 with the
// phases of an OS; machine-id is empty, so that every boot of a fresh image has one of its own; /boot is
// emptied, since the kernel travels in the UKI; the index of kernel modules is made where it does not fit;
// systemd-sysext and systemd-confext are masked, since what is laid over the OS is the release's to say.
// Trees whose /usr is not merged are fine. Returns remarks for the operator, one also when the tree has no
// agent. Errors: FAILED_PRECONDITION/ROOTFS_UNUSABLE: no systemd, an older one, no modules for this kernel
// although the tree has modules; those of EnsureModuleIndex and AddAgent.
Result<std::vector<std::string>> MakeBootable(Tree& tree, const NodeKitOptions& options);

}  // namespace sealift::build
