#include "controller/build/release_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "controller/build/extension_bundle.h"
#include "controller/build/initrd.h"
#include "controller/build/node_kit.h"
#include "controller/build/overlay.h"
#include "controller/build/sbom.h"
#include "controller/source/scratch_file.h"
#include "controller/source/source.h"
#include "shared/base/ids.h"
#include "shared/crypto/hash.h"
#include "shared/efi/auth_variable.h"
#include "shared/install/install_config.h"
#include "shared/uki/pcr_prediction.h"
#include "shared/uki/sections.h"

namespace sealift::build {
namespace {

constexpr std::uint64_t kMaxPartBytes = 256u << 20;
constexpr std::uint64_t kMaxSplashBytes = 16u << 20;
// The first systemd-boot that takes loader/keys/NAME/dbx.auth.
constexpr unsigned kLoaderThatEnrolsDbx = 256;
// As ParseManifest.
constexpr std::size_t kMaxListedImages = 64;

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
  Bytes splash;
  uki::SystemdMagic stub_magic;
  uki::SystemdMagic loader_magic;
};

// The firmware's stub shows nothing else, and says nothing either when it cannot.
Result<Bytes> ReadSplash(const std::filesystem::path& path) {
  if (path.empty()) return Bytes();
  SEALIFT_ASSIGN_OR_RETURN(Bytes picture, ReadFile(path, kMaxSplashBytes));
  if (AsText(picture).starts_with("BM")) return picture;
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("read splash '{}': it is not a BMP picture", path.string()));
}

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
  SEALIFT_ASSIGN_OR_RETURN(parts.splash, ReadSplash(options.splash));
  SEALIFT_ASSIGN_OR_RETURN(parts.stub_magic, MagicOf(parts.stub, "systemd-stub"));
  SEALIFT_ASSIGN_OR_RETURN(parts.loader_magic, MagicOf(parts.boot_loader, "systemd-boot"));
  return parts;
}

// What nodes and the controller would refuse at the end of the build anyway.
Status CheckImageCount(const std::vector<MenuEntry>& menu, std::size_t profiles, const ExtraSections& extra) {
  const std::size_t images =
      menu.size() * std::max<std::size_t>(profiles, 1) * extra.measurements_per_image();
  if (images <= kMaxListedImages) return OkStatus();
  return MakeError(
      Code::kInvalidArgument, Reason::kInvalidArgument,
      fmt::format("plan images: {} boot entries with {} profiles and {} choices of a device tree each "
                  "are {}, but a release lists {} at most",
                  menu.size(), std::max<std::size_t>(profiles, 1), extra.measurements_per_image(), images,
                  kMaxListedImages));
}

// Before the long work, and by the option's name.
Status CheckProfiles(const std::vector<MenuProfile>& profiles, const uki::SystemdMagic& stub) {
  const Status known = profiles.empty() ? OkStatus() : uki::CheckSectionKnown(uki::kProfile, stub.major);
  return known.ok() ? known : Annotate(known, "take --uki-profile");
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

// The OS as it goes in, and what preflight has to say about it.
struct Prepared {
  Tree tree;
  std::vector<MenuEntry> menu;
  Result<Bytes> kernel = Bytes();
  std::vector<Finding> findings;
};

// Entries, and their profiles as if they were some: whatever command line is signed is looked at.
Result<std::vector<MenuEntry>> EveryLine(const std::vector<MenuEntry>& menu, const MenuOptions& options) {
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<MenuProfile> profiles, PlanProfiles(options));
  std::vector<MenuEntry> lines = menu;
  for (const MenuEntry& entry : menu) {
    for (const MenuProfile& profile : profiles) {
      if (profile.added.empty()) continue;
      SEALIFT_ASSIGN_OR_RETURN(std::string line, ProfileCommandLine(entry.command_line, profile));
      lines.push_back({.id = fmt::format("{}@{}", entry.id, profile.id),
                       .title = profile.title,
                       .command_line = std::move(line),
                       .added = profile.added});
    }
  }
  return lines;
}

