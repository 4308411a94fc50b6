#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "controller/cli/verbs.h"
#include "hsm/softhsm.h"

namespace sealift::cli {
namespace {

struct CreateArguments {
  std::string store;
  std::string label;
  std::string pin_file;
};

Status CreateToken(const CreateArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(
      const hsm::TokenUri uri,
      hsm::CreateSoftHsmToken(
          {.store = arguments.store, .label = arguments.label, .pin_file = arguments.pin_file}));
  const std::string text = uri.Text();
  if (session.json()) {
    std::printf("%s\n", nlohmann::json({{"uri", text}, {"label", uri.token}}).dump(2).c_str());
  } else {
    std::printf("%s\n", text.c_str());
  }
  return OkStatus();
}

}  // namespace

void AddTokenVerbs(CLI::App& app, Session& session) {
  CLI::App* token = app.add_subcommand("token", "make PKCS#11 tokens");
  token->require_subcommand(1);
  const auto arguments = std::make_shared<CreateArguments>();
  CLI::App* create = AddVerb(
      *token, session, "create", "make a SoftHSM2 token and print its URI, which works from any folder",
      "sealift token create --store /srv/tokens --label demo-online --pin-file /srv/online.pin",
      [arguments, &session] { return CreateToken(*arguments, session); });
  create
      ->add_option("--store", arguments->store, "folder of the SoftHSM store; tokens used together share one")
      ->required();
  create->add_option("--label", arguments->label, "the token's label")->required();
  create
      ->add_option("--pin-file", arguments->pin_file,
                   "file of mode 0600 whose one line becomes the PIN; it stays the PIN's place")
      ->required();
}

}  // namespace sealift::cli
