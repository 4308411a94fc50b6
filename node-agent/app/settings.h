// /usr/lib/sealift/node.toml: what an image says to its agent. Measured with the image; holds no secret.
//
// docs/node-config.md lists every key with default and unit. An immutable value once parsed.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "node-agent/health/http_probe.h"
#include "node-agent/link/controller_link.h"
#include "node-agent/mirror/mirror_source.h"
#include "node-agent/mirror/share_server.h"
#include "shared/base/status.h"

namespace sealift::agent {

// What a boot is asked before it counts as well.
struct HealthSettings {
  bool boot_complete = true;
  bool failed_units = true;
  bool phase = true;
  bool volumes = true;
  std::vector<std::string> units;
  // Argument vectors.
  std::vector<std::vector<std::string>> commands;
  std::vector<HttpTarget> http;
  // Of each question.
  std::chrono::milliseconds timeout{};
};

inline constexpr std::string_view kDefaultConfigPath = "/usr/lib/sealift/node.toml";

struct Settings {
  ControllerAddress controller;
  // TUF root metadata that everything is proven from.
  std::string tuf_root_json;
  // Public key that recovery keys are encrypted to; empty where nothing is escrowed.
  std::string escrow_public_pem;
  // Of the escrow key's OAEP: "sha1" or "sha256".
  std::string escrow_oaep;
  // Whose delegation this machine believes when it is given orders; empty: it takes none.
  std::string orders_root_pem;
  std::map<std::string, std::string> labels;
  // Public keys (PEM) that may sign an install configuration on a medium.
  std::vector<std::string> install_keys;

  // oem and persistent are encrypted and prove themselves, or stay closed.
  bool volumes_encrypted = true;
  // Volumes are bound to PCR 7, too.
  bool volumes_bind_secure_boot = true;
  // Whoever stands at the machine may make `persistent` anew.
  bool volumes_console_reset = false;

  std::string channel;
  std::string hardware_class;
  std::uint32_t boot_tries = 3;
  std::uint32_t max_attempts = 3;
  std::uint32_t recovery_after = 3;
  std::chrono::milliseconds retry_after{};
  std::chrono::milliseconds health_deadline{};
  std::chrono::milliseconds assess_offline_after{};
  // From where content comes before the controller is asked.
  MirrorOptions mirrors;
  // Off where it listens nowhere; otherwise neighbours are asked, too.
  ShareOptions share;
  // How long neighbours that fetch are waited for.
  std::chrono::milliseconds share_patience{};
  // Argument vector.
  std::vector<std::string> reboot_command;

  HealthSettings health;

  std::filesystem::path esp;
  std::filesystem::path efivars;
  std::filesystem::path state;
  // The file system that `state` must lie on; refused when it is the one the OS itself lies on.
  std::filesystem::path state_mount;
  std::filesystem::path runtime;
  std::string tcti;
  std::filesystem::path event_log;
  std::filesystem::path os_release;
  std::filesystem::path build_time;
  std::filesystem::path boot_id;
  std::filesystem::path epoch;
  std::filesystem::path dmi;
};

// Errors: INVALID_ARGUMENT/CONFIG_INVALID naming every problem.
Result<Settings> ParseSettings(std::string_view text, std::string_view source);
// Errors also: those of ReadTextFile.
Result<Settings> LoadSettings(const std::filesystem::path& path);

}  // namespace sealift::agent
