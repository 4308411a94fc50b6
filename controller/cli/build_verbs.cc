// `sealift build-uki`: a root file system in, a signed release out.
#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "controller/build/release_builder.h"
#include "controller/cli/key_material.h"
#include "controller/cli/verbs.h"
#include "hsm/key_ring.h"
#include "shared/base/clock.h"
#include "shared/base/files.h"

namespace sealift::cli {
namespace {

// A failing kernel reboots by itself, so that boot counting moves on to the previous image.
constexpr std::string_view kDefaultCommandLine =
    "console=tty1 console=ttyS0 panic=5 systemd.crash_reboot=yes";
constexpr std::string_view kFolderPrefix = "dir:";

struct Arguments {
  std::string source;
  std::string type = "uki";
  std::string keys_folder;
  std::vector<std::string> tokens;
  std::string journal;
  std::string node_config_file;
  bool allow_expired = false;
  build::ReleaseOptions release;
};

// SOURCE_DATE_EPOCH makes a build repeatable to the byte.
Result<UnixMillis> BuildTime() {
  const char* text = std::getenv("SOURCE_DATE_EPOCH");
  if (text == nullptr) return SystemClock().Now();
  const std::string_view view(text);
  std::int64_t seconds = 0;
  const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), seconds);
  if (error != std::errc() || end != view.data() + view.size() || seconds < 0) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "read SOURCE_DATE_EPOCH: it is not a number of seconds");
  }
  return FromUnixMs(seconds * 1000);
}

// One line on a terminal that is written over; nothing elsewhere.
build::Progress TerminalProgress(const Session& session) {
  if (session.json() || ::isatty(STDERR_FILENO) == 0) return {};
  return [](std::string_view stage, std::uint64_t done, std::uint64_t total) {
    if (total == 0) {
      std::fprintf(stderr, "\r\033[K%.*s ...", static_cast<int>(stage.size()), stage.data());
    } else {
      std::fprintf(stderr, "\r\033[K%.*s %3d %% of %d MiB", static_cast<int>(stage.size()), stage.data(),
                   static_cast<int>(done * 100 / total), static_cast<int>(total >> 20));
    }
    if (stage == "write") std::fprintf(stderr, "\r\033[K");
    std::fflush(stderr);
  };
}

void Print(const Session& session, const std::filesystem::path& out, const build::BuiltRelease& built) {
  const std::string manifest = SerializeManifest(built.manifest);
  if (session.json()) {
    const nlohmann::json result = {{"out", out.string()},
                                   {"release", ReleaseIdOf(manifest).hex()},
                                   {"manifest", nlohmann::json::parse(manifest)},
                                   {"initrd_bytes", built.initrd_bytes},
                                   {"unpacked_bytes", built.unpacked_bytes},
                                   {"frames", built.frames},
                                   {"remarks", built.remarks}};
    std::printf("%s\n", result.dump(2).c_str());
    return;
  }
  for (const std::string& remark : built.remarks) std::fprintf(stderr, "note: %s\n", remark.c_str());
  fmt::print("release {} in {}\n", built.manifest.version, out.string());
  for (const ReleaseFile& file : built.manifest.files)
    fmt::print("  {:<30} {:>12} bytes  {}\n", file.path, file.size, file.digest.hex().substr(0, 16));
  fmt::print("  initrd: {} MiB unpacked, {} MiB in {} frames; systemd-stub {}\n", built.unpacked_bytes >> 20,
             built.initrd_bytes >> 20, built.frames, built.manifest.stub_version);
  for (const PhasePrediction& phase : built.manifest.pcr11)
    fmt::print("  PCR 11 {:<14} {}\n", phase.phase.empty() ? "(boot)" : phase.phase, phase.pcr11.hex());
}

