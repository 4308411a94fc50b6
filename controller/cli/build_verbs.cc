// `sealift build-uki`: a root file system in, a signed release out.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "controller/cli/build_media.h"
#include "controller/cli/build_options.h"
#include "controller/cli/build_progress.h"
#include "controller/cli/build_time.h"
#include "controller/cli/key_material.h"
#include "controller/cli/verbs.h"
#include "hsm/key_ring.h"
#include "shared/base/clock.h"
#include "shared/base/files.h"

namespace sealift::cli {
namespace {

using nlohmann::json;

Status Usage(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, what);
}

std::string_view SeverityName(const build::Finding& finding) {
  if (finding.allowed) return "allowed";
  return finding.severity == build::Severity::kError ? "error" : "warning";
}

json FindingsJson(const std::vector<build::Finding>& findings) {
  json list = json::array();
  for (const build::Finding& finding : findings)
    list.push_back({{"name", finding.name}, {"severity", SeverityName(finding)}, {"text", finding.text}});
  return list;
}

void PrintFindings(const std::vector<build::Finding>& findings, std::FILE* to) {
  for (const build::Finding& finding : findings)
    fmt::print(to, "{:<8} {}: {}\n", SeverityName(finding), finding.name, finding.text);
}

// `out`: the folder of a release tree, or the file of a medium.
void Print(const Session& session, const std::string& type, const std::filesystem::path& out,
           const build::BuiltRelease& built) {
  const std::string manifest = SerializeManifest(built.manifest);
  if (session.json()) {
    const json result = {{"type", type},
                         {"out", out.string()},
                         {"release", ReleaseIdOf(manifest).hex()},
                         {"manifest", json::parse(manifest)},
                         {"initrd_bytes", built.initrd_bytes},
                         {"unpacked_bytes", built.unpacked_bytes},
                         {"frames", built.frames},
                         {"packages", built.packages},
                         {"findings", FindingsJson(built.findings)},
                         {"remarks", built.remarks}};
    std::printf("%s\n", result.dump(2).c_str());
    return;
  }
  PrintFindings(built.findings, stderr);
  for (const std::string& remark : built.remarks) std::fprintf(stderr, "note: %s\n", remark.c_str());
  fmt::print("release {} as {} in {}\n", built.manifest.version, type, out.string());
  for (const ReleaseFile& file : built.manifest.files)
    fmt::print("  {:<30} {:>12} bytes  {}\n", file.path, file.size, file.digest.hex().substr(0, 16));
  fmt::print("  initrd: {} MiB unpacked, {} MiB in {} frames; systemd-stub {}\n", built.unpacked_bytes >> 20,
             built.initrd_bytes >> 20, built.frames, built.manifest.stub_version);
  for (const PhasePrediction& phase : built.manifest.pcr11)
    fmt::print("  PCR 11 {:<14} {}\n", phase.phase.empty() ? "(boot)" : phase.phase, phase.pcr11.hex());
}

// Exit code 1 when the build would be refused.
Status Preflight(Session& session, const build::ReleaseOptions& options) {
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<build::Finding> findings, build::CheckRelease(options));
  const auto stops = [](const build::Finding& finding) {
    return finding.severity == build::Severity::kError && !finding.allowed;
  };
  const bool good = std::none_of(findings.begin(), findings.end(), stops);
  if (session.json()) {
    std::printf("%s\n", json{{"passed", good}, {"findings", FindingsJson(findings)}}.dump(2).c_str());
  } else {
    PrintFindings(findings, stdout);
    fmt::print("{}\n", good ? "the image may be built" : "the image may not be built");
  }
  if (!good) session.exit_code = 1;
  return OkStatus();
}

// Signers and public files of a key set; the ring holds the sessions.
struct OpenKeys {
  std::unique_ptr<hsm::KeyRing> ring;
  std::shared_ptr<Signer> db;
  std::shared_ptr<Signer> pcr;
  build::ReleaseKeys keys;
};