Result<Prepared> Prepare(const ReleaseOptions& options) {
  Prepared prepared;
  SEALIFT_ASSIGN_OR_RETURN(prepared.menu, PlanMenu(options.command_line, options.menu));
  SEALIFT_ASSIGN_OR_RETURN(SourceTree source, ReadSource(options.source));
  prepared.tree = std::move(source.tree);
  if (!options.overlay.empty()) SEALIFT_RETURN_IF_ERROR(ApplyOverlay(options.overlay, prepared.tree));
  prepared.kernel =
      options.kernel.empty() ? ReadKernel(prepared.tree) : ReadFile(options.kernel, kMaxPartBytes);
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<MenuEntry> lines, EveryLine(prepared.menu, options.menu));
  prepared.findings =
      InspectTree({.tree = &prepared.tree,
                   .menu = &lines,
                   .node_config = options.node_config,
                   .kernel = prepared.kernel.status(),
                   .kernel_release = prepared.kernel.ok() ? KernelRelease(*prepared.kernel) : std::string(),
                   .version = options.version});
  return prepared;
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

Status CheckGoesOn(const ReleaseOptions& options) {
  if (!options.stop.stop_requested()) return OkStatus();
  return MakeError(Code::kCancelled, Reason::kCancelled, "build release: it was called off");
}

// One image a menu entry, each with the same OS inside.
class ImageWriter {
 public:
  ImageWriter(const ReleaseOptions& options, const ReleaseKeys& keys, UkiParts common,
              const Sha256Digest& boot_loader, const ExtensionBundle& extensions, EspTree& tree)
      : options_(options),
        keys_(keys),
        parts_(std::move(common)),
        boot_loader_(boot_loader),
        extensions_(extensions),
        tree_(tree) {}

  // Appends what the image is measured as.
  Status Write(const MenuEntry& entry, const std::string& version, std::vector<ImageMeasurements>& images) {
    parts_.command_line = entry.command_line;
    parts_.subject = fmt::format("{} {}", entry.image_path(), version);
    SEALIFT_ASSIGN_OR_RETURN(parts_.profiles, Profiles(entry));
    parts_.signed_phases = entry.unlocks ? options_.signed_phases : std::vector<std::string>();
    SEALIFT_ASSIGN_OR_RETURN(const std::filesystem::path place, tree_.PlaceFor(entry.image_path()));
    SEALIFT_ASSIGN_OR_RETURN(BuiltUki uki,
                             BuildUkiFile(parts_,
                                          {.secure_boot = keys_.secure_boot,
                                           .secure_boot_certificate = keys_.secure_boot_certificate,
                                           .pcr = keys_.pcr},
                                          place));
    SEALIFT_RETURN_IF_ERROR(tree_.AddWritten(entry.image_path(), FileRole::kUki, &uki.image.digest));
    largest_ = std::max(largest_, uki.size);
    for (ImageMeasurements& image : uki.images) {
      image.path = entry.image_path();
      image.pcr4.boot_loader = boot_loader_;
      image.pcr13 = extensions_.pcr13;
      images.push_back(std::move(image));
    }
    return WriteExtensions(extensions_, entry.image_path(), tree_);
  }
  std::uint64_t largest() const { return largest_; }

 private:
  Result<std::vector<UkiProfile>> Profiles(const MenuEntry& entry) const {
    SEALIFT_ASSIGN_OR_RETURN(const std::vector<MenuProfile> planned, PlanProfiles(options_.menu));
    std::vector<UkiProfile> profiles;
    for (const MenuProfile& one : planned) {
      UkiProfile profile{.text = one.Text()};
      if (!one.added.empty()) {
        SEALIFT_ASSIGN_OR_RETURN(profile.command_line, ProfileCommandLine(entry.command_line, one));
        profile.unlocks = false;
      }
      profiles.push_back(std::move(profile));
    }
    return profiles;
  }

  const ReleaseOptions& options_;
  const ReleaseKeys& keys_;
  UkiParts parts_;
  Sha256Digest boot_loader_;
  const ExtensionBundle& extensions_;
  EspTree& tree_;
  std::uint64_t largest_ = 0;
};

Sha256Digest Pcr13(const ExtensionBundle& extensions) {
  Sha256Digest pcr;
  for (const ParameterEvent& event : extensions.pcr13) pcr = uki::ExtendPcr(pcr, event.digest);
  return pcr;
}

// By name; dbx only where the set revokes something.
std::vector<std::pair<std::string, const Bytes*>> EnrolmentFiles(const ReleaseKeys& keys) {
  std::vector<std::pair<std::string, const Bytes*>> files;
  for (const auto& [name, auth] : {std::pair{"PK", &keys.pk_auth}, std::pair{"KEK", &keys.kek_auth},
                                   std::pair{"db", &keys.db_auth}, std::pair{"dbx", &keys.dbx_auth}})
    if (!auth->empty()) files.emplace_back(fmt::format("{}.auth", name), auth);
  return files;
}

