// Whether this machine can be installed: every check, every finding, before anything is written.
//
// The probing is MachineFacts (probe.h); this is the judgement, pure and thread-safe.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "node-agent/install/firmware_keys.h"
#include "node-agent/install/install_plan.h"

namespace sealift::agent {

// What was found out about the machine. A status stands for what could not be found out.
struct MachineFacts {
  // Whether there are EFI variables at all.
  Status uefi;
  Result<FirmwareReport> firmware = FirmwareReport();
  std::vector<OptionRom> option_roms;
  // The TPM answers and its SHA-256 bank holds PCR 7.
  Status tpm;
  bool endorsement_certificate = false;
  std::uint64_t memory_bytes = 0;
  // Of the release on the medium; nothing when there is no medium.
  std::optional<ReleaseSizes> release;
  // Of the disk that the configuration means.
  Result<InstallPlan> plan = InstallPlan();
  // The image asks for encrypted volumes.
  bool encrypt = true;
  // node.toml names an escrow key.
  bool escrow = false;
};

struct InstallFinding {
  enum class Level { kGood, kRemark, kRefused };
  Level level = Level::kGood;
  // "uefi", "secure-boot", "option-roms", "tpm", "memory", "medium", "disk", "encryption".
  std::string check;
  std::string text;
  Reason reason = Reason::kNone;
};

// One finding or more for each check, in a fixed order.
std::vector<InstallFinding> JudgeMachine(const MachineFacts& facts);
// The first refusal, with the number of others; setup mode is none, since keys can be enrolled.
// Errors: that of a single refusal; HARDWARE_UNFIT naming all of several.
Status FirstRefusal(const std::vector<InstallFinding>& findings);

std::string FindingsText(const std::vector<InstallFinding>& findings);
std::string FindingsJson(const std::vector<InstallFinding>& findings);

}  // namespace sealift::agent
