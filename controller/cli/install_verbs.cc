// `sealift install-config sign|check`.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "controller/cli/key_material.h"
#include "controller/cli/verbs.h"
#include "hsm/key_ring.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/install/config_signature.h"
#include "shared/install/install_config.h"
#include "shared/install/yaml_tree.h"

namespace sealift::cli {
namespace {

using nlohmann::json;

// Who may say what runs on a node says also what runs while it is installed.
constexpr std::string_view kRole = "tuf-targets";

struct SignArguments {
  std::string file;
  std::string folder;
  std::vector<std::string> tokens;
  std::string journal;
  std::vector<std::string> choices;
};

Status Sign(const SignArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(arguments.file, kMaxYamlBytes));
  SEALIFT_RETURN_IF_ERROR(ParseInstallConfig(text).status());
  SEALIFT_ASSIGN_OR_RETURN(const auto ring, hsm::KeyRing::Open(arguments.folder, arguments.tokens,
                                                               arguments.journal, arguments.choices));
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> signer, ring->SignerFor(kRole));
  SEALIFT_ASSIGN_OR_RETURN(const std::string signature, SignInstallConfiguration(text, *signer));
  const std::filesystem::path out = arguments.file + ".sig";
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(out, AsBytes(signature)));
  const PublicKey& key = signer->public_key();
  if (session.json()) {
    std::printf("%s\n", json{{"file", arguments.file},
                             {"signature", out.string()},
                             {"digest", Sha256(AsBytes(text)).hex()},
                             {"key_id", key.key_id().hex()},
                             {"public_pem", key.Pem()}}
                            .dump(2)
                            .c_str());
  } else {
    fmt::print("{}: signed by {}\nimages that shall take it name this key in node.toml ([install] keys):\n{}",
               out.string(), key.key_id().hex(), key.Pem());
  }
  return OkStatus();
}

Status Check(const std::string& file, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file, kMaxYamlBytes));
  SEALIFT_ASSIGN_OR_RETURN(const InstallConfig config, ParseInstallConfig(text));
  if (session.json()) {
    std::printf("%s\n", json{{"file", file},
                             {"device", config.device},
                             {"auto", config.automatic},
                             {"hooks", config.before.size() + config.after.size()},
                             {"left_to_os", config.left_to_os}}
                            .dump(2)
                            .c_str());
    return OkStatus();
  }
  fmt::print("{}: ok\n", file);
  for (const std::string& key : config.left_to_os) fmt::print("note: {} is left to the OS\n", key);
  return OkStatus();
}

}  // namespace

void AddInstallVerbs(CLI::App& app, Session& session) {
  CLI::App* group =
      app.add_subcommand("install-config", "Configurations of installations, as a medium carries them");
  group->require_subcommand(1);
  const auto arguments = std::make_shared<SignArguments>();
  CLI::App* sign = AddVerb(
      *group, session, "sign", "check FILE and write FILE.sig, for a medium beside it (needs tuf-targets)",
      "sealift install-config sign overlay/install.yaml --keys keys --token release=URI\n"
      "sealift build-uki dir:rootfs -t iso --overlay-iso overlay ...",
      [arguments, &session] { return Sign(*arguments, session); });
  sign->add_option("file", arguments->file, "the configuration; on a medium its name is install.yaml")
      ->required();
  sign->add_option("--keys", arguments->folder, "folder that keys init wrote")->required();
  AddTokenOption(*sign, arguments->tokens);
  AddJournalOption(*sign, arguments->journal);
  AddGenerationOption(*sign, arguments->choices);
  const auto file = std::make_shared<std::string>();
  CLI::App* check = AddVerb(*group, session, "check", "say everything that is wrong with a configuration",
                            "sealift install-config check install.yaml",
                            [file, &session] { return Check(*file, session); });
  check->add_option("file", *file, "the configuration")->required();
}

}  // namespace sealift::cli
