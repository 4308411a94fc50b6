#include "controller/build/preflight.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "controller/build/command_line.h"
#include "controller/build/node_kit.h"
#include "shared/base/ids.h"

namespace sealift::build {
namespace {

constexpr unsigned kOldestSystemd = 252;
constexpr std::uint64_t kSmallFile = 1u << 20;
// Firmware loads an image into memory below 4 GiB, where 2 GiB are the most that was seen to work.
constexpr std::uint64_t kMaxImage = std::uint64_t{2} << 30;

constexpr FindingKind kKinds[] = {
    {"cmdline-init", Severity::kError},          {"cmdline-rd-shell", Severity::kError},
    {"cmdline-debug-shell", Severity::kError},   {"cmdline-rescue", Severity::kError},
    {"cmdline-emergency", Severity::kError},     {"cmdline-module-signatures-off", Severity::kError},
    {"cmdline-lockdown-none", Severity::kError}, {"root-password", Severity::kError},
    {"node-config-secret", Severity::kError},    {"node-config-join-token", Severity::kError},
    {"systemd-missing", Severity::kError},       {"systemd-too-old", Severity::kError},
    {"kernel-missing", Severity::kError},        {"kernel-release-unknown", Severity::kWarning},
    {"modules-missing", Severity::kError},       {"modules-none", Severity::kWarning},
    {"os-release-missing", Severity::kError},    {"os-release-incomplete", Severity::kError},
    {"version-invalid", Severity::kError},       {"machine-id", Severity::kWarning},
    {"machine-id-copy", Severity::kError},       {"random-seed", Severity::kWarning},
    {"ssh-host-key", Severity::kWarning},        {"image-large", Severity::kWarning},
    {"image-too-large", Severity::kError},       {"esp-tight", Severity::kWarning},
    {"esp-too-small", Severity::kError},
};

class Report {
 public:
  void Add(std::string_view name, std::string text) {
    const auto* kind =
        std::find_if(std::begin(kKinds), std::end(kKinds), [&](const auto& k) { return k.name == name; });
    SEALIFT_CHECK(kind != std::end(kKinds));
    findings_.push_back({.name = std::string(name), .severity = kind->severity, .text = std::move(text)});
  }
  std::vector<Finding> Take() { return std::move(findings_); }

