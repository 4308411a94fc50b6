#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "controller/cli/verbs.h"
#include "hsm/ceremony.h"
#include "hsm/key_ring.h"
#include "shared/crypto/key_reference.h"

namespace sealift::cli {
namespace {

constexpr char kSkipMicrosoft[] = "--skip-microsoft-certs-I-KNOW-WHAT-IM-DOING";

struct InitArguments {
  std::string set;
  std::vector<std::string> tokens;
  std::string folder;
  int expiration_days = 3650;
  bool skip_microsoft = false;
  std::string journal;
  std::vector<std::string> names{"DNS:localhost", "IP:127.0.0.1"};
};

void PrintInit(const hsm::Inventory& inventory, const std::string& folder, const Session& session) {
  if (session.json()) {
    std::printf("%s", inventory.Serialize().c_str());
    return;
  }
  std::printf("key set '%s': %zu keys, public files in %s\n", inventory.set.c_str(), inventory.keys.size(),
              folder.c_str());
  for (const hsm::InventoryKey& key : inventory.keys) {
    if (!key.born_in_token)
      std::printf("warning: '%s' is not certain to be born in its token\n", key.role.c_str());
  }
}

Status InitKeys(const InitArguments& arguments, const Session& session) {
  if (!arguments.skip_microsoft) {
    return MakeError(
        Code::kInvalidArgument, Reason::kInvalidArgument,
        fmt::format("make key set '{}': this version cannot add Microsoft's certificates to KEK and "
                    "db; a machine whose option ROMs (graphics, network) are signed by Microsoft may "
                    "not start with our keys alone. Give {} for machines where that is known not to "
                    "matter, such as virtual ones",
                    arguments.set, kSkipMicrosoft));
  }
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  SEALIFT_ASSIGN_OR_RETURN(auto tokens, hsm::OpenTokens(arguments.tokens));
  const hsm::KeySetOptions options{.set = arguments.set,
                                   .folder = arguments.folder,
                                   .tokens = std::move(tokens),
                                   .expiration_days = arguments.expiration_days,
                                   .controller_names = arguments.names,
                                   .now = SystemClock().Now(),
                                   .journal = arguments.journal};
  SEALIFT_ASSIGN_OR_RETURN(const hsm::Inventory inventory, hsm::InitialiseKeySet(options, ShowProgress));
  PrintInit(inventory, arguments.folder, session);
  return OkStatus();
}

}  // namespace

void AddKeysVerbs(CLI::App& app, Session& session) {
  CLI::App* keys = app.add_subcommand("keys", "the key hierarchy in the tokens");
  keys->require_subcommand(1);

  const auto init = std::make_shared<InitArguments>();
  CLI::App* init_verb = AddVerb(
      *keys, session, "init",
      "make all keys of a set in their tokens; write only public material to a folder",
      fmt::format("sealift keys init demo --token root=URI --token release=URI --token online=URI --token "
                  "custody=URI \\\n    {} -o keys",
                  kSkipMicrosoft),
      [init, &session] { return InitKeys(*init, session); });
  init_verb->add_option("NAME", init->set, "name of the set: a-z, 0-9 and '-'")->required();
  AddTokenOption(*init_verb, init->tokens);
  AddJournalOption(*init_verb, init->journal);
  AddFolderOption(*init_verb, session, init->folder, "folder to write; must not exist")->required();
  init_verb->add_option("--expiration-in-days", init->expiration_days, "life of certificates and TUF root")
      ->capture_default_str();
  init_verb->add_flag(
      kSkipMicrosoft, init->skip_microsoft,
      "enrol our certificates alone; may keep machines with signed option ROMs from starting");
  init_verb
      ->add_option("--controller-san", init->names, "DNS:name or IP:address of the controller; repeatable")
      ->allow_extra_args(false)
      ->capture_default_str();

  AddKeysListVerbs(*keys, session);
}

}  // namespace sealift::cli
