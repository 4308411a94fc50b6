#include "node-agent/health/health_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "shared/base/files.h"
#include "shared/base/subprocess.h"

namespace sealift::agent {
namespace {

constexpr std::size_t kMostTold = 3;
constexpr std::uint64_t kMaxMountsBytes = 1u << 20;

Status Failed(std::string_view message) {
  return MakeError(Code::kFailedPrecondition, Reason::kHealthFailed, message);
}

std::string FirstLine(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')).substr(0, 300));
}

std::vector<std::string> With(Systemctl systemctl, std::initializer_list<std::string> words) {
  systemctl.insert(systemctl.end(), words);
  return systemctl;
}

class BootCompleteProbe final : public Probe {
 public:
  BootCompleteProbe(Systemctl systemctl, std::chrono::milliseconds timeout)
      : systemctl_(std::move(systemctl)), timeout_(timeout) {}
  Status Check() override {
    // Nothing else wants the target on a node, so this is what starts it; again it costs nothing.
    const Status started =
        RunCommandChecked({.argv = With(systemctl_, {"start", "boot-complete.target"}), .timeout = timeout_})
            .status();
    return Annotate(started, "reach boot-complete.target");
  }

 private:
  Systemctl systemctl_;
  std::chrono::milliseconds timeout_;
};

class FailedUnitsProbe final : public Probe {
 public:
  FailedUnitsProbe(Systemctl systemctl, std::chrono::milliseconds timeout)
      : systemctl_(std::move(systemctl)), timeout_(timeout) {}
  Status Check() override {
    SEALIFT_ASSIGN_OR_RETURN(const CommandOutput units,
                             RunCommandChecked({.argv = With(systemctl_, {"list-units", "--failed", "--plain",
                                                                          "--no-legend", "--no-pager"}),
                                                .timeout = timeout_}));
    if (units.out.empty()) return OkStatus();
    return Failed(fmt::format("failed unit: {}", FirstLine(units.out)));
  }

 private:
  Systemctl systemctl_;
  std::chrono::milliseconds timeout_;
};

class ActiveUnitsProbe final : public Probe {
 public:
  ActiveUnitsProbe(Systemctl systemctl, std::vector<std::string> units, std::chrono::milliseconds timeout)
      : systemctl_(std::move(systemctl)), units_(std::move(units)), timeout_(timeout) {}
  Status Check() override {
    for (const std::string& unit : units_) {
      SEALIFT_ASSIGN_OR_RETURN(
          const CommandOutput state,
          RunCommand({.argv = With(systemctl_, {"is-active", "--", unit}), .timeout = timeout_}));
      if (state.exit_code != 0) return Failed(fmt::format("unit {} is {}", unit, FirstLine(state.out)));
    }
    return OkStatus();
  }

 private:
  Systemctl systemctl_;
  std::vector<std::string> units_;
  std::chrono::milliseconds timeout_;
};

class CommandProbe final : public Probe {
 public:
  CommandProbe(std::vector<std::string> command, std::chrono::milliseconds timeout)
      : command_(std::move(command)), timeout_(timeout) {}
  Status Check() override { return RunCommandChecked({.argv = command_, .timeout = timeout_}).status(); }

 private:
  std::vector<std::string> command_;
  std::chrono::milliseconds timeout_;
};

class VolumesProbe final : public Probe {
 public:
  VolumesProbe(std::filesystem::path mounts, std::vector<std::filesystem::path> folders)
      : mounts_(std::move(mounts)), folders_(std::move(folders)) {}
  Status Check() override {
    SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(mounts_, kMaxMountsBytes));
    for (const std::filesystem::path& folder : folders_) {
      // The last one lies on top.
      std::string device;
      std::istringstream lines(text);
      for (std::string line; std::getline(lines, line);) {
        std::istringstream fields(line);
        std::string source, target;
        if (fields >> source >> target && target == folder) device = source;
      }
      if (device.empty()) {
        return MakeError(Code::kFailedPrecondition, Reason::kVolumeLocked,
                         fmt::format("find the volume of '{}': nothing is mounted there", folder.string()));
      }
      if (!device.starts_with("/dev/mapper/") && !device.starts_with("/dev/dm-")) {
        return MakeError(
            Code::kFailedPrecondition, Reason::kVolumeNotEncrypted,
            fmt::format("find the volume of '{}': {} is no encrypted one", folder.string(), device));
      }
    }
    return OkStatus();
  }

 private:
  std::filesystem::path mounts_;
  std::vector<std::filesystem::path> folders_;
};

}  // namespace

Health NodeHealthCheck::Check() {
  std::vector<std::string> problems;
  for (const std::unique_ptr<Probe>& probe : probes_) {
    if (const Status status = probe->Check(); !status.ok()) problems.push_back(Describe(status));
  }
  if (problems.empty()) return {.healthy = true};
  const std::size_t more = problems.size() > kMostTold ? problems.size() - kMostTold : 0;
  problems.resize(problems.size() - more);
  std::string told = fmt::format("{}", fmt::join(problems, "; "));
  if (more > 0) told += fmt::format("; and {} more", more);
  return {.healthy = false, .problem = std::move(told)};
}

std::unique_ptr<Probe> MakeBootCompleteProbe(Systemctl systemctl, std::chrono::milliseconds timeout) {
  return std::make_unique<BootCompleteProbe>(std::move(systemctl), timeout);
}

std::unique_ptr<Probe> MakeFailedUnitsProbe(Systemctl systemctl, std::chrono::milliseconds timeout) {
  return std::make_unique<FailedUnitsProbe>(std::move(systemctl), timeout);
}

std::unique_ptr<Probe> MakeActiveUnitsProbe(Systemctl systemctl, std::vector<std::string> units,
                                            std::chrono::milliseconds timeout) {
  return std::make_unique<ActiveUnitsProbe>(std::move(systemctl), std::move(units), timeout);
}

std::unique_ptr<Probe> MakeCommandProbe(std::vector<std::string> command, std::chrono::milliseconds timeout) {
  return std::make_unique<CommandProbe>(std::move(command), timeout);
}

std::unique_ptr<Probe> MakeVolumesProbe(std::filesystem::path mounts,
                                        std::vector<std::filesystem::path> folders) {
  return std::make_unique<VolumesProbe>(std::move(mounts), std::move(folders));
}

}  // namespace sealift::agent
