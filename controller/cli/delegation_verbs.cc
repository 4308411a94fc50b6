// `sealift keys delegate-orders`.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "controller/cli/key_material.h"
#include "controller/cli/verbs.h"
#include "hsm/key_ring.h"
#include "hsm/orders_delegation.h"
#include "shared/base/clock.h"
#include "shared/base/files.h"
#include "shared/crypto/key_reference.h"
#include "shared/order/delegation.h"

namespace sealift::cli {
namespace {

struct DelegateArguments {
  std::string folder;
  std::vector<std::string> tokens;
  std::string journal;
  std::vector<std::string> choices;
  std::int64_t days = hsm::kDelegationDays;
};

Status Delegate(const DelegateArguments& arguments, const Session& session) {
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  SEALIFT_ASSIGN_OR_RETURN(const auto ring, hsm::KeyRing::Open(arguments.folder, arguments.tokens,
                                                               arguments.journal, arguments.choices));
  const UnixMillis now = SystemClock().Now();
  SEALIFT_ASSIGN_OR_RETURN(const std::string delegation, hsm::DelegateOrders(*ring, now, arguments.days));
  const std::filesystem::path file = std::filesystem::path(arguments.folder) / order::kDelegationFile;
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(file, AsBytes(delegation)));
  const std::string until = FormatRfc3339(now + std::chrono::hours(24) * arguments.days);
  if (session.json()) {
    std::printf("%s\n", nlohmann::json({{"file", file.string()}, {"expires", until}}).dump(2).c_str());
  } else {
    std::printf("%s: orders are delegated until %s\n", file.c_str(), until.c_str());
  }
  return OkStatus();
}

}  // namespace

void AddDelegationVerbs(CLI::App& keys, Session& session) {
  const auto arguments = std::make_shared<DelegateArguments>();
  CLI::App* verb =
      AddVerb(keys, session, "delegate-orders",
              "let the orders keys of the set give orders to nodes, and say whose approvals count (needs "
              "orders-root)",
              "sealift keys delegate-orders --keys keys --token root=URI\n"
              "Written to keys/orders-delegation.json, which the controller reads with each approval: give "
              "it the new\n"
              "file after keys add-generation for orders or operator-ca, and before the old one ends.",
              [arguments, &session] { return Delegate(*arguments, session); });
  verb->add_option("--keys", arguments->folder, "folder that keys init wrote")->required();
  AddTokenOption(*verb, arguments->tokens);
  AddJournalOption(*verb, arguments->journal);
  AddGenerationOption(*verb, arguments->choices, "the orders-root key that signs");
  verb->add_option("--days", arguments->days, "how long it lasts")->capture_default_str();
}

}  // namespace sealift::cli