 private:
  std::vector<Finding> findings_;
};

// Empty when it cannot be read.
std::string Text(const Tree& tree, std::string_view path) {
  const Result<Bytes> bytes = tree.ReadFile(path, kSmallFile);
  return bytes.ok() ? ToText(*bytes) : std::string();
}

std::vector<std::string_view> Lines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

void InspectCommandLines(const std::vector<MenuEntry>& menu, Report& report) {
  for (const MenuEntry& entry : menu)
    for (const RiskyWord& risky : FindRiskyWords(entry.command_line))
      report.Add(risky.finding, fmt::format("the command line of '{}' says '{}'", entry.id, risky.word));
}

// shadow(5): an empty second field lets anybody in, '!' and '*' nobody.
void InspectRootPassword(const Tree& tree, Report& report) {
  constexpr std::string_view kRoot = "root:";
  for (const char* file : {"etc/shadow", "etc/passwd"}) {
    const std::string text = Text(tree, file);
    for (std::string_view line : Lines(text)) {
      if (!line.starts_with(kRoot)) continue;
      line.remove_prefix(kRoot.size());
      const std::string_view password = line.substr(0, line.find(':'));
      const bool elsewhere = password == "x" && std::string_view(file) == "etc/passwd";
      if (password.empty()) {
        report.Add("root-password", fmt::format("/{} lets root in without a password", file));
      } else if (!elsewhere && password.front() != '!' && password.front() != '*') {
        report.Add("root-password",
                   fmt::format("/{} holds a password of root, the same on every machine", file));
      }
    }
  }
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

// Without its comment.
std::string_view CodeOf(std::string_view line) {
  char quote = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote == 0 && c == '#') return line.substr(0, i);
    if (quote != 0 ? c == quote : c == '"' || c == '\'') quote = quote != 0 ? '\0' : c;
  }
  return line;
}

// Every name of a line before a '=', those in inline tables too: the last part, '_' for '-'.
std::vector<std::string> KeysOf(std::string_view line) {
  std::vector<std::string> keys;
  line = CodeOf(line);
  for (std::size_t at = 0, end = line.find('='); end != std::string_view::npos; end = line.find('=', at)) {
    std::string key(line.substr(at, end - at));
    key = key.substr(key.find_last_of("{,") + 1);
    std::erase_if(key, [](char c) { return c == ' ' || c == '\t' || c == '"' || c == '\''; });
    std::replace(key.begin(), key.end(), '-', '_');
    keys.push_back(key.substr(key.rfind('.') + 1));
    at = end + 1;
  }
  return keys;
}

// The image is readable by whoever holds the medium. Looked at line by line, since a file that is no TOML is
// read by nobody but may still hold a secret.
void InspectNodeConfig(const std::string& text, Report& report) {
  constexpr std::array<std::string_view, 6> kSecrets = {"password", "passwd",      "passphrase",
                                                        "secret",   "private_key", "pin"};
  std::size_t number = 0;
  for (const std::string_view line : Lines(text)) {
    ++number;
    const std::string lower = Lower(line);
    if (lower.find("private key-----") != std::string::npos) {
      report.Add("node-config-secret", fmt::format("line {} of node.toml begins a private key", number));
      continue;
    }
    for (const std::string& key : KeysOf(lower)) {
      const bool secret = std::any_of(kSecrets.begin(), kSecrets.end(), [&](std::string_view word) {
        return key == word || key.ends_with(fmt::format("_{}", word));
      });
      if (key.find("join_token") != std::string::npos || key == "token") {
        report.Add("node-config-join-token", fmt::format("line {} of node.toml sets '{}'", number, key));
      } else if (secret) {
        report.Add("node-config-secret", fmt::format("line {} of node.toml sets '{}'", number, key));
      }
    }
  }
}

void InspectSystemd(const Tree& tree, Report& report) {
  const TreeEntry* systemd = tree.Find(tree.Resolve("usr/lib/systemd/systemd"));
  if (systemd == nullptr || !S_ISREG(systemd->mode) || (systemd->mode & S_IXUSR) == 0) {
    report.Add("systemd-missing", "there is no program /usr/lib/systemd/systemd, which runs a node");
    return;
  }
  const unsigned version = InstalledSystemd(tree);
  if (version != 0 && version < kOldestSystemd)
    report.Add("systemd-too-old",
               fmt::format("its systemd is {}, but {} or newer is needed", version, kOldestSystemd));
}

void InspectKernel(const PreflightInput& input, Report& report) {
  const std::string modules =
      input.tree->Resolve(input.tree->Resolve("lib/modules").empty() ? "usr/lib/modules" : "lib/modules") +
      "/";
  if (!input.kernel.ok()) report.Add("kernel-missing", MessageOf(input.kernel));
  const auto& entries = input.tree->entries();
  const auto first = entries.lower_bound(modules);
  if (first == entries.end() || !first->first.starts_with(modules)) {
    report.Add("modules-none", "there are no kernel modules: only what is built into the kernel will work");
  } else if (input.kernel.ok() && input.kernel_release.empty()) {
    report.Add("kernel-release-unknown",
               "the kernel does not tell its release: its modules were not checked");
  } else if (input.kernel.ok() && input.tree->Resolve(modules + input.kernel_release).empty()) {
    report.Add("modules-missing", fmt::format("/{}{} is missing: install the modules of this kernel", modules,
                                              input.kernel_release));
  }
}

void InspectOsRelease(const PreflightInput& input, Report& report) {
  const Result<OsRelease> os_release = ReadOsRelease(*input.tree);
  if (!os_release.ok()) {
    report.Add("os-release-missing", "there is no /etc/os-release and no /usr/lib/os-release");
    return;
  }
  if (os_release->Get("ID").empty())
    report.Add("os-release-incomplete", "os-release has no ID, by which extensions and menus know the OS");
  const std::string version = input.version.empty() ? os_release->Version() : input.version;
  if (!IsValidVersion(version)) {
    report.Add("version-invalid",
               fmt::format("'{}' is not a version; set VERSION_ID, IMAGE_VERSION or --version", version));
  }
}

// What must be a machine's own.
void InspectIdentity(const Tree& tree, Report& report) {
  const auto holds = [&](std::string_view path) {
    const TreeEntry* entry = tree.Find(path);
    return entry != nullptr && S_ISREG(entry->mode) && entry->size != 0;
  };
  // "uninitialized" is what systemd itself writes into images.
  if (holds("etc/machine-id") && !Text(tree, "etc/machine-id").starts_with("uninitialized"))
    report.Add("machine-id", "/etc/machine-id names one machine; it is emptied in the image");
  if (holds("var/lib/dbus/machine-id"))
    report.Add(
        "machine-id-copy",
        "/var/lib/dbus/machine-id would be the same on every machine; make it a link to /etc/machine-id");
  if (holds("var/lib/systemd/random-seed"))
    report.Add("random-seed", "/var/lib/systemd/random-seed would be the same on every machine");
  for (auto at = tree.entries().lower_bound("etc/ssh/ssh_host_");
       at != tree.entries().end() && at->first.starts_with("etc/ssh/ssh_host_"); ++at)
    if (at->first.ends_with("_key"))
      report.Add("ssh-host-key",
                 fmt::format("/{} would be the same on every machine, for all to read", at->first));
}

}  // namespace

