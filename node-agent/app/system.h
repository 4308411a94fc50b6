// What the agent asks of the running system: who it is, whether it is well, and to start anew.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "node-agent/link/controller_client.h"
#include "node-agent/update/seams.h"
#include "shared/base/clock.h"
#include "shared/base/files.h"
#include "shared/base/status.h"

namespace sealift::agent {

// The kernel's id of this boot. Errors: those of ReadTextFile.
Result<std::string> ReadBootId(const std::filesystem::path& file);
// When the image was made: agent time never runs before it. `file` was written by `sealift build-uki` and
// lies in the measured image. Errors: those of ReadTextFile and ParseRfc3339.
Result<UnixMillis> ReadImageBuildTime(const std::filesystem::path& file);

// What the kernel gives of SMBIOS in `folder` (/sys/class/dmi/id). Nothing where it has neither vendor nor
// product.
std::optional<HardwareModel> ReadHardwareModel(const std::filesystem::path& folder);

inline constexpr std::string_view kLockFileName = "agent.lock";
// Held while this process lives: two agents would write one ESP. Errors: FAILED_PRECONDITION/AGENT_RUNNING.
Result<UniqueFd> LockAgent(const std::filesystem::path& runtime_directory);
// Whether an agent holds that lock.
bool AgentRuns(const std::filesystem::path& runtime_directory);

// Runs a command. Thread-compatible.
class CommandRebooter final : public Rebooter {
 public:
  explicit CommandRebooter(std::vector<std::string> command) : command_(std::move(command)) {}
  // Errors: those of RunCommandChecked.
  Status RequestReboot(const std::string& why) override;

 private:
  std::vector<std::string> command_;
};

}  // namespace sealift::agent
