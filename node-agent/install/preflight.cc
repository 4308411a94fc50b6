#include "node-agent/install/preflight.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace sealift::agent {
namespace {

using Level = InstallFinding::Level;

// Firmware keeps three copies of an image while it starts it; the OS runs from memory.
constexpr std::uint64_t kCopiesInMemory = 3;
constexpr std::uint64_t kBaseMemory = 384ull << 20;

class Judge {
 public:
  explicit Judge(const MachineFacts& facts) : facts_(facts) {}

  std::vector<InstallFinding> All() {
    Uefi();
    SecureBoot();
    Roms();
    Tpm();
    Memory();
    Medium();
    Disk();
    Encryption();
    return std::move(findings_);
  }

 private:
  void Add(Level level, std::string check, std::string text, Reason reason = Reason::kNone) {
    findings_.push_back(
        {.level = level, .check = std::move(check), .text = std::move(text), .reason = reason});
  }
  void Refuse(std::string check, const Status& status) {
    Add(Level::kRefused, std::move(check), MessageOf(status), ReasonOf(status));
  }

  void Uefi() {
    if (facts_.uefi.ok()) return Add(Level::kGood, "uefi", "booted by UEFI");
    Add(Level::kRefused, "uefi", fmt::format("not booted by UEFI: {}", MessageOf(facts_.uefi)),
        Reason::kHardwareUnfit);
  }

  void SecureBoot() {
    if (!facts_.uefi.ok()) return;
    if (!facts_.firmware.ok()) return Refuse("secure-boot", facts_.firmware.status());
    if (facts_.firmware->state == FirmwareState::kSetupMode)
      return Add(Level::kRemark, "secure-boot",
                 "setup mode: the installer will enrol this fleet's keys and reboot");
    const Status status = RequireOurKeys(*facts_.firmware);
    if (!status.ok()) return Refuse("secure-boot", status);
    Add(Level::kGood, "secure-boot", "on, with exactly this fleet's keys");
  }

  void Roms() {
    for (const OptionRom& rom : facts_.option_roms) {
      if (rom.allowed) {
        Add(Level::kGood, "option-roms", fmt::format("driver {} is in db by its digest", rom.digest));
      } else {
        Add(Level::kRemark, "option-roms",
            fmt::format(
                "driver {} of an option ROM ran in this boot; under this fleet's keys it runs only if they "
                "include its signer",
                rom.digest));
      }
    }
  }

  void Tpm() {
    if (!facts_.tpm.ok()) {
      return Add(Level::kRefused, "tpm", fmt::format("no usable TPM 2.0: {}", MessageOf(facts_.tpm)),
                 Reason::kHardwareUnfit);
    }
    Add(Level::kGood, "tpm", "TPM 2.0 with a SHA-256 bank");
    if (!facts_.endorsement_certificate)
      Add(Level::kRemark, "tpm", "no endorsement key certificate: an operator has to admit the key itself");
  }

  void Memory() {
    const std::uint64_t image = facts_.release ? facts_.release->image_bytes : 0;
    const std::uint64_t needed = kBaseMemory + kCopiesInMemory * image;
    if (facts_.memory_bytes >= needed)
      return Add(Level::kGood, "memory", fmt::format("{} of RAM", DescribeBytes(facts_.memory_bytes)));
    Add(Level::kRefused, "memory",
        fmt::format("{} of RAM, but this release needs {}", DescribeBytes(facts_.memory_bytes),
                    DescribeBytes(needed)),
        Reason::kHardwareUnfit);
  }

  void Medium() {
    if (facts_.release) {
      return Add(
          Level::kGood, "medium",
          fmt::format("image of {}; an EFI system partition of {} will be made",
                      DescribeBytes(facts_.release->image_bytes), DescribeBytes(EspBytes(*facts_.release))));
    }
    Add(Level::kRemark, "medium", "no install medium");
  }

  void Disk() {
    if (!facts_.plan.ok()) return Refuse("disk", facts_.plan.status());
    Add(Level::kGood, "disk",
        fmt::format("{}: {}", DescribeDisk(facts_.plan->disk), DiskStateName(facts_.plan->state)));
  }

  void Encryption() {
    if (!facts_.encrypt) {
      return Add(Level::kRemark, "encryption",
                 "off in this image (volumes.encryption): whoever has the disk reads it");
    }
    if (facts_.escrow) return Add(Level::kGood, "encryption", "on; recovery keys go into escrow");
    Add(Level::kRefused, "encryption", "on, but the image names no escrow key", Reason::kEscrowKeyMissing);
  }

  const MachineFacts& facts_;
  std::vector<InstallFinding> findings_;
};

std::string_view LevelName(Level level) {
  constexpr std::array<std::string_view, 3> kNames{"ok", "remark", "refused"};
  return kNames[static_cast<std::size_t>(level)];
}

}  // namespace

std::vector<InstallFinding> JudgeMachine(const MachineFacts& facts) { return Judge(facts).All(); }

Status FirstRefusal(const std::vector<InstallFinding>& findings) {
  std::vector<std::string> texts;
  const InstallFinding* first = nullptr;
  for (const InstallFinding& finding : findings) {
    if (finding.level != Level::kRefused) continue;
    if (first == nullptr) first = &finding;
    texts.push_back(finding.text);
  }
  if (first == nullptr) return OkStatus();
  const Reason reason = texts.size() == 1 ? first->reason : Reason::kHardwareUnfit;
  return MakeError(Code::kFailedPrecondition, reason,
                   fmt::format("check machine: {}", fmt::join(texts, "; ")));
}

std::string FindingsText(const std::vector<InstallFinding>& findings) {
  std::string text;
  for (const InstallFinding& finding : findings)
    text += fmt::format("{:<8} {:<12} {}\n", LevelName(finding.level), finding.check, finding.text);
  return text;
}

std::string FindingsJson(const std::vector<InstallFinding>& findings) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const InstallFinding& finding : findings) {
    json.push_back({{"level", LevelName(finding.level)}, {"check", finding.check}, {"text", finding.text}});
    if (finding.reason != Reason::kNone) json.back()["reason"] = ReasonId(finding.reason);
  }
  return json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace sealift::agent
