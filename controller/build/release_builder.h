// The whole build: an OS from a folder or an image in, a signed release out.
//
//   read tree -> preflight -> make it bootable -> pack initrd -> lay out, predict, sign -> check -> move to
//   its place
//
// Not thread-safe per output folder. Signers are borrowed for the call.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "controller/build/boot_menu.h"
#include "controller/build/esp_tree.h"
#include "controller/build/extra_sections.h"
#include "controller/build/preflight.h"
#include "controller/build/uki_builder.h"
#include "shared/efi/boot_entry.h"

namespace sealift::build {

// Public files of the key set and signers for what stays in tokens.
struct ReleaseKeys {
  Signer* secure_boot = nullptr;
  Signer* pcr = nullptr;
  // DER of the db certificate.
  Bytes secure_boot_certificate;
  // Enrolment files of the set.
  Bytes pk_auth;
  Bytes kek_auth;
  Bytes db_auth;
  // Empty when the set revokes nothing.
  Bytes dbx_auth;
  // SHA-256 of the SubjectPublicKeyInfo of every PCR key generation that nodes may accept.
  std::vector<Sha256Digest> pcr_keys;
  // Those keys as PEM, one after the other: measured with images for nodes, which bind their disks to each.
  std::string pcr_keys_pem;
  // DER of the certificate of every `extensions` key generation.
  std::vector<Bytes> extension_certificates;
};

struct ReleaseOptions {
  // As ReadSource takes it: "dir:FOLDER", "oci:FOLDER:TAG", ...
  std::string source;
  // Laid over it; empty: nothing.
  std::filesystem::path overlay;
  std::filesystem::path out;
  // Empty: from the tree.
  std::filesystem::path stub;
  std::filesystem::path boot_loader;
  std::filesystem::path kernel;
  // A BMP picture shown while the kernel starts; empty: none.
  std::filesystem::path splash;
  ExtraSectionFiles sections;
  // Predicts and signs for the SHA-384 bank too.
  bool sha384 = false;
  // The default one; `menu` says what other entries add to it.
  std::string command_line;
  MenuOptions menu;
  // Signed system extensions, to lie beside every image.
  std::vector<std::filesystem::path> extensions;
  // The agent's Debian package, unpacked into the tree; empty: the tree has the agent.
  std::filesystem::path agent_deb;
  // Becomes /usr/lib/sealift/node.toml.
  std::optional<std::string> node_config;
  // Becomes /usr/lib/sealift/install.yaml; checked as the installer will (shared/install).
  std::optional<std::string> install_config;
  std::vector<std::string> signed_phases = {""};
  // Empty leaves the loader's default.
  std::string secure_boot_enroll;
  // The operator tried these keys on the hardware; enrolment by force needs it.
  bool keys_verified_on_hardware = false;
  std::uint32_t menu_timeout_seconds = 5;
  // Nodes refuse images below the epoch they were raised to; measured with the image.
  std::uint32_t security_epoch = 0;
  // Empty: what os-release says; else written into it as IMAGE_VERSION.
  std::string version;
  int zstd_level = 9;
  UnixMillis built;
  SizeLimits sizes;
  // Names of preflight findings that are meant.
  std::vector<std::string> allowed_findings;
  // Asked while packing and between steps: the build then ends with CANCELLED and leaves nothing.
  std::stop_token stop = {};
};

// "pack" with bytes, or a stage without numbers (total 0). Called from one thread at a time.
using Progress = std::function<void(std::string_view stage, std::uint64_t done, std::uint64_t total)>;

struct BuiltRelease {
  Manifest manifest;
  // Warnings, and errors that were allowed.
  std::vector<Finding> findings;
  // Things the operator should know, one sentence each.
  std::vector<std::string> remarks;
  std::size_t packages = 0;
  std::uint64_t initrd_bytes = 0;
  std::uint64_t unpacked_bytes = 0;
  std::size_t frames = 0;
};

// What preflight says, without keys and without building. Errors: those of reading the tree;
// COMMAND_LINE_INVALID, FILE_NAME_CLASH; INVALID_ARGUMENT for a name of a finding that cannot be.
// PREFLIGHT_FAILED is none: the list says it.
Result<std::vector<Finding>> CheckRelease(const ReleaseOptions& options);

// The output appears when everything is built and checked. Errors: PREFLIGHT_FAILED, ROOTFS_UNUSABLE,
// CANCELLED, OUTPUT_NOT_EMPTY, ENROLL_MODE_UNKNOWN, ENROLL_CONSENT_MISSING; KEY_MISMATCH when the enrolment
// files would leave firmware with keys that do not start this release; INVALID_ARGUMENT for more images than
// a manifest lists; those of ReadSource, MakeBootable, ExtraSections, BuildUki and BundleExtensions.
Result<BuiltRelease> BuildRelease(const ReleaseOptions& options, const ReleaseKeys& keys,
                                  const Progress& progress);

}  // namespace sealift::build
