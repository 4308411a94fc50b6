#include "node-agent/app/settings.h"

#include <fmt/format.h>

#include "node-agent/mirror/listen_address.h"
#include "node-agent/volume/unlock.h"
#include "shared/base/config.h"
#include "shared/base/files.h"
#include "shared/crypto/certificate.h"
#include "shared/crypto/public_key.h"
#include "shared/tuf/metadata.h"

namespace sealift::agent {
namespace {

constexpr std::uint64_t kMaxConfigBytes = 1u << 20;

// Words between blanks; no quoting, no shell.
std::vector<std::string> Words(std::string_view text) {
  std::vector<std::string> words;
  while (true) {
    const std::size_t start = text.find_first_not_of(" \t");
    if (start == std::string_view::npos) return words;
    text.remove_prefix(start);
    const std::size_t end = text.find_first_of(" \t");
    words.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return words;
    text.remove_prefix(end);
  }
}

std::string Address(ConfigReader& config, std::string_view path) {
  std::string address = config.RequiredString(path);
  const std::size_t colon = address.rfind(':');
  if (!address.empty() && (colon == std::string::npos || colon == 0 || colon + 1 == address.size())) {
    config.Problem(path, "must be host:port");
  }
  return address;
}

std::chrono::milliseconds Seconds(ConfigReader& config, std::string_view path, std::int64_t fallback,
                                  std::int64_t min, std::int64_t max) {
  return std::chrono::seconds(config.Integer(path, fallback, min, max));
}

void ReadController(ConfigReader& config, Settings& settings) {
  settings.controller.node = Address(config, "controller.address");
  settings.controller.enrolment = Address(config, "controller.enrolment_address");
  settings.controller.server_name = config.String("controller.server_name", "");
  settings.controller.ca_pem = config.RequiredString("controller.ca_pem");
  if (!settings.controller.ca_pem.empty()) {
    const auto chain = Certificate::ChainFromPem(settings.controller.ca_pem);
    if (!chain.ok()) config.Problem("controller.ca_pem", MessageOf(chain.status()));
  }
}

void ReadTrust(ConfigReader& config, Settings& settings) {
  settings.tuf_root_json = config.RequiredString("tuf.root_json");
  if (!settings.tuf_root_json.empty()) {
    const auto envelope = tuf::ParseEnvelope(settings.tuf_root_json, tuf::kMaxRootBytes);
    const Status root = envelope.ok() ? tuf::ParseRoot(*envelope).status() : envelope.status();
    if (!root.ok()) config.Problem("tuf.root_json", MessageOf(root));
  }
  settings.escrow_public_pem = config.String("escrow.public_pem", "");
  if (!settings.escrow_public_pem.empty()) {
    const auto key = PublicKey::FromPem(settings.escrow_public_pem);
    if (!key.ok()) config.Problem("escrow.public_pem", MessageOf(key.status()));
    // Recovery keys are encrypted to it.
    if (key.ok() && key->type() != KeyType::kRsa) config.Problem("escrow.public_pem", "must be an RSA key");
  }
  settings.orders_root_pem = config.String("orders.root_pem", "");
  if (!settings.orders_root_pem.empty()) {
    const auto key = PublicKey::FromPem(settings.orders_root_pem);
    if (!key.ok()) config.Problem("orders.root_pem", MessageOf(key.status()));
  }
}

void ReadVolumes(ConfigReader& config, Settings& settings) {
  const std::string encryption = config.String("volumes.encryption", "required");
  if (encryption != "required" && encryption != "off")
    config.Problem("volumes.encryption", "must be required or off");
  settings.volumes_encrypted = encryption != "off";
  settings.volumes_bind_secure_boot = config.Boolean("volumes.bind_secure_boot", true);
  settings.volumes_console_reset = config.Boolean("volumes.console_reset", false);
  settings.escrow_oaep = config.String("escrow.oaep", "sha1");
  if (const auto oaep = escrow::ParseOaepHash(settings.escrow_oaep); !oaep.ok())
    config.Problem("escrow.oaep", "must be sha1 or sha256");
  settings.install_keys = config.Strings("install.keys");
  for (const std::string& pem : settings.install_keys) {
    const auto key = PublicKey::FromPem(pem);
    if (!key.ok()) config.Problem("install.keys", MessageOf(key.status()));
  }
}

void ReadMirrors(ConfigReader& config, Settings& settings) {
  for (const std::string& text : config.Strings("update.mirrors")) {
    auto url = ParseHttpUrl(text);
    if (!url.ok()) config.Problem("update.mirrors", MessageOf(url.status()));
    if (!url.ok()) continue;
    while (url->path.size() > 1 && url->path.ends_with('/')) url->path.pop_back();
    settings.mirrors.mirrors.push_back(*std::move(url));
  }
  settings.mirrors.ca_file = config.String("update.mirror_ca_file", "");
  settings.mirrors.connections =
      static_cast<std::uint32_t>(config.Integer("update.mirror_connections", 4, 1, 16));
  settings.mirrors.minimum_rate =
      static_cast<std::uint64_t>(config.Integer("update.minimum_rate", 1024, 1, 1 << 30));
  settings.mirrors.maximum_rate =
      static_cast<std::uint64_t>(config.Integer("update.maximum_rate", 0, 0, std::int64_t{1} << 40));
  if (settings.mirrors.maximum_rate != 0 && settings.mirrors.maximum_rate < 2 * settings.mirrors.minimum_rate)
    config.Problem("update.maximum_rate", "must be 0 or at least twice update.minimum_rate");
}

// An IP address and an unprivileged port, or nothing.
std::string ShareAddress(ConfigReader& config, const char* path) {
  const std::string text = config.String(path, "");
  if (text.empty()) return text;
  const Result<Endpoint> endpoint = ParseEndpoint(text);
  if (!endpoint.ok() || PortOf(*endpoint) < 1024)
    config.Problem(path, "must be an IP address with a port from 1024 on");
  return text;
}

// Several neighbours at once, each faster than the rate below which they would leave.
constexpr std::int64_t kLeastShareRate = 1 << 20;

void ReadShare(ConfigReader& config, Settings& settings) {
  settings.share.listen = ShareAddress(config, "share.listen");
  settings.share.address = ShareAddress(config, "share.address");
  settings.share.max_connections =
      static_cast<std::size_t>(config.Integer("share.max_connections", 8, 1, 64));
  const std::int64_t rate = config.Integer("share.maximum_rate", 0, 0, std::int64_t{1} << 40);
  if (rate != 0 && rate < kLeastShareRate)
    config.Problem("share.maximum_rate", "must be 0 or at least 1048576");
  settings.share.maximum_rate = static_cast<std::uint64_t>(rate);
  settings.share.keep_bytes = static_cast<std::uint64_t>(config.Integer("share.keep_mb", 512, 1, 1 << 20))
                              << 20;
  settings.share_patience = Seconds(config, "share.patience_s", 1800, 1, 86'400);
}

void ReadUpdate(ConfigReader& config, Settings& settings) {
  settings.channel = config.String("update.channel", "stable");
  settings.hardware_class = config.String("update.hardware_class", "generic-x86_64");
  settings.boot_tries = static_cast<std::uint32_t>(config.Integer("update.boot_tries", 3, 1, 9));
  settings.max_attempts = static_cast<std::uint32_t>(config.Integer("update.max_attempts", 3, 1, 100));
  settings.recovery_after = static_cast<std::uint32_t>(config.Integer("update.recovery_after", 3, 0, 1000));
  settings.retry_after = Seconds(config, "update.retry_after_s", 15, 1, 3600);
  settings.health_deadline = Seconds(config, "update.health_deadline_s", 600, 1, 24 * 3600);
  settings.assess_offline_after = Seconds(config, "update.assess_offline_after_s", 3600, 1, 30 * 24 * 3600);
  settings.reboot_command = Words(config.String("update.reboot_command", "systemctl reboot"));
  if (settings.reboot_command.empty()) config.Problem("update.reboot_command", "must name a program");
  ReadMirrors(config, settings);
  ReadShare(config, settings);
}

void ReadHealth(ConfigReader& config, HealthSettings& health) {
  health.boot_complete = config.Boolean("health.boot_complete", true);
  health.failed_units = config.Boolean("health.failed_units", true);
  health.phase = config.Boolean("health.phase", true);
  health.volumes = config.Boolean("health.volumes", true);
  health.units = config.Strings("health.units");
  for (const std::string& command : config.Strings("health.commands")) {
    health.commands.push_back(Words(command));
    if (health.commands.back().empty()) config.Problem("health.commands", "must name programs");
  }
  for (const std::string& url : config.Strings("health.http")) {
    auto target = ParseHttpTarget(url);
    if (!target.ok()) config.Problem("health.http", MessageOf(target.status()));
    if (target.ok()) health.http.push_back(*std::move(target));
  }
  health.timeout = Seconds(config, "health.timeout_s", 30, 1, 600);
}

std::filesystem::path AbsolutePath(ConfigReader& config, std::string_view key, std::string_view fallback) {
  std::filesystem::path path = config.String(key, fallback);
  if (!path.is_absolute()) config.Problem(key, "must be an absolute path");
  return path;
}

void ReadPlaces(ConfigReader& config, Settings& settings) {
  settings.esp = AbsolutePath(config, "esp.path", "/efi");
  settings.efivars = AbsolutePath(config, "esp.efivars", "/sys/firmware/efi/efivars");
  settings.state = AbsolutePath(config, "state.path", "/usr/local/.state/sealift");
  settings.state_mount = AbsolutePath(config, "state.mount", "/usr/local");
  settings.runtime = AbsolutePath(config, "state.runtime", "/run/sealift");
  settings.tcti = config.String("tpm.tcti", "device:/dev/tpmrm0");
  settings.event_log = AbsolutePath(config, "tpm.event_log", kEventLogPath);
  settings.os_release = AbsolutePath(config, "node.os_release", "/etc/os-release");
  settings.build_time = AbsolutePath(config, "node.build_time", "/usr/lib/sealift/built");
  settings.epoch = AbsolutePath(config, "node.epoch", kEpochFile);
  settings.dmi = AbsolutePath(config, "node.dmi", "/sys/class/dmi/id");
  settings.boot_id = AbsolutePath(config, "node.boot_id", "/proc/sys/kernel/random/boot_id");
}

}  // namespace

Result<Settings> ParseSettings(std::string_view text, std::string_view source) {
  ConfigReader config = ConfigReader::Parse(text, source);
  Settings settings;
  ReadController(config, settings);
  ReadTrust(config, settings);
  settings.labels = config.StringMap("node.labels");
  ReadVolumes(config, settings);
  ReadUpdate(config, settings);
  ReadHealth(config, settings.health);
  ReadPlaces(config, settings);
  SEALIFT_RETURN_IF_ERROR(config.Finish());
  return settings;
}

Result<Settings> LoadSettings(const std::filesystem::path& path) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxConfigBytes));
  return ParseSettings(text, path.string());
}

}  // namespace sealift::agent
