// sealift-agent: see --help.
#include <CLI/CLI.hpp>
#include <iostream>

#include "node-agent/app/boot_entry_command.h"
#include "node-agent/app/daemon.h"
#include "node-agent/app/install_command.h"
#include "node-agent/app/join_command.h"
#include "node-agent/app/secret_command.h"
#include "node-agent/app/settings.h"
#include "node-agent/app/status_file.h"
#include "node-agent/app/system.h"
#include "node-agent/app/volume_commands.h"
#include "node-agent/extension/activation.h"
#include "shared/base/files.h"
#include "shared/base/log.h"

namespace sealift::agent {
namespace {

// Documented in --help; scripts rely on them.
constexpr int kExitOk = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kExitNotRunning = 3;

constexpr const char* kFooter =
    "Examples:\n"
    "  sealift-agent run\n"
    "  sealift-agent run --check-config --config ./node.toml\n"
    "  sealift-agent status -o json\n"
    "  sealift-agent activate-extensions\n"
    "  sealift-agent unlock-all --recovery-key\n"
    "  sealift-agent volumes -o json\n"
    "  sealift-agent preflight\n"
    "  sealift-agent install --dry-run\n"
    "  sealift-agent bootentry --select recovery\n"
    "  sealift-agent join < /run/token\n"
    "  sealift-agent secret fetch site-key --out /run/site-key\n"
    "  sealift-agent secret open disk-key --out - | cryptsetup open --key-file - /dev/sdb data\n"
    "\n"
    "Exit codes: 0 success; 1 failure, with the reason on stderr; 2 wrong usage; 3 no agent runs (status).\n"
    "The daemon stops in order on SIGTERM and SIGINT, and may be killed at any moment without harm.\n"
    "docs/node-config.md lists every key of node.toml.";

int Fail(const Status& status) {
  std::cerr << "sealift-agent: " << Describe(status) << "\n" << ReasonAdvice(ReasonOf(status)) << "\n";
  return kExitFailed;
}

int ShowStatus(const std::filesystem::path& runtime, const std::string& format) {
  if (!AgentRuns(runtime)) {
    std::cerr << "sealift-agent: no agent runs here\n";
    return kExitNotRunning;
  }
  const Result<std::string> json = ReadTextFile(runtime / kStatusFileName, 4u << 20);
  if (!json.ok()) return Fail(json.status());
  if (format == "json") {
    std::cout << *json;
    return kExitOk;
  }
  const Result<std::string> text = StatusText(*json);
  if (!text.ok()) return Fail(text.status());
  std::cout << *text;
  return kExitOk;
}

int ShowBootEntries(const std::filesystem::path& config, const std::string& select,
                    const std::string& format) {
  const Result<Settings> settings = LoadSettings(config);
  if (!settings.ok()) return Fail(settings.status());
  const Result<std::string> text = RunBootEntry(*settings, select, format == "json");
  if (!text.ok()) return Fail(text.status());
  std::cout << *text;
  return kExitOk;
}

// Everything that was refused is told; one refusal is a failed unit, which the health check sees.
int ActivateAndTell() {
  SystemMounter mounter;
  const Result<Activation> activation = ActivateExtensions({}, mounter);
  if (!activation.ok()) return Fail(activation.status());
  for (const std::string& name : activation->merged) std::cout << "extension " << name << ": merged\n";
  for (const RefusedExtension& one : activation->refused)
    std::cerr << "sealift-agent: extension " << one.name << " refused: " << Describe(one.why) << "\n";
  return activation->refused.empty() ? kExitOk : kExitFailed;
}

int Join(const std::filesystem::path& config) {
  const Result<Settings> settings = LoadSettings(config);
  if (!settings.ok()) return Fail(settings.status());
  const Status status = RunJoin(*settings);
  return status.ok() ? kExitOk : Fail(status);
}

int RunOrCheck(const std::filesystem::path& config, bool check_only) {
  const Result<Settings> settings = LoadSettings(config);
  if (!settings.ok()) return Fail(settings.status());
  if (check_only) {
    std::cout << config.string() << ": ok\n";
    return kExitOk;
  }
  const Status status = RunDaemon(*settings);
  return status.ok() ? kExitOk : Fail(status);
}

// `unlock`, `unlock-all` and `volumes` of the image's own configuration.
struct VolumeArguments {
  std::string config = std::string(kDefaultConfigPath);
  std::string extra = "/.extra";
  std::string format = "text";
  bool recovery_key = false;
  CLI::App* unlock = nullptr;
  CLI::App* unlock_all = nullptr;
  CLI::App* volumes = nullptr;

  void AddTo(CLI::App& app) {
    unlock = app.add_subcommand(
        "unlock", "Open and mount oem and persistent by the TPM (the early unit does; needs no other verb)");
    unlock_all = app.add_subcommand(
        "unlock-all", "Open what is still closed: by the TPM where this image may, else by the recovery key");
    unlock_all->add_flag("--recovery-key", recovery_key,
                         "Ask for the recovery key of what the TPM does not open (from standard input, for "
                         "example: sealift-agent unlock-all --recovery-key < key)");
    volumes = app.add_subcommand("volumes", "Show encrypted volumes and what they are bound to");
    volumes->add_option("-o,--output", format, "text or json")
        ->check(CLI::IsMember({"text", "json"}))
        ->capture_default_str();
    for (CLI::App* verb : {unlock, unlock_all, volumes}) {
      verb->add_option("--config", config, "Configuration")->capture_default_str();
      verb->add_option("--extra", extra, "Folder with the image's PCR signatures and their key")
          ->capture_default_str();
    }
  }
  bool parsed() const { return unlock->parsed() || unlock_all->parsed() || volumes->parsed(); }