Status Build(const Session& session, Arguments& arguments) {
  if (!arguments.source.starts_with(kFolderPrefix)) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("build from '{}': write dir:FOLDER", arguments.source));
  }
  build::ReleaseOptions& options = arguments.release;
  options.rootfs = arguments.source.substr(kFolderPrefix.size());
  SEALIFT_ASSIGN_OR_RETURN(options.built, BuildTime());
  if (!arguments.node_config_file.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(options.node_config, ReadTextFile(arguments.node_config_file, 1u << 20));
  }
  const std::filesystem::path keys_folder = arguments.keys_folder;
  SEALIFT_ASSIGN_OR_RETURN(const auto ring,
                           hsm::KeyRing::Open(keys_folder, arguments.tokens, arguments.journal));
  SEALIFT_RETURN_IF_ERROR(CheckCertificates(ring->inventory(), {"db"}, arguments.allow_expired));
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> db, ring->SignerFor("db"));
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> pcr, ring->SignerFor("pcr"));
  SEALIFT_ASSIGN_OR_RETURN(const Certificate certificate, ring->CertificateFor("db"));
  build::ReleaseKeys keys{
      .secure_boot = db.get(), .pcr = pcr.get(), .secure_boot_certificate = certificate.der()};
  SEALIFT_ASSIGN_OR_RETURN(keys.pk_auth, ReadFile(keys_folder / "PK.auth"));
  SEALIFT_ASSIGN_OR_RETURN(keys.kek_auth, ReadFile(keys_folder / "KEK.auth"));
  SEALIFT_ASSIGN_OR_RETURN(keys.db_auth, ReadFile(keys_folder / "db.auth"));
  if (std::filesystem::exists(keys_folder / "dbx.auth")) {
    SEALIFT_ASSIGN_OR_RETURN(keys.dbx_auth, ReadFile(keys_folder / "dbx.auth"));
  }
  for (const hsm::InventoryKey* key : ring->inventory().Generations("pcr"))
    keys.pcr_keys.push_back(key->key_id);
  SEALIFT_ASSIGN_OR_RETURN(const build::BuiltRelease built,
                           build::BuildRelease(options, keys, TerminalProgress(session)));
  Print(session, options.out, built);
  return OkStatus();
}

}  // namespace

void AddBuildVerbs(CLI::App& app, Session& session) {
  const auto arguments = std::make_shared<Arguments>();
  build::ReleaseOptions& release = arguments->release;
  release.command_line = kDefaultCommandLine;
  CLI::App* verb = AddVerb(app, session, "build-uki", "Build a signed release from a root file system",
                           "sealift build-uki dir:rootfs -t uki -d out/1.0 --keys keys --token "
                           "release=pkcs11:token=release?pin-source=...",
                           [&session, arguments] { return Build(session, *arguments); });
  verb->add_option("source", arguments->source, "dir:ROOTFS, the OS that becomes the release")->required();
  verb->add_option("-t,--output-type", arguments->type, "Kind of output")->check(CLI::IsMember({"uki"}));
  verb->add_option("-d,--output-dir", release.out, "Folder for the release; new, empty or an earlier release")
      ->required();
  verb->add_option("--keys", arguments->keys_folder, "Folder written by `sealift keys init`")->required();
  verb->add_option("--token", arguments->tokens, "[GROUP=]URI of a token, RFC 7512; repeatable")->required();
  AddJournalOption(*verb, arguments->journal);
  AddExpiredOption(*verb, arguments->allow_expired);
  verb->add_option("--stub", release.stub, "systemd-stub, if not the tree's own");
  verb->add_option("--sdboot", release.boot_loader, "systemd-boot, if not the tree's own");
  verb->add_option("--kernel", release.kernel, "Kernel, if not the tree's /boot/vmlinuz");
  verb->add_option("--cmdline", release.command_line, "Kernel command line, signed and measured")
      ->capture_default_str();
  verb->add_option("--node-config", arguments->node_config_file,
                   "Becomes /usr/lib/sealift/node.toml in the image");
  verb->add_option(
      "--sign-phase", release.signed_phases,
      "Phase in which disks may be unsealed: '' (before sysinit, the default), sysinit, sysinit:ready");
  verb->add_option("--secure-boot-enroll", release.secure_boot_enroll,
                   "What systemd-boot does with our keys in setup mode: off, manual, force");
  verb->add_flag("--i-verified-these-keys-on-this-hardware", release.keys_verified_on_hardware,
                 "Needed for force: option ROMs signed by others stop working");
  verb->add_option("--menu-timeout", release.menu_timeout_seconds, "Seconds the boot menu shows")
      ->capture_default_str();
  verb->add_option("--version", release.version, "Version, if not os-release's own");
  verb->add_option("--zstd-level", release.zstd_level, "1 (fast) to 19 (small)")->capture_default_str();
}

}  // namespace sealift::cli
