#include "controller/media/tools.h"

#include <fmt/format.h>

#include <chrono>

namespace sealift::media {

Status RunMediaTool(std::vector<std::string> argv, const Stamp& stamp) {
  const std::string name = argv.front();
  const Result<CommandOutput> output =
      RunCommand({.argv = std::move(argv),
                  .environment = {{"SOURCE_DATE_EPOCH", fmt::format("{}", ToUnixMs(stamp.time) / 1000)},
                                  {"TZ", "UTC"},
                                  {"LC_ALL", "C.UTF-8"},
                                  // mtools: no drive letters and no checks of this machine's own.
                                  {"MTOOLSRC", "/dev/null"},
                                  {"MTOOLS_SKIP_CHECK", "1"}},
                  .timeout = std::chrono::minutes(30)});
  if (!output.ok()) return output.status();
  if (output->exit_code == 0) return OkStatus();
  const bool full = output->err.find("No space left") != std::string::npos ||
                    output->err.find("Disk full") != std::string::npos;
  const std::size_t end = output->err.find_last_not_of(" \n");
  const std::string said = output->err.substr(0, end == std::string::npos ? 0 : end + 1);
  const std::size_t line = said.rfind('\n');
  return MakeError(Code::kFailedPrecondition, full ? Reason::kDiskFull : Reason::kToolFailed,
                   fmt::format("run {}: exit code {}: {}", name, output->exit_code,
                               line == std::string::npos ? said : said.substr(line + 1)));
}

}  // namespace sealift::media