// What the agent in this image installs with.
Result<std::map<std::string, Bytes>> InstallerFiles(const ReleaseOptions& options, const ReleaseKeys& keys) {
  std::map<std::string, Bytes> files;
  for (const auto& [name, auth] : EnrolmentFiles(keys))
    files[fmt::format("{}/{}", kFirmwareKeysFolder, name)] = *auth;
  if (options.install_config.has_value()) {
    SEALIFT_RETURN_IF_ERROR(ParseInstallConfig(*options.install_config).status());
    files[std::string(kInstallConfigPath)] = ToBytes(*options.install_config);
  }
  return files;
}

// loader.conf, the entries and the enrolment files: everything but images.
Status WriteConfiguration(const ReleaseOptions& options, const ReleaseKeys& keys,
                          const std::vector<MenuEntry>& menu, const std::string& version, EspTree& tree) {
  const efi::LoaderConf loader_conf{.timeout_seconds = options.menu_timeout_seconds,
                                    .secure_boot_enroll = options.secure_boot_enroll};
  SEALIFT_RETURN_IF_ERROR(tree.Write(kLoaderConfFile, FileRole::kLoaderConf, AsBytes(loader_conf.Format())));
  for (const MenuEntry& entry : menu) {
    const std::string text = EntryText(entry, version, options.menu);
    SEALIFT_RETURN_IF_ERROR(tree.Write(entry.entry_path(), FileRole::kEntry, AsBytes(text)));
  }
  for (const auto& [name, auth] : EnrolmentFiles(keys))
    SEALIFT_RETURN_IF_ERROR(tree.Write("loader/keys/auto/" + name, FileRole::kEnrolmentKey, *auth));
  return OkStatus();
}

}  // namespace

Result<std::vector<Finding>> CheckRelease(const ReleaseOptions& options) {
  SEALIFT_ASSIGN_OR_RETURN(Prepared prepared, Prepare(options));
  const Status verdict = Judge(prepared.findings, options.allowed_findings);
  if (!verdict.ok() && ReasonOf(verdict) != Reason::kPreflightFailed) return verdict;
  return std::move(prepared.findings);
}

