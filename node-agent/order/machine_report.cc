#include "node-agent/order/machine_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "node-agent/volume/unlock.h"
#include "shared/base/files.h"
#include "shared/base/foreign_text.h"
#include "shared/base/ids.h"
#include "shared/base/log.h"

namespace sealift::agent {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxStateBytes = 1u << 20;
constexpr std::size_t kMaxVolumes = 16;
constexpr std::size_t kMaxTextBytes = 64;
constexpr std::size_t kMaxMessageBytes = 512;

// Absent or of another kind: nothing.
json ReadObject(const std::filesystem::path& file) {
  const auto text = ReadTextFile(file, kMaxStateBytes);
  if (!text.ok()) return json::object();
  json value = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  return value.is_object() ? value : json::object();
}

std::string Text(const json& object, const char* key, std::size_t max_bytes) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) return {};
  return Shorten(found->get_ref<const std::string&>(), max_bytes);
}

bool IsTrue(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() && found->get<bool>();
}

bool DoesWithoutPcr7(const json& volume) {
  const auto bindings = volume.find("bindings");
  return bindings != volume.end() && bindings->is_array() &&
         std::ranges::any_of(*bindings, [](const json& binding) {
           return binding.is_object() && Text(binding, "secure_boot", kMaxTextBytes).empty();
         });
}

VolumeState StateFor(const std::string& reason) {
  if (reason == ReasonId(Reason::kVolumeLocked)) return VolumeState::kLocked;
  if (reason == ReasonId(Reason::kVolumeMissing)) return VolumeState::kMissing;
  return VolumeState::kRefused;
}

}  // namespace

std::vector<VolumeReport> ReadVolumeReports(const std::filesystem::path& runtime) {
  const json state = ReadObject(runtime / kVolumesStateName);
  std::vector<VolumeReport> reports;
  const auto volumes = state.find("volumes");
  if (volumes != state.end() && volumes->is_array()) {
    for (const json& volume : *volumes) {
      if (!volume.is_object() || reports.size() >= kMaxVolumes) continue;
      VolumeReport report{.name = Text(volume, "name", kMaxTextBytes),
                          .luks_uuid = Text(volume, "luks_uuid", kMaxTextBytes),
                          .reason = Text(volume, "reason", kMaxTextBytes),
                          .message = Text(volume, "message", kMaxMessageBytes),
                          .without_pcr7 = DoesWithoutPcr7(volume)};
      // One that opened and was not mounted is of no use to anybody: it has a reason.
      report.state = !report.reason.empty()        ? StateFor(report.reason)
                     : IsTrue(volume, "open")      ? VolumeState::kOpen
                     : IsTrue(volume, "recovered") ? VolumeState::kRecovered
                                                   : StateFor(report.reason);
      reports.push_back(std::move(report));
    }
  }
  const auto missing = state.find("missing");
  if (missing == state.end() || !missing->is_object()) return reports;
  for (const auto& [name, why] : missing->items()) {
    const bool told = std::ranges::find(reports, name, &VolumeReport::name) != reports.end();
    if (told || reports.size() >= kMaxVolumes || !why.is_string()) continue;
    reports.push_back({.name = Shorten(name, kMaxTextBytes),
                       .state = VolumeState::kMissing,
                       .reason = std::string(ReasonId(Reason::kVolumeMissing)),
                       .message = Shorten(why.get_ref<const std::string&>(), kMaxMessageBytes)});
  }
  return reports;
}

std::optional<InstallRecord> ReadInstallRecord(const std::filesystem::path& file) {
  const json record = ReadObject(file);
  const auto digest = Sha256Digest::FromHex(Text(record, "config_digest", kMaxTextBytes));
  if (!digest.ok()) return std::nullopt;
  InstallRecord out{.config_digest = *digest,
                    .config_source = Text(record, "config_source", kMaxMessageBytes),
                    .version = Text(record, "version", kMaxTextBytes)};
  if (!out.version.empty() && !IsValidVersion(out.version)) return std::nullopt;
  if (const auto at = record.find("installed"); at != record.end() && at->is_number_integer()) {
    out.installed = FromUnixMs(at->get<std::int64_t>());
  } else if (const auto text = ParseRfc3339(Text(record, "installed", kMaxTextBytes)); text.ok()) {
    out.installed = *text;
  }
  return out;
}

}  // namespace sealift::agent
