// `sealift-controller`: the daemon.
#include <pthread.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "controller/app/backup.h"
#include "controller/app/config.h"
#include "controller/app/online_keys.h"
#include "controller/app/server.h"
#include "controller/publish/content_keeper.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/process.h"
#include "shared/wire/tls.h"

namespace sealift::controller {
namespace {

// Before the first thread starts, so that every thread inherits the mask and the signal waits for sigwait.
sigset_t BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  SEALIFT_CHECK(pthread_sigmask(SIG_BLOCK, &signals, nullptr) == 0);
  signal(SIGPIPE, SIG_IGN);
  return signals;
}

int Fail(const Status& status) {
  log::Error("the controller does not start",
             {{"error", Describe(status)}, {"reason", std::string(ReasonAdvice(ReasonOf(status)))}});
  return ReasonOf(status) == Reason::kConfigInvalid ? 2 : 1;
}

int Serve(const ControllerConfig& config, const sigset_t& signals) {
  SystemClock clock;
  auto keys = OpenOnlineKeys(config, clock);
  if (!keys.ok()) return Fail(keys.status());
  auto server = ControllerServer::Start(config, std::move(keys).value(), clock, {});
  if (!server.ok()) return Fail(server.status());
  int signal_number = 0;
  sigwait(&signals, &signal_number);
  log::Info("the controller stops");
  (*server)->Stop();
  return 0;
}

int Run(const std::string& path, bool check_only) {
  const sigset_t signals = BlockStopSignals();
  // PINs pass through this process.
  if (const Status forbidden = ForbidCoreDumps(); !forbidden.ok()) return Fail(forbidden);
  wire::InitialiseGrpc();
  const auto config = LoadControllerConfig(path);
  if (!config.ok()) {
    if (!check_only) return Fail(config.status());
    std::fprintf(stderr, "%s\n", Describe(config.status()).c_str());
    return 2;
  }
  if (check_only) {
    std::printf("%s: good\n", path.c_str());
    return 0;
  }
  log::SetLevel(config->log_level);
  return Serve(*config, signals);
}

int Report(const char* what, const Result<BackupSummary>& summary) {
  if (!summary.ok()) {
    std::fprintf(stderr, "sealift-controller: %s\n  %s\n", Describe(summary.status()).c_str(),
                 std::string(ReasonAdvice(ReasonOf(summary.status()))).c_str());
    return 1;
  }
  std::printf("%s %llu files, %.1f MiB; metadata targets %u, snapshot %u, timestamp %u\n", what,
              static_cast<unsigned long long>(summary->files),
              static_cast<double>(summary->bytes) / (1u << 20), summary->targets_version,
              summary->snapshot_version, summary->timestamp_version);
  return 0;
}

int RunBackup(const std::string& config_path, const std::string& folder) {
  const auto config = LoadControllerConfig(config_path);
  if (!config.ok()) return Fail(config.status());
  const SystemClock clock;
  return Report("backed up", BackUp(*config, folder, clock));
}

int RunRestore(const std::string& config_path, const std::string& folder, std::uint32_t seen_version) {
  const auto config = LoadControllerConfig(config_path);
  if (!config.ok()) return Fail(config.status());
  const SystemClock clock;
  return Report("restored", Restore(*config, folder, {.seen_version = seen_version}, clock));
}

int RunCollect(const std::string& config_path, bool dry_run) {
  const auto config = LoadControllerConfig(config_path);
  if (!config.ok()) return Fail(config.status());
  const auto collected = [&]() -> Result<Collected> {
    SEALIFT_ASSIGN_OR_RETURN(const auto store, ContentStore::Open(config->state_dir / "content"));
    return ContentKeeper(config->state_dir / "content", config->state_dir / "tuf", *store,
                         config->content_grace)
        .Collect(dry_run);
  }();
  if (!collected.ok()) {
    std::fprintf(stderr, "sealift-controller: %s\n  %s\n", Describe(collected.status()).c_str(),
                 std::string(ReasonAdvice(ReasonOf(collected.status()))).c_str());
    return 1;
  }
  std::printf("%s %llu objects, %.1f MiB; %llu unused ones stay for now\n",
              dry_run ? "would remove" : "removed", static_cast<unsigned long long>(collected->objects),
              static_cast<double>(collected->bytes) / (1u << 20),
              static_cast<unsigned long long>(collected->kept));
  return 0;
}

}  // namespace
}  // namespace sealift::controller

int main(int argc, char** argv) {
  CLI::App app{"Signs metadata, enrols and attests nodes, and rolls releases out", "sealift-controller"};
  app.set_version_flag("--version", std::string("sealift-controller ") + SEALIFT_VERSION);
  std::string config;
  bool check_only = false;
  app.add_option("--config", config, "its TOML file; controller/app/config.h lists the settings")->required();
  app.add_flag("--check-config", check_only, "name every problem of the file and end");
  app.fallthrough();
  app.require_subcommand(0, 1);
  std::string folder;
  std::uint32_t seen_version = 0;
  CLI::App* const backup =
      app.add_subcommand("backup", "copy database, content, metadata and journal, while the controller runs");
  backup->add_option("OUT", folder, "a new folder")->required();
  CLI::App* const restore = app.add_subcommand("restore", "fill an empty state_dir from a backup");
  restore->add_option("BACKUP", folder, "what backup wrote")->required();
  restore
      ->add_option(
          "--seen-version", seen_version,
          "highest snapshot or timestamp version that a node may have seen, where it could be more than "
          "a million above the backup's")
      ->check(CLI::Range(0u, 1'000'000'000u));
  bool dry_run = false;
  CLI::App* const collect = app.add_subcommand(
      "collect", "remove content that no published release refers to, whether the controller runs or not");
  collect->add_flag("--dry-run", dry_run, "only say how much would go");
  app.footer(
      "Examples:\n  sealift-controller --config /etc/sealift/controller.toml\n"
      "  sealift-controller --config /etc/sealift/controller.toml backup /backups/2026-11-26\n"
      "  sealift-controller --config /etc/sealift/controller.toml restore /backups/2026-11-26\n"
      "  sealift-controller --config /etc/sealift/controller.toml collect --dry-run\n"
      "Exit codes: 0 stopped by SIGTERM, done, or the file is good, 1 it failed or could not start, 2 wrong "
      "usage or file.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (backup->parsed()) return sealift::controller::RunBackup(config, folder);
  if (restore->parsed()) return sealift::controller::RunRestore(config, folder, seen_version);
  if (collect->parsed()) return sealift::controller::RunCollect(config, dry_run);
  return sealift::controller::Run(config, check_only);
}
