#include "controller/cli/build_progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

namespace sealift::cli {
namespace {

constexpr std::size_t kBarWidth = 30;

void Put(const std::string& text) {
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
}

std::string Bar(std::string_view stage, std::uint64_t done, std::uint64_t total) {
  const std::size_t filled = static_cast<std::size_t>(done * kBarWidth / total);
  return fmt::format("\r\033[K{:<8} [{:#<{}}{:.<{}}] {:3} % of {} MiB", stage, "", filled, "",
                     kBarWidth - filled, done * 100 / total, total >> 20);
}

}  // namespace

build::Progress ShowBuildProgress(const Session& session) {
  if (::isatty(STDERR_FILENO) == 1) {
    return [](std::string_view stage, std::uint64_t done, std::uint64_t total) {
      if (stage.empty()) {
        Put("\r\033[K");
      } else {
        Put(total == 0 ? fmt::format("\r\033[K{} ...", stage) : Bar(stage, done, total));
      }
    };
  }
  if (session.json()) return {};
  // Stages only: a log wants no percentages.
  return [last = std::make_shared<std::string>(), begin = std::chrono::steady_clock::now()](
             std::string_view stage, std::uint64_t, std::uint64_t) {
    if (stage == *last) return;
    *last = stage;
    if (stage.empty()) return;
    const auto passed = std::chrono::steady_clock::now() - begin;
    const double seconds = std::chrono::duration<double>(passed).count();
    Put(fmt::format("build-uki: {:6.1f} s  {}\n", seconds, stage));
  };
}

}  // namespace sealift::cli
