#include <cstdio>
#include <memory>

#include "controller/cli/key_material.h"
#include "controller/cli/verbs.h"
#include "hsm/ceremony.h"
#include "hsm/key_ring.h"
#include "shared/crypto/key_reference.h"

namespace sealift::cli {
namespace {

struct InitArguments {
  std::string set;
  std::vector<std::string> tokens;
  std::string folder;
  std::int64_t expiration_days = 365;
  EnrolmentArguments enrolment;
  std::vector<std::string> algorithms;
  bool wrappable = false;
  std::string journal;
  std::vector<std::string> names{"DNS:localhost", "IP:127.0.0.1"};
};

void PrintInit(const hsm::Inventory& inventory, const hsm::EnrolmentContent& enrolment,
               const std::string& folder, const Session& session) {
  if (session.json()) {
    std::printf("%s", EnrolmentJson(inventory, enrolment).c_str());
    return;
  }
  std::printf("key set '%s': %zu keys, public files in %s\n", inventory.set.c_str(), inventory.keys.size(),
              folder.c_str());
  if (!inventory.keys.empty() && inventory.keys.front().wrappable) {
    std::printf("warning: who holds a token's PIN can take its keys out; this set is marked for ever\n");
  }
  for (const hsm::InventoryKey& key : inventory.keys) {
    if (!key.born_in_token && !key.wrappable)
      std::printf("warning: '%s' is not certain to be born in its token\n", key.role.c_str());
  }
  PrintEnrolment(enrolment);
}

Status InitKeys(const InitArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const hsm::EnrolmentContent enrolment, LoadEnrolment(arguments.enrolment));
  SEALIFT_ASSIGN_OR_RETURN(auto algorithms, ParseAlgorithms(arguments.algorithms));
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  SEALIFT_ASSIGN_OR_RETURN(auto tokens, hsm::OpenTokens(arguments.tokens));
  const hsm::KeySetOptions options{
      .set = arguments.set,
      .folder = arguments.folder,
      .tokens = std::move(tokens),
      .algorithms = std::move(algorithms),
      .leaving = arguments.wrappable ? hsm::Leaving::kWrapped : hsm::Leaving::kNever,
      .expiration_days = arguments.expiration_days,
      .enrolment = enrolment,
      .controller_names = arguments.names,
      .now = SystemClock().Now(),
      .journal = arguments.journal};
  SEALIFT_ASSIGN_OR_RETURN(const hsm::Inventory inventory, hsm::InitialiseKeySet(options, ShowProgress));
  PrintInit(inventory, enrolment, arguments.folder, session);
  return OkStatus();
}

}  // namespace

void AddKeysVerbs(CLI::App& app, Session& session) {
  CLI::App* keys = app.add_subcommand("keys", "the key hierarchy in the tokens");
  keys->require_subcommand(1);

  const auto init = std::make_shared<InitArguments>();
  CLI::App* init_verb =
      AddVerb(*keys, session, "init",
              "make all keys of a set in their tokens; write only public material to a folder",
              "sealift keys init demo --token root=URI --token release=URI --token online=URI --token "
              "custody=URI \\\n"
              "    --microsoft-certs uefi2011,kek2011 -o keys",
              [init, &session] { return InitKeys(*init, session); });
  init_verb->add_option("NAME", init->set, "name of the set: a-z, 0-9 and '-'")->required();
  AddTokenOption(*init_verb, init->tokens);
  AddJournalOption(*init_verb, init->journal);
  AddFolderOption(*init_verb, session, init->folder, "folder to write; must not exist")->required();
  init_verb->add_option("--expiration-in-days", init->expiration_days, "life of certificates and TUF root")
      ->capture_default_str();
  AddEnrolmentOptions(*init_verb, init->enrolment);
  init_verb
      ->add_option("--controller-san", init->names, "DNS:name or IP:address of the controller; repeatable")
      ->allow_extra_args(false)
      ->capture_default_str();

  AddAlgorithmOption(*init_verb, init->algorithms);
  init_verb->add_flag(
      "--wrappable", init->wrappable,
      "keys that `keys backup` can take out of their tokens, encrypted; shown for ever. Without "
      "it, add-generation in a second token is what keeps you going");

  AddDelegationVerbs(*keys, session);
  AddGenerationVerbs(*keys, session);
  AddBackupVerbs(*keys, session);
  AddKeysListVerbs(*keys, session);
  AddKeyMaterialVerbs(*keys, session);
}

}  // namespace sealift::cli