Result<OpenKeys> OpenKeySet(const BuildArguments& arguments) {
  const std::filesystem::path folder = arguments.keys_folder;
  OpenKeys open;
  SEALIFT_ASSIGN_OR_RETURN(
      open.ring, hsm::KeyRing::Open(folder, arguments.tokens, arguments.journal, arguments.generations));
  const hsm::Inventory& inventory = open.ring->inventory();
  SEALIFT_RETURN_IF_ERROR(CheckCertificates(*open.ring, {"db"}, arguments.allow_expired));
  SEALIFT_ASSIGN_OR_RETURN(open.db, open.ring->SignerFor("db"));
  SEALIFT_ASSIGN_OR_RETURN(open.pcr, open.ring->SignerFor("pcr"));
  SEALIFT_ASSIGN_OR_RETURN(const Certificate certificate, open.ring->CertificateFor("db"));
  build::ReleaseKeys& keys = open.keys;
  keys.secure_boot = open.db.get();
  keys.pcr = open.pcr.get();
  keys.secure_boot_certificate = certificate.der();
  SEALIFT_ASSIGN_OR_RETURN(keys.pk_auth, ReadFile(folder / "PK.auth"));
  SEALIFT_ASSIGN_OR_RETURN(keys.kek_auth, ReadFile(folder / "KEK.auth"));
  SEALIFT_ASSIGN_OR_RETURN(keys.db_auth, ReadFile(folder / "db.auth"));
  if (std::filesystem::exists(folder / "dbx.auth")) {
    SEALIFT_ASSIGN_OR_RETURN(keys.dbx_auth, ReadFile(folder / "dbx.auth"));
  }
  if (!arguments.release.extensions.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(const std::vector<Certificate> trusted,
                             open.ring->CertificatesFor("extensions"));
    for (const Certificate& one : trusted) keys.extension_certificates.push_back(one.der());
  }
  for (const hsm::InventoryKey* key : inventory.Generations("pcr")) keys.pcr_keys.push_back(key->key_id);
  return open;
}

// A tree in the output folder itself.
Result<std::filesystem::path> BuildTree(const BuildArguments& arguments, const build::ReleaseKeys& keys,
                                        const build::Progress& progress, build::BuiltRelease& built) {
  build::ReleaseOptions options = arguments.release;
  options.out = arguments.out;
  SEALIFT_ASSIGN_OR_RETURN(built, build::BuildRelease(options, keys, progress));
  return options.out;
}

// One file in the output folder, whatever else lies there.
Result<std::filesystem::path> BuildMedium(const BuildArguments& arguments, const build::ReleaseKeys& keys,
                                          const build::Progress& progress, build::BuiltRelease& built) {
  const MediumOptions medium{.type = arguments.type,
                             .name = arguments.name,
                             .overlay = arguments.overlay_iso,
                             .keys_folder = arguments.keys_folder,
                             .built = arguments.release.built};
  SEALIFT_RETURN_IF_ERROR(CheckMediumOptions(medium));
  const std::filesystem::path folder = arguments.out;
  SEALIFT_ASSIGN_OR_RETURN(build::OutputFolder work, build::OutputFolder::Create(folder / arguments.type));
  build::ReleaseOptions options = arguments.release;
  options.out = work.path() / "tree";
  SEALIFT_ASSIGN_OR_RETURN(built, build::BuildRelease(options, keys, progress));
  if (progress) progress(arguments.type, 0, 0);
  SEALIFT_ASSIGN_OR_RETURN(const std::string name, MakeMedium(medium, work.path(), built.manifest));
  SEALIFT_RETURN_IF_ERROR(work.CommitFile(name));
  if (!medium.overlay.empty())
    built.remarks.push_back(
        "files of --overlay-iso are neither signed nor measured: trust none of them unchecked");
  return folder / name;
}

Status Build(Session& session, BuildArguments& arguments) {
  build::ReleaseOptions& options = arguments.release;
  options.source = arguments.source;
  options.sizes = {.warn_image_bytes = arguments.efi_size_warn << 20, .esp_bytes = arguments.esp_size << 20};
  SEALIFT_ASSIGN_OR_RETURN(options.built, BuildTime());
  if (!arguments.node_config_file.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(options.node_config, ReadTextFile(arguments.node_config_file, 1u << 20));
  }
  if (arguments.preflight_only) return Preflight(session, options);
  if (arguments.out.empty() || arguments.keys_folder.empty() || arguments.tokens.empty())
    return Usage("build release: --output-dir, --keys and --token are needed");
  const bool tree = arguments.type == "uki";
  if (tree && !(arguments.name.empty() && arguments.overlay_iso.empty()))
    return Usage("build release: --name and --overlay-iso are for -t iso and -t container");
  SEALIFT_ASSIGN_OR_RETURN(const OpenKeys open, OpenKeySet(arguments));
  const build::Progress progress = ShowBuildProgress(session);
  build::BuiltRelease built;
  const auto out = tree ? BuildTree(arguments, open.keys, progress, built)
                        : BuildMedium(arguments, open.keys, progress, built);
  if (progress) progress({}, 0, 0);
  if (!out.ok()) return out.status();
  Print(session, arguments.type, *out, built);
  return OkStatus();
}

}  // namespace

void AddBuildVerbs(CLI::App& app, Session& session) {
  const auto arguments = std::make_shared<BuildArguments>();
  CLI::App* verb = AddVerb(app, session, "build-uki", "Build a signed release from a root file system",
                           "sealift build-uki dir:rootfs -t uki -d out/1.0 --keys keys --token "
                           "release=pkcs11:token=release?pin-source=...",
                           [&session, arguments] { return Build(session, *arguments); });
  AddBuildOptions(*verb, *arguments);
}

}  // namespace sealift::cli
