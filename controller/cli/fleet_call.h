// A leaf verb that talks to the controller.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "controller/cli/fleet_client.h"
#include "controller/cli/verbs.h"

namespace sealift::cli {

// `Arguments` is what the verbs of one group share, with a `std::string profile`: each verb reads what it
// declared.
template <typename Arguments>
using FleetAction = std::function<Status(FleetClient&, const Arguments&, const Session&)>;

// Adds the verb with its --profile; it connects, then acts. Borrows `session`, which outlives the app.
template <typename Arguments>
CLI::App* AddCall(CLI::App& parent, Session& session, const std::string& name, const std::string& description,
                  const std::string& example, const std::shared_ptr<Arguments>& arguments,
                  std::type_identity_t<FleetAction<Arguments>> action) {
  CLI::App* verb =
      AddVerb(parent, session, name, description, example,
              [arguments, &session, action = std::move(action)]() -> Status {
                SEALIFT_ASSIGN_OR_RETURN(FleetClient client, FleetClient::Connect(arguments->profile));
                return action(client, *arguments, session);
              });
  verb->add_option("--profile", arguments->profile,
                   "connection settings (default ~/.config/sealift/profile.toml)");
  return verb;
}

}  // namespace sealift::cli