  int Run() const {
    const Result<Settings> settings = LoadSettings(config);
    if (!settings.ok()) return Fail(settings.status());
    const UnlockSettings with{.settings = *settings, .extra = extra};
    if (volumes->parsed()) {
      const Result<std::string> text = DescribeVolumes(with, format == "json");
      if (!text.ok()) return Fail(text.status());
      std::cout << *text;
      return kExitOk;
    }
    const Status status = unlock->parsed() ? RunUnlock(with) : RunUnlockAll(with, recovery_key);
    return status.ok() ? kExitOk : Fail(status);
  }
};

// `secret fetch` and `secret open`.
struct SecretArguments {
  std::string config = std::string(kDefaultConfigPath);
  std::string extra = "/.extra";
  SecretOptions options;
  bool no_keep = false;
  CLI::App* fetch = nullptr;
  CLI::App* open = nullptr;

  void AddTo(CLI::App& app) {
    CLI::App* secret = app.add_subcommand(
        "secret", "Secrets that the controller keeps for machines that prove what they run");
    secret->require_subcommand(1);
    fetch = secret->add_subcommand(
        "fetch",
        "Get a secret from the controller for a quote of now, encrypted to this TPM, and keep it so (for "
        "example: sealift-agent secret fetch site-key --out /run/site-key)");
    fetch->add_flag("--no-keep", no_keep, "Leave nothing in the state folder");
    open = secret->add_subcommand("open",
                                  "Open a secret that was kept, without the controller (for example: "
                                  "sealift-agent secret open site-key "
                                  "--keyring site-key)");
    for (CLI::App* verb : {fetch, open}) {
      verb->add_option("NAME", options.name, "As the controller's operators named it")->required();
      verb->add_option(
          "--out", options.out,
          "Where it goes in the clear: a file (mode 0600), best below /run, or - for standard output");
      verb->add_option(
          "--keyring", options.keyring,
          "Or a key of type user with this description in the kernel's keyring of the user (@u)");
      verb->add_option("--config", config, "Configuration")->capture_default_str();
      verb->add_option("--extra", extra, "Folder with the image's PCR signatures and their key")
          ->capture_default_str();
    }
  }
  bool parsed() const { return fetch->parsed() || open->parsed(); }

  int Run() {
    const Result<Settings> settings = LoadSettings(config);
    if (!settings.ok()) return Fail(settings.status());
    options.extra = extra;
    options.keep = !no_keep;
    if (open->parsed() && options.out.empty() && options.keyring.empty()) {
      std::cerr << "sealift-agent: say where the secret goes: --out or --keyring\n";
      return kExitUsage;
    }
    const Status status = fetch->parsed() ? FetchSecret(*settings, options) : OpenSecret(*settings, options);
    return status.ok() ? kExitOk : Fail(status);
  }
};

int Main(int argc, char** argv) {
  CLI::App app("Keeps this node enrolled, attested and on the release its controller wants.",
               "sealift-agent");
  app.set_version_flag("--version", SEALIFT_VERSION);
  app.footer(kFooter);
  app.require_subcommand(1);

  std::string config(kDefaultConfigPath);
  bool check_config = false;
  std::string level = "info";
  CLI::App* run = app.add_subcommand("run", "Run the daemon in the foreground (systemd starts it)");
  run->add_option("--config", config, "Configuration")->capture_default_str();
  run->add_flag("--check-config", check_config,
                "Only read the configuration and say all that is wrong with it");
  run->add_option("--log-level", level, "debug, info, warning or error")->capture_default_str();

  std::string runtime = "/run/sealift";
  std::string format = "text";
  CLI::App* status = app.add_subcommand("status", "Show what the running agent is at");
  status->add_option("--runtime", runtime, "Runtime directory of the agent")->capture_default_str();
  status->add_option("-o,--output", format, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();

  const CLI::App* activate = app.add_subcommand(
      "activate-extensions",
      "Lay the extensions that the image lists over /usr, /opt and /etc, after checking them (once a boot)");

  VolumeArguments volumes;
  volumes.AddTo(app);
  const std::function<std::optional<Status>()> installed = AddInstallCommands(app);

  SecretArguments secrets;
  secrets.AddTo(app);

  std::string select;
  CLI::App* bootentry = app.add_subcommand(
      "bootentry", "Show the boot loader's entries, or choose one for the next boot alone");
  bootentry->add_option("--select", select, "active, passive or recovery")
      ->check(CLI::IsMember({"active", "passive", "recovery"}));
  bootentry->add_option("--config", config, "Configuration")->capture_default_str();
  bootentry->add_option("-o,--output", format, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();

  CLI::App* join = app.add_subcommand(
      "join",
      "Take a join token from standard input, which lets this machine into the fleet (for example: "
      "sealift-agent join < /run/token)");
  join->add_option("--config", config, "Configuration")->capture_default_str();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? kExitOk : kExitUsage;
  }
  if (status->parsed()) return ShowStatus(runtime, format);
  if (activate->parsed()) return ActivateAndTell();
  if (volumes.parsed()) return volumes.Run();
  if (const std::optional<Status> done = installed()) return done->ok() ? kExitOk : Fail(*done);
  if (secrets.parsed()) return secrets.Run();
  if (join->parsed()) return Join(config);
  if (bootentry->parsed()) return ShowBootEntries(config, select, format);
  const Result<log::Level> parsed = log::ParseLevel(level);
  if (!parsed.ok()) return Fail(parsed.status());
  log::SetLevel(*parsed);
  return RunOrCheck(config, check_config);
}

}  // namespace
}  // namespace sealift::agent

int main(int argc, char** argv) { return sealift::agent::Main(argc, argv); }