std::span<const FindingKind> AllFindingKinds() { return kKinds; }

std::vector<Finding> InspectTree(const PreflightInput& input) {
  SEALIFT_CHECK(input.tree != nullptr && input.menu != nullptr);
  Report report;
  InspectCommandLines(*input.menu, report);
  InspectRootPassword(*input.tree, report);
  // One that is given replaces the tree's.
  InspectNodeConfig(input.node_config.value_or(Text(*input.tree, kNodeConfigPath)), report);
  InspectSystemd(*input.tree, report);
  InspectKernel(input, report);
  InspectOsRelease(input, report);
  InspectIdentity(*input.tree, report);
  return report.Take();
}

std::vector<Finding> InspectSizes(std::uint64_t largest, std::uint64_t total, const SizeLimits& limits) {
  Report report;
  const auto mib = [](std::uint64_t bytes) { return (bytes + (1u << 20) - 1) >> 20; };
  if (largest > kMaxImage) {
    report.Add("image-too-large",
               fmt::format("an image has {} MiB; firmware loads 2048 at most", mib(largest)));
  } else if (largest > limits.warn_image_bytes) {
    report.Add("image-large", fmt::format("an image has {} MiB, more than {}; not every firmware loads that",
                                          mib(largest), mib(limits.warn_image_bytes)));
  }
  if (total > limits.esp_bytes) {
    report.Add("esp-too-small", fmt::format("the release has {} MiB, an EFI system partition here {}",
                                            mib(total), mib(limits.esp_bytes)));
  } else if (largest * 2 + (total - largest) > limits.esp_bytes) {
    report.Add(
        "esp-tight",
        fmt::format("an EFI system partition of {} MiB does not hold this release beside the one it replaces",
                    mib(limits.esp_bytes)));
  }
  return report.Take();
}

Status Judge(std::vector<Finding>& findings, const std::vector<std::string>& allowed) {
  for (const std::string& name : allowed) {
    const bool known = std::any_of(std::begin(kKinds), std::end(kKinds),
                                   [&](const auto& kind) { return kind.name == name; });
    if (!known) {
      return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                       fmt::format("allow finding '{}': there is none of that name", name));
    }
  }
  std::vector<std::string> left;
  for (Finding& finding : findings) {
    finding.allowed = std::find(allowed.begin(), allowed.end(), finding.name) != allowed.end();
    if (finding.severity == Severity::kError && !finding.allowed)
      left.push_back(fmt::format("{}: {}", finding.name, finding.text));
  }
  if (left.empty()) return OkStatus();
  return MakeError(Code::kFailedPrecondition, Reason::kPreflightFailed,
                   fmt::format("check image: {}", fmt::join(left, "; ")));
}

}  // namespace sealift::build
