#include "shared/install/install_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "shared/install/yaml_tree.h"

namespace sealift {
namespace {

using Kind = YamlNode::Kind;

constexpr std::uint64_t kMaxMib = 1ull << 30;  // a pebibyte
constexpr std::size_t kMaxExtra = 16;
constexpr std::size_t kMaxCommandBytes = 64u << 10;
constexpr std::size_t kGptNameLimit = 36;
constexpr std::array<std::string_view, 5> kFileSystems{"ext2", "ext3", "ext4", "vfat", "none"};
// What cloud-configs hold for the running OS.
constexpr std::array<std::string_view, 9> kOsKeys{
    "users",   "write_files",         "hostname", "growpart", "runcmd",
    "bootcmd", "ssh_authorized_keys", "name",     "k3s"};

bool IsName(std::string_view text, std::size_t limit) {
  return !text.empty() && text.size() <= limit && text.front() != '-' &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                  c == '-';
         });
}

class Reader {
 public:
  void Problem(const YamlNode& node, std::string_view path, std::string_view what) {
    problems_.push_back(fmt::format("{} (line {}): {}", path, node.line, what));
  }
  const std::vector<std::string>& problems() const { return problems_; }

  bool Is(const YamlNode& node, Kind kind, std::string_view path) {
    if (node.kind == kind) return true;
    constexpr std::array<const char*, 3> kNames{"one value", "a list", "a table"};
    Problem(node, path, fmt::format("must be {}", kNames[static_cast<std::size_t>(kind)]));
    return false;
  }

  void Flag(const YamlNode& node, std::string_view path, bool& out) {
    if (!Is(node, Kind::kScalar, path)) return;
    if (!node.quoted && node.text == "true") {
      out = true;
    } else if (!node.quoted && node.text == "false") {
      out = false;
    } else {
      Problem(node, path, "must be true or false");
    }
  }

  void Text(const YamlNode& node, std::string_view path, std::string& out) {
    if (!Is(node, Kind::kScalar, path)) return;
    if (node.IsNull()) return Problem(node, path, "is empty");
    out = node.text;
  }

  void Size(const YamlNode& node, std::string_view path, std::uint64_t& bytes) {
    if (!Is(node, Kind::kScalar, path)) return;
    std::uint64_t mib = 0;
    const char* end = node.text.data() + node.text.size();
    const auto [stop, error] = std::from_chars(node.text.data(), end, mib);
    if (error != std::errc() || stop != end || mib > kMaxMib)
      return Problem(node, path, "must be a whole number of MiB");
    bytes = mib << 20;
  }

 private:
  std::vector<std::string> problems_;
};

class InstallReader {
 public:
  InstallConfig Read(const YamlNode& root) {
    if (!in_.Is(root, Kind::kMap, "the file")) return std::move(config_);
    for (const auto& [key, value] : root.members) {
      if (key == "install") {
        Install(value);
      } else if (key == "stages") {
        Stages(value);
      } else if (std::find(kOsKeys.begin(), kOsKeys.end(), key) != kOsKeys.end()) {
        config_.left_to_os.push_back(key);
      } else {
        in_.Problem(value, key, "is not known");
      }
    }
    CheckWhole(root);
    return std::move(config_);
  }
  const std::vector<std::string>& problems() const { return in_.problems(); }

 private:
  void Install(const YamlNode& node) {
    if (!in_.Is(node, Kind::kMap, "install")) return;
    for (const auto& [key, value] : node.members) {
      const std::string path = "install." + key;
      if (key == "device") {
        Device(value, path);
      } else if (key == "auto") {
        in_.Flag(value, path, config_.automatic);
      } else if (key == "reboot") {
        in_.Flag(value, path, config_.reboot);
      } else if (key == "poweroff") {
        in_.Flag(value, path, config_.power_off);
      } else if (key == "overwrite") {
        Word(value, path, "foreign", config_.overwrite_foreign);
      } else if (key == "consent") {
        Word(value, path, "enrol-keys", config_.consent_enrol_keys);
      } else if (key == "partitions") {
        Partitions(value, path);
      } else if (key == "extra-partitions") {
        Extras(value, path);
      } else if (key == "encrypted_partitions") {
        Encrypted(value, path);
      } else {
        in_.Problem(value, path, "is not known");
      }
    }
  }

