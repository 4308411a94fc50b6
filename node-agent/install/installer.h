// The installation itself: from a plan to a machine that boots its disk.
//
// Order: hooks before; partition table, whose ESP is called "sealift-unfinished"; volumes; ESP; hooks after,
// with the volumes mounted; everything closed; the ESP gets its name; the firmware gets its boot option. A
// cut or a pulled medium at any point leaves a disk that the next run knows as unfinished and makes anew;
// nothing starts it before, since firmware knows no option for it and the boot loader is the last file of its
// ESP. Not thread-safe; borrows its parts.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "node-agent/esp/efi_variables.h"
#include "node-agent/esp/file_system.h"
#include "node-agent/install/config_source.h"
#include "node-agent/install/esp_layout.h"
#include "node-agent/install/install_plan.h"
#include "node-agent/volume/seams.h"
#include "node-agent/volume/volume.h"
#include "shared/base/clock.h"
#include "shared/base/secret.h"

namespace sealift::agent {

// Makes encrypted volumes: VolumeKeeper with this machine's TPM and the image's keys on a node.
class VolumeMaker {
 public:
  virtual ~VolumeMaker() = default;
  // Once, before the first volume. Whatever the machine needs beside volumes: the epoch's counter.
  virtual Status Prepare() = 0;
  // The volume is made, opened and holds an empty file system. Returns the mapped device.
  virtual Result<std::filesystem::path> Make(const VolumeSpec& spec) = 0;
  virtual Status Close(const std::string& name) = 0;
};

// Commands of hooks. Each is given to /bin/sh -c.
class HookRunner {
 public:
  virtual ~HookRunner() = default;
  // Returns what it printed. Errors: FAILED_PRECONDITION/HOOK_FAILED with the end of its output.
  virtual Result<std::string> Run(const std::string& command) = 0;
};

// At most ten minutes a command.
class ShellHookRunner final : public HookRunner {
 public:
  Result<std::string> Run(const std::string& command) override;
};

struct InstallPlaces {
  // Where volumes are mounted: below it are oem/ and usr/local/.
  std::filesystem::path root = "/";
  std::filesystem::path esp = "/run/sealift/install-esp";
};

// What was installed, as the agent tells the controller at enrolment (proto InstallRecord). JSON in the state
// folder: {"config_digest", "config_source", "version", "installed"}.
inline constexpr std::string_view kInstallRecordName = "install.json";
// Of the configuration that the OS gets, below /oem.
inline constexpr std::string_view kOemConfigName = "90_custom.yaml";

// Another file for the agent's state folder, such as a join token. Mode 0600.
struct StateFile {
  std::string name;
  SecretBytes content;
};

class Installer {
 public:
  struct Parts {
    CommandRunner& runner;
    Mounts& mounts;
    VolumeMaker& volumes;
    EfiVariables& variables;
    HookRunner& hooks;
    // The file system mounted at a folder.
    std::function<std::unique_ptr<FileSystem>(const std::filesystem::path&)> open_esp;
    // Progress, one line each, for the console.
    std::function<void(std::string_view)> tell;
    UnixMillis now;
    std::vector<StateFile> state_files = {};
  };
  Installer(Parts parts, InstallPlaces places) : parts_(std::move(parts)), places_(std::move(places)) {}

  // `release` is verified. The disk is looked at once more: it must still be what the plan says. A firmware
  // that takes no boot option is told and is no error. Errors: FAILED_PRECONDITION with DISK_HOLDS_DATA (it
  // changed), HOOK_FAILED; those of FillEsp, VolumeMaker, Mounts and the tools. After an error everything is
  // unmounted and closed.
  Status Run(const TrustedConfig& config, const InstallPlan& plan, const MediumRelease& release);

 private:
  struct Node {
    std::filesystem::path path;
    std::string uuid;
  };
  Status RunSteps(const TrustedConfig& config, const InstallPlan& plan, const MediumRelease& release);
  Status RunHooks(std::string_view when, const std::vector<HookStep>& steps);
  Status CheckUnchanged(const InstallPlan& plan);
  Status CheckEmpty(const InstallPlan& plan);
  Status WriteTable(const InstallPlan& plan);
  // By number, from the disk itself.
  Result<std::vector<Node>> PartitionNodes(const InstallPlan& plan);
  Status MakeVolume(const PlannedPartition& part, const Node& node);
  Status MakeEsp(const Node& node, const MediumRelease& release);
  Status WriteRecords(const TrustedConfig& config, const MediumRelease& release);
  Status Mount(const std::filesystem::path& device, const std::string& type,
               const std::filesystem::path& target);
  // In reverse order. The first error; goes on after it.
  Status ReleaseAll();
  Status Finish(const InstallPlan& plan, const Node& esp);
  void Tell(std::string_view line) const { parts_.tell(line); }

  Parts parts_;
  InstallPlaces places_;
  std::vector<std::filesystem::path> mounted_;
  std::vector<std::string> opened_;
};

}  // namespace sealift::agent
