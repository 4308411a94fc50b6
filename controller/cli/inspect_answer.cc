#include "controller/cli/inspect_answer.h"

#include <fmt/format.h>

#include <cstdio>

namespace sealift::cli {
namespace {

// Errors of reading and of usage say nothing about the input; those of parsing and verifying do.
void Show(const Result<Answer>& answer, Session& session) {
  if (!answer.ok()) {
    session.Fail(answer.status());
    const Reason reason = ReasonOf(answer.status());
    const bool verdict = reason != Reason::kInvalidArgument && reason != Reason::kFileUnreadable &&
                         reason != Reason::kFileUnwritable && reason != Reason::kDiskFull &&
                         reason != Reason::kFileTooLarge && reason != Reason::kTimeout;
    session.exit_code = verdict ? 1 : 2;
    return;
  }
  std::printf("%s\n", session.json() ? answer->object.dump(2).c_str() : answer->text.c_str());
  if (!answer->good) session.exit_code = 1;
}

}  // namespace

Status InspectUsage(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, fmt::format("inspect: {}", what));
}

// AddVerb's own line on exit codes is not these commands': theirs is a contract.
CLI::App* AddInspection(CLI::App& group, Session& session, const std::string& name,
                        const std::string& description, const std::string& example,
                        std::function<Result<Answer>()> action) {
  CLI::App* verb =
      AddVerb(group, session, name, description, example, [&session, action = std::move(action)] {
        Show(action(), session);
        return OkStatus();
      });
  verb->footer("Example:\n  " + example +
               "\nExit codes: 0 well formed (and verified), 1 malformed or not verified, 2 wrong usage or "
               "unreadable file.");
  return verb;
}

}  // namespace sealift::cli