  void Word(const YamlNode& node, const std::string& path, std::string_view word, bool& out) {
    std::string text;
    in_.Text(node, path, text);
    if (text.empty()) return;
    if (text != word) return in_.Problem(node, path, fmt::format("'{}' is all that can be said here", word));
    out = true;
  }

  void Device(const YamlNode& node, const std::string& path) {
    in_.Text(node, path, config_.device);
    const std::string& device = config_.device;
    const bool by_path = device.starts_with("/dev/") && device.find("..") == std::string::npos;
    const bool by_id = (device.starts_with("serial:") && device.size() > 7) ||
                       (device.starts_with("wwn:") && device.size() > 4);
    if (device != "auto" && !by_path && !by_id)
      in_.Problem(node, path, "must be auto, a path below /dev, serial:... or wwn:...");
  }

  void Partitions(const YamlNode& node, const std::string& path) {
    if (!in_.Is(node, Kind::kMap, path)) return;
    for (const auto& [name, value] : node.members) {
      const std::string inner = fmt::format("{}.{}", path, name);
      if (name != kOemName && name != kPersistentName) {
        in_.Problem(value, inner, "is not known; others go to install.extra-partitions");
        continue;
      }
      if (!in_.Is(value, Kind::kMap, inner)) continue;
      for (const auto& [key, inner_value] : value.members) {
        if (key == "size") {
          in_.Size(inner_value, inner + ".size",
                   name == kOemName ? config_.oem_bytes : config_.persistent_bytes);
        } else if (key == "fs") {
          std::string fs;
          in_.Text(inner_value, inner + ".fs", fs);
          if (fs != "ext4") in_.Problem(inner_value, inner + ".fs", "is always ext4");
        } else {
          in_.Problem(inner_value, fmt::format("{}.{}", inner, key), "is not known");
        }
      }
    }
  }

  void Extras(const YamlNode& node, const std::string& path) {
    if (!in_.Is(node, Kind::kList, path)) return;
    if (node.items.size() > kMaxExtra) return in_.Problem(node, path, fmt::format("more than {}", kMaxExtra));
    for (std::size_t i = 0; i < node.items.size(); ++i) {
      const YamlNode& item = node.items[i];
      const std::string inner = fmt::format("{}[{}]", path, i);
      if (!in_.Is(item, Kind::kMap, inner)) continue;
      config_.extra.push_back(Extra(item, inner));
    }
  }

  ExtraPartition Extra(const YamlNode& node, const std::string& path) {
    ExtraPartition extra;
    for (const auto& [key, value] : node.members) {
      const std::string inner = fmt::format("{}.{}", path, key);
      if (key == "name") {
        in_.Text(value, inner, extra.name);
      } else if (key == "size") {
        in_.Size(value, inner, extra.bytes);
      } else if (key == "fs") {
        in_.Text(value, inner, extra.file_system);
      } else if (key == "label") {
        in_.Text(value, inner, extra.label);
      } else {
        in_.Problem(value, inner, "is not known");
      }
    }
    if (!IsName(extra.name, kGptNameLimit))
      in_.Problem(node, path + ".name", "must be 1 to 36 of letters, digits, '_' and '-'");
    if (std::find(kFileSystems.begin(), kFileSystems.end(), extra.file_system) == kFileSystems.end())
      in_.Problem(node, path + ".fs", fmt::format("must be one of {}", fmt::join(kFileSystems, ", ")));
    if (extra.label.empty()) extra.label = extra.name.substr(0, LabelLimit(extra));
    if (extra.file_system != "none" && !IsName(extra.label, LabelLimit(extra)))
      in_.Problem(node, path + ".label",
                  fmt::format("must be 1 to {} of letters, digits, '_' and '-'", LabelLimit(extra)));
    return extra;
  }
  static std::size_t LabelLimit(const ExtraPartition& extra) { return extra.file_system == "vfat" ? 11 : 16; }

  // oem and persistent are encrypted whenever the image says so; naming them is fine.
  void Encrypted(const YamlNode& node, const std::string& path) {
    if (!in_.Is(node, Kind::kList, path)) return;
    for (const YamlNode& item : node.items) {
      std::string name;
      in_.Text(item, path, name);
      if (!name.empty()) encrypted_.emplace_back(name, &item);
    }
  }

