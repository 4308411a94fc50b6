// The verbs of `sealift`, one function a group. Each adds its subcommands and their callbacks.
//
// Exit codes of every verb: 0 done; 1 it failed or the answer is "no" (the reason id is on stderr, or in the
// JSON); 2 wrong usage or unreadable input. With -o json one JSON object goes to stdout, errors included:
// {"error":{"reason":"...","message":"...","advice":"..."}}.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "shared/base/status.h"

namespace sealift::cli {

// Shared by all verbs. Not thread-safe.
struct Session {
  // "text" or "json" (-o).
  std::string output = "text";
  int exit_code = 0;
  bool json() const { return output == "json"; }
  // Prints an error to stderr or, as JSON, to stdout, and sets the exit code.
  void Fail(const Status& status);
};

// Adds a leaf verb: sets -o, the example shown by --help, and runs `action` when the verb is chosen.
CLI::App* AddVerb(CLI::App& parent, Session& session, const std::string& name, const std::string& description,
                  const std::string& example, std::function<Status()> action);

// For a verb that writes a folder: -o names it, and the output format is --output alone.
CLI::Option* AddFolderOption(CLI::App& verb, Session& session, std::string& folder,
                             const std::string& description);
// --token, repeatable.
void AddTokenOption(CLI::App& verb, std::vector<std::string>& tokens);
// --journal, of every verb that signs.
void AddJournalOption(CLI::App& verb, std::string& journal);
// A line about work in progress, on stderr and only where a person watches.
void ShowProgress(const std::string& line);

// sealift build-uki
void AddBuildVerbs(CLI::App& app, Session& session);
// sealift build-extension
void AddExtensionVerbs(CLI::App& app, Session& session);
// sealift install-config sign|check
void AddInstallVerbs(CLI::App& app, Session& session);
// sealift token create
void AddTokenVerbs(CLI::App& app, Session& session);
// sealift keys init|list|attest
void AddKeysVerbs(CLI::App& app, Session& session);
// Of them, list and attest.
void AddKeysListVerbs(CLI::App& keys, Session& session);
// sealift journal verify|list|checkpoint
void AddJournalVerbs(CLI::App& app, Session& session);
// sealift operator issue
void AddOperatorVerbs(CLI::App& app, Session& session);

}  // namespace sealift::cli
