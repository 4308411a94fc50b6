#include "controller/build/release_builder.h"

#include <fmt/format.h>

#include "controller/build/initrd.h"
#include "controller/build/node_kit.h"
#include "controller/source/scratch_file.h"
#include "shared/base/ids.h"
#include "shared/efi/auth_variable.h"
#include "shared/uki/sections.h"

namespace sealift::build {
namespace {

constexpr std::uint64_t kMaxPartBytes = 256u << 20;
// The first systemd-boot that takes loader/keys/NAME/dbx.auth.
constexpr unsigned kLoaderThatEnrolsDbx = 256;

// A file named by the operator, else one of the tree.
Result<Bytes> ReadPart(const Tree& tree, const std::filesystem::path& named, std::string_view in_tree,
                       std::string_view option) {
  if (!named.empty()) return ReadFile(named, kMaxPartBytes);
  Result<Bytes> bytes = tree.ReadFile(in_tree, kMaxPartBytes);
  if (bytes.ok()) return bytes;
  return Annotate(bytes.status(), fmt::format("find part, not named with {}", option));
}

struct Parts {
  Bytes stub;
  Bytes boot_loader;
  Bytes kernel;
  uki::SystemdMagic stub_magic;
  uki::SystemdMagic loader_magic;
};

Result<uki::SystemdMagic> MagicOf(ByteView file, std::string_view component) {
  SEALIFT_ASSIGN_OR_RETURN(const efi::PeImage image, efi::PeImage::Parse(file));
  SEALIFT_ASSIGN_OR_RETURN(uki::SystemdMagic magic, uki::ReadSystemdMagic(image));
  if (magic.component == component) return magic;
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("read {}: the file is {}", component, magic.component));
}

Result<Parts> ReadParts(const Tree& tree, const ReleaseOptions& options) {
  Parts parts;
  SEALIFT_ASSIGN_OR_RETURN(parts.stub, ReadPart(tree, options.stub, kStubPath, "--stub"));
  SEALIFT_ASSIGN_OR_RETURN(parts.boot_loader,
                           ReadPart(tree, options.boot_loader, kBootLoaderPath, "--sdboot"));
  if (options.kernel.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(parts.kernel, ReadKernel(tree));
  } else {
    SEALIFT_ASSIGN_OR_RETURN(parts.kernel, ReadFile(options.kernel, kMaxPartBytes));
  }
  SEALIFT_ASSIGN_OR_RETURN(parts.stub_magic, MagicOf(parts.stub, "systemd-stub"));
  SEALIFT_ASSIGN_OR_RETURN(parts.loader_magic, MagicOf(parts.boot_loader, "systemd-boot"));
  return parts;
}

Status CheckEnrolment(const ReleaseOptions& options, const uki::SystemdMagic& loader) {
  if (options.secure_boot_enroll.empty()) return OkStatus();
  SEALIFT_RETURN_IF_ERROR(efi::CheckEnrollMode(options.secure_boot_enroll, loader.version));
  if (options.secure_boot_enroll != "force" || options.keys_verified_on_hardware) return OkStatus();
  return MakeError(
      Code::kFailedPrecondition, Reason::kEnrollConsentMissing,
      "set secure-boot-enroll to 'force': every machine that boots this medium in setup mode would take "
      "these keys without asking");
}

// Plays the firmware: PK signs itself and KEK, KEK signs db and dbx, and db starts what we signed unless dbx
// revokes it.
Status CheckKeyChain(const ReleaseKeys& keys, ByteView boot_loader) {
  const auto check = [](const Bytes& auth, std::string_view name,
                        const efi::SignatureLists& trusted) -> Result<efi::SignatureLists> {
    SEALIFT_ASSIGN_OR_RETURN(const efi::VariableTarget target, efi::SecureBootVariable(name));
    SEALIFT_ASSIGN_OR_RETURN(const efi::VerifiedVariable verified,
                             efi::VerifyAuthenticatedVariable(auth, target, trusted));
    return verified.content;
  };
  const auto chain = [&]() -> Status {
    SEALIFT_ASSIGN_OR_RETURN(const efi::AuthenticatedVariable own,
                             efi::ParseAuthenticatedVariable(keys.pk_auth));
    SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists claimed, efi::ParseSignatureLists(own.payload));
    SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists pk, check(keys.pk_auth, "PK", claimed));
    SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists kek, check(keys.kek_auth, "KEK", pk));
    SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists db, check(keys.db_auth, "db", kek));
    efi::SignatureLists dbx;
    if (!keys.dbx_auth.empty()) {
      SEALIFT_ASSIGN_OR_RETURN(dbx, check(keys.dbx_auth, "dbx", kek));
    }
    return efi::VerifyImage(boot_loader, db, dbx).status();
  };
  const Status status = chain();
  if (status.ok()) return status;
  return MakeError(
      Code::kFailedPrecondition, Reason::kKeyMismatch,
      fmt::format("check enrolment files: firmware that takes them would not start this release: {}",
                  MessageOf(status)));
}