  void Stages(const YamlNode& node) {
    if (!in_.Is(node, Kind::kMap, "stages")) return;
    for (const auto& [stage, value] : node.members) {
      const std::string path = "stages." + stage;
      if (stage == "kairos-uki-install.pre" || stage == "before-install") {
        Steps(value, path, config_.before);
      } else if (stage == "after-install" || stage == "kairos-uki-install.after") {
        Steps(value, path, config_.after);
      } else if (stage.starts_with("kairos-") || stage.ends_with("-install") ||
                 stage.find("chroot") != std::string::npos) {
        // A misspelt one would never run, and nobody would know.
        in_.Problem(value, path, "is no stage of an installation");
      } else {
        config_.left_to_os.push_back(path);
      }
    }
  }

  void Steps(const YamlNode& node, const std::string& path, std::vector<HookStep>& out) {
    if (!in_.Is(node, Kind::kList, path)) return;
    for (std::size_t i = 0; i < node.items.size(); ++i) {
      const YamlNode& item = node.items[i];
      const std::string inner = fmt::format("{}[{}]", path, i);
      if (!in_.Is(item, Kind::kMap, inner)) continue;
      HookStep step{.name = inner};
      for (const auto& [key, value] : item.members) {
        if (key == "name") {
          in_.Text(value, inner + ".name", step.name);
        } else if (key == "commands") {
          Commands(value, inner + ".commands", step.commands);
        } else {
          in_.Problem(value, fmt::format("{}.{}", inner, key),
                      "is not known here; steps of an installation are commands");
        }
      }
      if (step.commands.empty()) in_.Problem(item, inner, "has no commands");
      out.push_back(std::move(step));
    }
  }

  void Commands(const YamlNode& node, const std::string& path, std::vector<std::string>& out) {
    if (!in_.Is(node, Kind::kList, path)) return;
    for (const YamlNode& item : node.items) {
      std::string command;
      in_.Text(item, path, command);
      if (command.size() > kMaxCommandBytes || command.find('\0') != std::string::npos)
        in_.Problem(item, path, "is too long, or holds a zero byte");
      if (!command.empty()) out.push_back(std::move(command));
    }
  }

  void CheckWhole(const YamlNode& root) {
    if (config_.reboot && config_.power_off)
      in_.Problem(root, "install", "reboot and poweroff exclude each other");
    if (config_.oem_bytes == 0) in_.Problem(root, "install.partitions.oem.size", "must not be 0");
    // The last is what an ESP is called until the installation is complete (node-agent/install).
    std::set<std::string, std::less<>> names{std::string(kEspName), "esp", std::string(kOemName),
                                             std::string(kPersistentName), "sealift-unfinished"};
    std::size_t rest = config_.persistent_bytes == 0 ? 1 : 0;
    for (const ExtraPartition& extra : config_.extra) {
      if (!extra.name.empty() && !names.insert(extra.name).second)
        in_.Problem(root, "install.extra-partitions", fmt::format("the name '{}' is taken", extra.name));
      if (extra.label == kOemLabel || extra.label == kPersistentLabel)
        in_.Problem(root, "install.extra-partitions", fmt::format("the label '{}' is taken", extra.label));
      if (extra.bytes == 0) ++rest;
    }
    if (rest > 1)
      in_.Problem(root, "install.extra-partitions",
                  "only one partition can take what the others leave: give persistent or this one a size");
    for (const auto& [name, node] : encrypted_) MarkEncrypted(name, *node);
  }

  void MarkEncrypted(const std::string& name, const YamlNode& node) {
    if (name == kOemName || name == kPersistentName || name == kOemLabel || name == kPersistentLabel) return;
    for (ExtraPartition& extra : config_.extra) {
      if (extra.name == name || extra.label == name) {
        if (extra.file_system == "none")
          in_.Problem(node, "install.encrypted_partitions", fmt::format("'{}' needs a file system", name));
        extra.encrypted = true;
        return;
      }
    }
    in_.Problem(node, "install.encrypted_partitions", fmt::format("there is no partition '{}'", name));
  }

  Reader in_;
  InstallConfig config_;
  std::vector<std::pair<std::string, const YamlNode*>> encrypted_;
};

}  // namespace

Result<InstallConfig> ParseInstallConfig(std::string_view text) {
  SEALIFT_ASSIGN_OR_RETURN(const YamlNode root, ParseYaml(text));
  InstallReader reader;
  InstallConfig config = reader.Read(root);
  if (reader.problems().empty()) return config;
  return MakeError(Code::kInvalidArgument, Reason::kInstallConfigInvalid,
                   fmt::format("read install configuration: {}", fmt::join(reader.problems(), "; ")));
}

}  // namespace sealift