Result<BuiltRelease> BuildRelease(const ReleaseOptions& options, const ReleaseKeys& keys,
                                  const Progress& progress) {
  const auto stage = [&](std::string_view name) {
    if (progress) progress(name, 0, 0);
  };
  SEALIFT_RETURN_IF_ERROR(CheckOutputFolder(options.out));
  stage("read");
  SEALIFT_ASSIGN_OR_RETURN(Prepared prepared, Prepare(options));
  SEALIFT_RETURN_IF_ERROR(Judge(prepared.findings, options.allowed_findings));
  SEALIFT_RETURN_IF_ERROR(CheckGoesOn(options));
  Tree& tree = prepared.tree;
  if (!prepared.kernel.ok()) return prepared.kernel.status();
  const Bytes& kernel = *prepared.kernel;
  SEALIFT_ASSIGN_OR_RETURN(const Parts parts, ReadParts(tree, options));
  SEALIFT_ASSIGN_OR_RETURN(const ExtraSections extra,
                           ExtraSections::Read(options.sections, parts.stub_magic));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<MenuProfile> profiles, PlanProfiles(options.menu));
  SEALIFT_RETURN_IF_ERROR(CheckProfiles(profiles, parts.stub_magic));
  SEALIFT_RETURN_IF_ERROR(CheckImageCount(prepared.menu, profiles.size(), extra));
  SEALIFT_RETURN_IF_ERROR(CheckEnrolment(options, parts.loader_magic));
  SEALIFT_ASSIGN_OR_RETURN(const OsRelease os_release, VersionedOsRelease(tree, options.version));
  const std::string version = os_release.Version();
  BuiltRelease built;
  SEALIFT_ASSIGN_OR_RETURN(auto installer_files, InstallerFiles(options, keys));
  SEALIFT_ASSIGN_OR_RETURN(built.remarks,
                           MakeBootable(tree, {.systemd_major = parts.stub_magic.major,
                                               .kernel_release = KernelRelease(kernel),
                                               .built = options.built,
                                               .security_epoch = options.security_epoch,
                                               .pcr_keys_pem = keys.pcr_keys_pem,
                                               .agent_deb = options.agent_deb,
                                               .node_config = options.node_config,
                                               .installer_files = std::move(installer_files)}));
  SEALIFT_ASSIGN_OR_RETURN(const ExtensionBundle extensions,
                           BundleExtensions(options.extensions, keys.extension_certificates, os_release,
                                            parts.stub_magic.major, tree));
  if (std::string lost = LostCapabilities(tree); !lost.empty()) built.remarks.push_back(std::move(lost));
  // The short signature first: wrong keys show before the long work.
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignedImage boot_loader,
                           efi::SignImage(parts.boot_loader, *keys.secure_boot, keys.secure_boot_certificate,
                                          fmt::format("authenticode {} {}", kBootLoaderFile, version)));
  SEALIFT_RETURN_IF_ERROR(CheckKeyChain(keys, boot_loader.bytes));
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
  built.packages = packages.packages.size();
  if (packages.packages.empty()) {
    built.remarks.push_back(
        "the tree has no package database: the bill of materials names no packages, and upgrades are larger "
        "than they need be");
  }
  SEALIFT_ASSIGN_OR_RETURN(ScratchFile initrd_file, ScratchFile::Create());
  const auto append = [&](ByteView piece) -> Status {
    SEALIFT_RETURN_IF_ERROR(CheckGoesOn(options));
    return initrd_file.Append(piece);
  };
  SEALIFT_ASSIGN_OR_RETURN(const Initrd initrd, PackInitrd(tree, packages, packing, append));
  built.initrd_bytes = initrd.index.size;
  built.unpacked_bytes = initrd.unpacked_bytes;
  built.frames = initrd.index.frames.size();

  Manifest manifest{.version = version,
                    .minimum_agent_version = SEALIFT_VERSION,
                    .hardware_class = "generic-x86_64",
                    .security_epoch = options.security_epoch,
                    .built = options.built,
                    .stub_version = parts.stub_magic.version,
                    .secure_boot_certificates = {Sha256(keys.secure_boot_certificate)},
                    .pcr_keys = keys.pcr_keys};
  SEALIFT_ASSIGN_OR_RETURN(EspTree esp, EspTree::Create(options.out));
  UkiParts common{.stub = parts.stub,
                  .kernel = kernel,
                  .initrd = uki::ContentSource(*initrd_file.fd(), "packed initrd", 0, initrd_file.size()),
                  .initrd_digest = initrd.index.digest,
                  .os_release = os_release.text,
                  .kernel_release = KernelRelease(kernel),
                  .splash = parts.splash,
                  .sha384 = options.sha384};
  if (tree.Find(kNodeConfigPath) != nullptr) common.pcr13 = Pcr13(extensions);
  common.companions_pcr12 = extensions.pcr12;
  extra.AddTo(common);
  SEALIFT_RETURN_IF_ERROR(
      esp.Write(kBootLoaderFile, FileRole::kBootLoader, boot_loader.bytes, &boot_loader.digest));
  ImageWriter images(options, keys, std::move(common), boot_loader.digest, extensions, esp);
  for (const MenuEntry& entry : prepared.menu) {
    SEALIFT_RETURN_IF_ERROR(CheckGoesOn(options));
    stage(fmt::format("sign {}", entry.id));
    SEALIFT_RETURN_IF_ERROR(images.Write(entry, version, manifest.images));
  }
  manifest.pcr11 = manifest.images.front().pcr11;
  manifest.sections = manifest.images.front().sections;
  SEALIFT_RETURN_IF_ERROR(WriteConfiguration(options, keys, prepared.menu, version, esp));
  SEALIFT_RETURN_IF_ERROR(
      esp.Write(kFrameIndexFile, FileRole::kFrameIndex, AsBytes(content::SerializeFrameIndex(initrd.index))));
  SEALIFT_RETURN_IF_ERROR(esp.Write(kSbomFile, FileRole::kSbom,
                                    AsBytes(WriteSbom({.os_id = os_release.Get("ID"),
                                                       .os_version = os_release.Get("VERSION_ID"),
                                                       .title = os_release.Title(),
                                                       .version = version,
                                                       .built = options.built,
                                                       .initrd = initrd.index.digest},
                                                      packages))));
  std::vector<Finding> sizes = InspectSizes(images.largest(), esp.total_bytes(), options.sizes);
  SEALIFT_RETURN_IF_ERROR(Judge(sizes, options.allowed_findings));
  SEALIFT_RETURN_IF_ERROR(CheckGoesOn(options));
  stage("write");
  SEALIFT_ASSIGN_OR_RETURN(built.manifest, esp.Commit(std::move(manifest)));
  built.findings = std::move(prepared.findings);
  built.findings.insert(built.findings.end(), sizes.begin(), sizes.end());
  return built;
}

}  // namespace sealift::build
