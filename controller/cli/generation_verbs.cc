// `sealift keys add-generation`, and the options that choose generations and algorithms.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "controller/cli/key_material.h"
#include "controller/cli/verbs.h"
#include "hsm/expiry.h"
#include "hsm/generation.h"
#include "hsm/key_ring.h"
#include "shared/base/clock.h"
#include "shared/crypto/key_reference.h"

namespace sealift::cli {
namespace {

struct AddArguments {
  std::vector<std::string> roles;
  std::string folder;
  std::vector<std::string> tokens;
  std::vector<std::string> new_tokens;
  std::string journal;
  std::vector<std::string> choices;
  std::vector<std::string> algorithms;
  std::uint32_t number = 0;
  std::int64_t expiration_days = 365;
  bool allow_expired = false;
};

// A token may hold the old keys and get the new ones. One without a group serves all groups, those of the new
// tokens too.
Result<std::unique_ptr<hsm::KeyRing>> OpenRing(const AddArguments& arguments) {
  std::vector<std::string> all;
  for (const std::string& text : arguments.tokens) {
    SEALIFT_ASSIGN_OR_RETURN(const hsm::TokenArgument argument, hsm::TokenArgument::Parse(text));
    if (!argument.group.empty()) all.push_back(text);
    for (const hsm::Group group : hsm::AllGroups()) {
      if (argument.group.empty()) all.push_back(fmt::format("{}={}", hsm::GroupName(group), text));
    }
  }
  for (const std::string& text : arguments.new_tokens) {
    if (std::ranges::find(all, text) == all.end()) all.push_back(text);
  }
  return hsm::KeyRing::Open(arguments.folder, all, arguments.journal, arguments.choices);
}

Status Add(const AddArguments& arguments, const Session& session) {
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  hsm::GenerationOptions options{.roles = arguments.roles,
                                 .generation = arguments.number,
                                 .expiration_days = arguments.expiration_days,
                                 .now = SystemClock().Now(),
                                 .allow_expired = arguments.allow_expired};
  SEALIFT_ASSIGN_OR_RETURN(options.algorithms, ParseAlgorithms(arguments.algorithms));
  SEALIFT_ASSIGN_OR_RETURN(options.tokens, hsm::OpenTokens(arguments.new_tokens));
  SEALIFT_ASSIGN_OR_RETURN(const auto ring, OpenRing(arguments));
  SEALIFT_ASSIGN_OR_RETURN(const hsm::AddedGeneration added,
                           hsm::AddGeneration(*ring, options, ShowProgress));
  if (session.json()) {
    std::printf("%s\n", nlohmann::json({{"set", added.inventory.set},
                                        {"keys", added.keys},
                                        {"files", added.files},
                                        {"folder", arguments.folder}})
                            .dump(2)
                            .c_str());
    return OkStatus();
  }
  std::printf("%s",
              fmt::format("key set '{}' has {} more: {}\n", added.inventory.set,
                          added.keys.size() == 1 ? "one key" : fmt::format("{} keys", added.keys.size()),
                          fmt::join(added.keys, ", "))
                  .c_str());
  for (const std::string& file : added.files) std::printf("  %s\n", file.c_str());
  return OkStatus();
}

}  // namespace

Status CheckCertificates(hsm::KeyRing& ring, const std::vector<std::string_view>& roles, bool allow_expired) {
  const UnixMillis now = SystemClock().Now();
  for (const std::string_view role : roles) {
    SEALIFT_ASSIGN_OR_RETURN(const hsm::InventoryKey* key, ring.KeyFor(role));
    if (!allow_expired) SEALIFT_RETURN_IF_ERROR(hsm::CheckNotExpired(*key, now));
    if (const auto one = hsm::ExpiringCertificateOf(*key, now); one.has_value()) {
      std::fprintf(stderr, "warning: %s\n", one->text.c_str());
    }
  }
  return OkStatus();
}

void AddGenerationOption(CLI::App& verb, std::vector<std::string>& generations, const std::string& meaning) {
  verb.add_option("--generation", generations, fmt::format("ROLE=N: {}; repeatable", meaning))
      ->allow_extra_args(false);
}

Result<std::map<std::string, hsm::KeyAlgorithm, std::less<>>> ParseAlgorithms(
    const std::vector<std::string>& texts) {
  std::map<std::string, hsm::KeyAlgorithm, std::less<>> algorithms;
  for (const std::string& text : texts) {
    const auto split = text.find('=');
    const hsm::Role* role = hsm::FindRole(text.substr(0, split));
    if (split == std::string::npos || role == nullptr) {
      return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                       fmt::format("choose algorithm '{}': it is not ROLE=ALGORITHM", text));
    }
    SEALIFT_ASSIGN_OR_RETURN(const hsm::KeyAlgorithm algorithm, hsm::ParseAlgorithm(text.substr(split + 1)));
    SEALIFT_RETURN_IF_ERROR(hsm::CheckAlgorithm(*role, algorithm));
    if (!algorithms.emplace(role->name, algorithm).second) {
      return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                       fmt::format("choose algorithm '{}': the role has one already", text));
    }
    const std::string remark = hsm::AlgorithmRemark(*role, algorithm);
    if (!remark.empty()) std::fprintf(stderr, "warning: %s\n", remark.c_str());
  }
  return algorithms;
}

void AddAlgorithmOption(CLI::App& verb, std::vector<std::string>& algorithms) {
  verb.add_option("--algorithm", algorithms,
                  "ROLE=ALGORITHM instead of the role's own, of rsa2048, rsa3072, rsa4096, p256, p384; "
                  "repeatable")
      ->allow_extra_args(false);
}

void AddGenerationVerbs(CLI::App& keys, Session& session) {
  const auto add = std::make_shared<AddArguments>();
  CLI::App* verb = AddVerb(
      keys, session, "add-generation",
      "make the next generation of keys, in another token if you like, beside the present ones",
      "sealift keys add-generation db pcr tuf-targets --keys keys --new-token release=URI2 --token root=URI\n"
      "The present keys stay and go on signing wherever their token is given, until --generation (of the\n"
      "controller: generations) chooses the new ones. What lets machines and programs accept both is written "
      "too: "
      "full and\n"
      "appending updates of KEK and db in keys/ and keys/updates, the next TUF root in keys/tuf. Restart "
      "the\n"
      "controller with the new folder; docs/keys.md has the order for machines. A failed run can be "
      "repeated.",
      [add, &session] { return Add(*add, session); });
  verb->add_option("ROLE", add->roles, "roles that get a key (default: all of the groups of --new-token)");
  verb->add_option("--keys", add->folder, "folder that keys init wrote")->required();
  verb->add_option("--new-token", add->new_tokens, "[GROUP=]URI of the token for the new keys; repeatable")
      ->required()
      ->allow_extra_args(false);
  verb->add_option(
          "--token", add->tokens,
          "[GROUP=]URI of tokens with present keys that sign the new ones in: root for kek, db, pk and "
          "tuf-*; online for controller-tls; repeatable")
      ->allow_extra_args(false);
  AddJournalOption(*verb, add->journal);
  AddGenerationOption(*verb, add->choices);
  AddAlgorithmOption(*verb, add->algorithms);
  verb->add_option("--number", add->number, "the generation that must come out, for scripts")
      ->check(CLI::Range(1, 1'000'000));
  verb->add_option("--expiration-in-days", add->expiration_days, "life of new certificates and TUF root")
      ->capture_default_str();
  AddExpiredOption(*verb, add->allow_expired);
}

}  // namespace sealift::cli