Result<OsRelease> VersionedOsRelease(Tree& tree, const std::string& version) {
  SEALIFT_ASSIGN_OR_RETURN(OsRelease os_release, ReadOsRelease(tree));
  if (!version.empty() && version != os_release.Version()) os_release.SetImageVersion(tree, version);
  if (IsValidVersion(os_release.Version())) return os_release;
  return MakeError(
      Code::kFailedPrecondition, Reason::kRootfsUnusable,
      fmt::format("read os-release: '{}' is not a version; set VERSION_ID, IMAGE_VERSION or --version",
                  os_release.Version()));
}

}  // namespace

Result<BuiltRelease> BuildRelease(const ReleaseOptions& options, const ReleaseKeys& keys,
                                  const Progress& progress) {
  const auto stage = [&](std::string_view name) {
    if (progress) progress(name, 0, 0);
  };
  SEALIFT_RETURN_IF_ERROR(CheckOutputFolder(options.out));
  stage("read");
  SEALIFT_ASSIGN_OR_RETURN(Tree tree, Tree::Read(options.rootfs));
  SEALIFT_ASSIGN_OR_RETURN(const Parts parts, ReadParts(tree, options));
  SEALIFT_RETURN_IF_ERROR(CheckEnrolment(options, parts.loader_magic));
  SEALIFT_ASSIGN_OR_RETURN(const OsRelease os_release, VersionedOsRelease(tree, options.version));
  BuiltRelease built;
  SEALIFT_ASSIGN_OR_RETURN(built.remarks, MakeBootable(tree, {.systemd_major = parts.stub_magic.major,
                                                              .kernel_release = KernelRelease(parts.kernel),
                                                              .built = options.built,
                                                              .node_config = options.node_config}));
  const std::string version = os_release.Version();
  EspContents contents{.version = version,
                       .title = os_release.Title(),
                       .built = options.built,
                       .loader_conf = {.timeout_seconds = options.menu_timeout_seconds,
                                       .secure_boot_enroll = options.secure_boot_enroll},
                       .pk_auth = keys.pk_auth,
                       .kek_auth = keys.kek_auth,
                       .db_auth = keys.db_auth,
                       .dbx_auth = keys.dbx_auth,
                       .secure_boot_certificate = keys.secure_boot_certificate,
                       .pcr_keys = keys.pcr_keys};
  // The short signature first: wrong keys show before the long work.
  SEALIFT_ASSIGN_OR_RETURN(contents.boot_loader,
                           efi::SignImage(parts.boot_loader, *keys.secure_boot, keys.secure_boot_certificate,
                                          fmt::format("authenticode {} {}", kBootLoaderFile, version)));
  SEALIFT_RETURN_IF_ERROR(CheckKeyChain(keys, contents.boot_loader.bytes));
  if (!keys.dbx_auth.empty() && parts.loader_magic.major < kLoaderThatEnrolsDbx) {
    built.remarks.push_back(fmt::format(
        "systemd-boot {} does not enrol dbx.auth ({} and later do); enrol it with the firmware's setup, or "
        "machines will not match the predicted PCR 7",
        parts.loader_magic.version, kLoaderThatEnrolsDbx));
  }
  InitrdOptions packing{.zstd_level = options.zstd_level};
  if (progress)
    packing.progress = [&](std::uint64_t done, std::uint64_t total) { progress("pack", done, total); };
  SEALIFT_ASSIGN_OR_RETURN(const InstalledPackages packages, ReadPackages(tree));
  SEALIFT_ASSIGN_OR_RETURN(ScratchFile initrd_file, ScratchFile::Create());
  SEALIFT_ASSIGN_OR_RETURN(const Initrd initrd, PackInitrd(tree, packages, packing, [&](ByteView piece) {
                             return initrd_file.Append(piece);
                           }));
  SEALIFT_ASSIGN_OR_RETURN(const ByteView initrd_bytes, initrd_file.Map());
  built.initrd_bytes = initrd.index.size;
  built.unpacked_bytes = initrd.unpacked_bytes;
  built.frames = initrd.index.frames.size();
  contents.frame_index = content::SerializeFrameIndex(initrd.index);
  stage("sign");
  SEALIFT_ASSIGN_OR_RETURN(contents.uki, BuildUki({.stub = parts.stub,
                                                   .kernel = parts.kernel,
                                                   .initrd = initrd_bytes,
                                                   .os_release = os_release.text,
                                                   .command_line = options.command_line,
                                                   .subject = fmt::format("{} {}", kUkiFile, version),
                                                   .signed_phases = options.signed_phases},
                                                  {.secure_boot = keys.secure_boot,
                                                   .secure_boot_certificate = keys.secure_boot_certificate,
                                                   .pcr = keys.pcr}));
  stage("write");
  SEALIFT_ASSIGN_OR_RETURN(built.manifest, WriteEspTree(options.out, contents));
  return built;
}

}  // namespace sealift::build
