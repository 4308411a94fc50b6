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
                                   .now = SystemClock().Now()};
  SEALIFT_ASSIGN_OR_RETURN(const hsm::Inventory inventory, hsm::InitialiseKeySet(options, ShowProgress));
  PrintInit(inventory, arguments.folder, session);
  return OkStatus();
}

struct ListArguments {
  std::string folder;
  std::vector<std::string> tokens;
};

// One key as shown: the inventory's word, or the token's own where it was given.
struct ListedKey {
  const hsm::InventoryKey* key;
  std::string present = "not asked";
  bool born_in_token;
};

Result<ListedKey> Inspect(const hsm::InventoryKey& key,
                          const std::map<hsm::Group, std::shared_ptr<hsm::Token>>& tokens) {
  ListedKey listed{.key = &key, .born_in_token = key.born_in_token};
  const auto token = tokens.find(key.group);
  if (token == tokens.end()) return listed;
  SEALIFT_ASSIGN_OR_RETURN(const bool present, token->second->keys().HoldsPrivateKey(key.key_id));
  listed.present = present ? "yes" : "no";
  if (!present) return listed;
  SEALIFT_ASSIGN_OR_RETURN(const hsm::KeyCustody custody, token->second->keys().ReadCustody(key.key_id));
  listed.born_in_token = custody.born_in_token();
  return listed;
}

std::string Expiry(const hsm::InventoryKey& key) {
  return key.has_certificate ? FormatRfc3339(key.not_after) : "-";
}

void PrintList(const hsm::Inventory& inventory, const std::vector<ListedKey>& keys, const Session& session) {
  if (!session.json()) {
    fmt::print("{:<15}{:<9}{:<5}{:<10}{:<8}{:<11}{:<22}{}\n", "ROLE", "GROUP", "GEN", "ALGORITHM", "BORN IN",
               "IN TOKEN", "CERTIFICATE UNTIL", "KEY ID");
    for (const ListedKey& one : keys) {
      fmt::print("{:<15}{:<9}{:<5}{:<10}{:<8}{:<11}{:<22}{}\n", one.key->role, hsm::GroupName(one.key->group),
                 one.key->generation, hsm::AlgorithmName(one.key->algorithm),
                 one.born_in_token ? "token" : "?", one.present, Expiry(*one.key),
                 one.key->key_id.hex().substr(0, 16));
    }
    return;
  }
  nlohmann::json list = nlohmann::json::array();
  for (const ListedKey& one : keys) {
    list.push_back({{"role", one.key->role},
                    {"group", std::string(hsm::GroupName(one.key->group))},
                    {"generation", one.key->generation},
                    {"algorithm", std::string(hsm::AlgorithmName(one.key->algorithm))},
                    {"born_in_token", one.born_in_token},
                    {"in_token", one.present},
                    {"key_id", one.key->key_id.hex()}});
    if (one.key->has_certificate) list.back()["certificate_not_after"] = FormatRfc3339(one.key->not_after);
  }
  std::printf("%s\n", nlohmann::json({{"set", inventory.set}, {"keys", list}}).dump(2).c_str());
}

Status ListKeys(const ListArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const hsm::Inventory inventory, hsm::Inventory::Load(arguments.folder));
  SEALIFT_ASSIGN_OR_RETURN(const auto tokens, hsm::OpenTokens(arguments.tokens));
  std::vector<ListedKey> keys;
  for (const hsm::InventoryKey& key : inventory.keys) {
    SEALIFT_ASSIGN_OR_RETURN(ListedKey listed, Inspect(key, tokens));
    keys.push_back(std::move(listed));
  }
  PrintList(inventory, keys, session);
  return OkStatus();
}

void AddTokenOption(CLI::App& verb, std::vector<std::string>& tokens) {
  verb.add_option("--token", tokens, "[GROUP=]URI; groups are root, release, online, custody; repeatable")
      ->allow_extra_args(false);
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

  const auto list = std::make_shared<ListArguments>();
  CLI::App* list_verb =
      AddVerb(*keys, session, "list", "show the keys of a set and, with --token, whether they are there",
              "sealift keys list --keys keys --token online=URI",
              [list, &session] { return ListKeys(*list, session); });
  list_verb->add_option("--keys", list->folder, "folder that keys init wrote")->required();
  AddTokenOption(*list_verb, list->tokens);
}

}  // namespace sealift::cli
