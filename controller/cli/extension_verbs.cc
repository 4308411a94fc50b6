// `sealift build-extension`: a folder in, a signed system extension out.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "controller/cli/build_time.h"
#include "controller/cli/key_material.h"
#include "controller/cli/verbs.h"
#include "controller/extension/extension_builder.h"
#include "hsm/key_ring.h"
#include "shared/base/files.h"

namespace sealift::cli {
namespace {

struct Arguments {
  extension::ExtensionOptions extension;
  std::string out;
  std::string kind = "sysext";
  std::string keys_folder;
  std::vector<std::string> tokens;
  std::string journal;
  std::vector<std::string> generations;
  bool allow_expired = false;
};

void Print(const Session& session, const std::filesystem::path& out, const ListedExtension& built) {
  if (session.json()) {
    const auto list = nlohmann::json::parse(FormatExtensionList({built})).at("extensions").at(0);
    std::printf("%s\n", nlohmann::json{{"out", out.string()}, {"extension", list}}.dump(2).c_str());
    return;
  }
  fmt::print(
      "extension {} {} in {}\n  for        ID={}{}\n  size       {} bytes\n  sha256     {}\n  root hash  "
      "{}\n",
      built.name, built.version, out.string(), built.os_id,
      built.os_version_id.empty() ? "" : " VERSION_ID=" + built.os_version_id, built.size, built.digest.hex(),
      built.root_hash.hex());
}

Status Build(const Session& session, Arguments arguments) {
  extension::ExtensionOptions& options = arguments.extension;
  options.kind = arguments.kind == "confext" ? ExtensionKind::kConfiguration : ExtensionKind::kSystem;
  SEALIFT_ASSIGN_OR_RETURN(options.built, BuildTime());
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(arguments.out));
  options.out = std::filesystem::path(arguments.out) /
                ListedExtension{.name = options.name, .kind = options.kind}.FileName();
  SEALIFT_ASSIGN_OR_RETURN(const auto ring, hsm::KeyRing::Open(arguments.keys_folder, arguments.tokens,
                                                               arguments.journal, arguments.generations));
  SEALIFT_RETURN_IF_ERROR(CheckCertificates(*ring, {"extensions"}, arguments.allow_expired));
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> signer, ring->SignerFor("extensions"));
  SEALIFT_ASSIGN_OR_RETURN(const Certificate certificate, ring->CertificateFor("extensions"));
  SEALIFT_ASSIGN_OR_RETURN(const ListedExtension built,
                           extension::BuildExtension(options, *signer, certificate.der()));
  Print(session, options.out, built);
  return OkStatus();
}

}  // namespace

void AddExtensionVerbs(CLI::App& app, Session& session) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = AddVerb(app, session, "build-extension",
                           "Build a signed system or configuration extension from a folder",
                           "sealift build-extension tools/ -n tools --version 1.0 --os-id debian "
                           "--os-version-id 12 -d out --keys keys --token release=pkcs11:token=release?...",
                           [&session, arguments] { return Build(session, *arguments); });
  extension::ExtensionOptions& options = arguments->extension;
  verb->add_option("source", options.source,
                   "Folder with usr/ and opt/, or of a confext with etc/; owned by root in the extension")
      ->required();
  verb->add_option(
          "--kind", arguments->kind,
          "sysext: laid over /usr and /opt; confext: over /etc, for images with a stub of 256 on, for "
          "example --kind confext")
      ->check(CLI::IsMember({"sysext", "confext"}))
      ->capture_default_str();
  verb->add_option("-n,--name", options.name, "Its file is NAME.raw, of a confext NAME.confext.raw")
      ->required();
  verb->add_option("--version", options.version, "Of the extension, UAPI version format")->required();
  verb->add_option("-d,--output-dir", arguments->out, "Folder for NAME.raw, which must not be there yet")
      ->required();
  verb->add_option("--os-id", options.os_id,
                   "ID of os-release that it is for, or _any; else its own file says");
  verb->add_option("--os-version-id", options.os_version_id, "VERSION_ID of os-release that it is for");
  verb->add_option("-k,--keys", arguments->keys_folder, "Folder written by `sealift keys init`")->required();
  verb->add_option("--token", arguments->tokens, "[GROUP=]URI of the token with the extensions key")
      ->required()
      ->allow_extra_args(false);
  AddJournalOption(*verb, arguments->journal);
  AddExpiredOption(*verb, arguments->allow_expired);
  AddGenerationOption(*verb, arguments->generations);
}

}  // namespace sealift::cli
