#include "controller/cli/verbs.h"

#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

namespace sealift::cli {

void Session::Fail(const Status& status) {
  const Reason reason = ReasonOf(status);
  exit_code = reason == Reason::kInvalidArgument ? 2 : 1;
  if (json()) {
    const nlohmann::json error = {{"error",
                                   {{"reason", ReasonIdOf(status)},
                                    {"message", MessageOf(status)},
                                    {"advice", std::string(ReasonAdvice(reason))}}}};
    std::printf("%s\n", error.dump(2).c_str());
    return;
  }
  std::fprintf(stderr, "sealift: %s\n  %s: %s\n", MessageOf(status).c_str(), ReasonIdOf(status).c_str(),
               std::string(ReasonAdvice(reason)).c_str());
}

CLI::App* AddVerb(CLI::App& parent, Session& session, const std::string& name, const std::string& description,
                  const std::string& example, std::function<Status()> action) {
  CLI::App* verb = parent.add_subcommand(name, description);
  verb->footer("Example:\n  " + example +
               "\nExit codes: 0 done, 1 failed (reason id printed), 2 wrong usage.");
  verb->add_option("-o,--output", session.output, "text or json")->check(CLI::IsMember({"text", "json"}));
  verb->callback([&session, action = std::move(action)] {
    if (const Status status = action(); !status.ok()) session.Fail(status);
  });
  return verb;
}

CLI::Option* AddFolderOption(CLI::App& verb, Session& session, std::string& folder,
                             const std::string& description) {
  verb.remove_option(verb.get_option("--output"));
  verb.add_option("--output", session.output, "text or json")->check(CLI::IsMember({"text", "json"}));
  return verb.add_option("-o,--dir", folder, description);
}

void AddTokenOption(CLI::App& verb, std::vector<std::string>& tokens) {
  verb.add_option("--token", tokens, "[GROUP=]URI; groups are root, release, online, custody; repeatable")
      ->allow_extra_args(false);
}

void AddJournalOption(CLI::App& verb, std::string& journal) {
  verb.add_option("--journal", journal,
                  "signing journal to record in (default: 'journal' in the keys folder)");
}

void ShowProgress(const std::string& line) {
  if (isatty(STDERR_FILENO) == 1) std::fprintf(stderr, "  %s\n", line.c_str());
}

}  // namespace sealift::cli
