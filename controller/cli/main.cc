// `sealift`: the operator's command.
#include <cstdio>
#include <exception>

#include "controller/cli/fleet_verbs.h"
#include "controller/cli/inspect_verbs.h"
#include "controller/cli/release_verbs.h"
#include "controller/cli/tuf_verbs.h"
#include "controller/cli/verbs.h"
#include "shared/base/process.h"

int main(int argc, char** argv) {
  using namespace sealift;
  CLI::App app{"Fleet provisioning for machines whose trust is rooted in a TPM and UEFI Secure Boot",
               "sealift"};
  app.set_version_flag("--version", std::string("sealift ") + SEALIFT_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(44);
  cli::Session session;
  // PINs of root, release and custody tokens pass through this process.
  if (const Status forbidden = ForbidCoreDumps(); !forbidden.ok()) {
    session.Fail(forbidden);
    return session.exit_code;
  }
  cli::AddReleaseVerbs(app, session);
  cli::AddFleetVerbs(app, session);
  cli::AddAttestVerbs(app, session);
  cli::AddSecretVerbs(app, session);
  cli::AddContentVerbs(app, session);
  cli::AddBuildVerbs(app, session);
  cli::AddExtensionVerbs(app, session);
  cli::AddInstallVerbs(app, session);
  cli::AddTokenVerbs(app, session);
  cli::AddKeysVerbs(app, session);
  cli::AddTufVerbs(app, session);
  cli::AddJournalVerbs(app, session);
  cli::AddOperatorVerbs(app, session);
  cli::AddInspectVerbs(app, session);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    session.Fail(MakeError(Code::kInternal, Reason::kInternal, error.what()));
  }
  return session.exit_code;
}
