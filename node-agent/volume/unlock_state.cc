#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "node-agent/volume/unlock.h"
#include "shared/base/files.h"
#include "shared/base/json_member.h"

namespace sealift::agent {
namespace {

using nlohmann::ordered_json;

constexpr std::uint64_t kMaxStateBytes = 1u << 20;
constexpr std::uint64_t kMaxSignatureBytes = 256u << 10;
constexpr std::size_t kMaxPolicyKeys = 8;
constexpr std::string_view kSignatureName = "tpm2-pcr-signature.json";
constexpr std::string_view kPolicyKeyName = "tpm2-pcr-public-key.pem";

Status Unusable(std::string_view why) {
  return MakeError(Code::kFailedPrecondition, Reason::kEpochUnusable,
                   "read what the early boot left: " + std::string(why));
}

Result<ordered_json> ReadState(const std::filesystem::path& file) {
  const Result<std::string> text = ReadTextFile(file, kMaxStateBytes);
  if (!text.ok()) return Unusable(MessageOf(text.status()));
  ordered_json json = ordered_json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Unusable(file.string() + " is no JSON object");
  return json;
}

// By the TPM, in this boot.
bool IsOpen(const ordered_json& volume) {
  if (!volume.is_object()) return false;
  const auto open = volume.find("open");
  return open != volume.end() && open->is_boolean() && open->get<bool>();
}

Result<VolumeBound> ReadBinding(const ordered_json& binding) {
  if (!binding.is_object() || !binding.contains("signed_pcrs") || !binding["signed_pcrs"].is_array())
    return Unusable("a binding names no registers");
  const Result<Bytes> der = Base64Decode(TextMember(binding, "policy_key"));
  if (!der.ok()) return Unusable("a binding names no key");
  SEALIFT_ASSIGN_OR_RETURN(PublicKey key, PublicKey::FromDer(*der));
  VolumeBound bound{.policy_key = std::move(key), .signed_pcrs = {}, .secure_boot = std::nullopt};
  for (const ordered_json& pcr : binding["signed_pcrs"]) {
    if (!pcr.is_number_unsigned()) return Unusable("a binding names no registers");
    bound.signed_pcrs.push_back(pcr.get<std::uint32_t>());
  }
  if (const std::string hex = TextMember(binding, "secure_boot"); !hex.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(bound.secure_boot, Sha256Digest::FromHex(hex));
  }
  return bound;
}

// PEM keys one after the other; none where there is no such file.
Result<std::vector<PublicKey>> ReadPolicyKeys(const std::filesystem::path& file) {
  std::vector<PublicKey> keys;
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return keys;
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file, kMaxSignatureBytes));
  constexpr std::string_view kEnd = "-----END PUBLIC KEY-----";
  std::string_view rest = text;
  while (keys.size() < kMaxPolicyKeys) {
    const std::size_t end = rest.find(kEnd);
    if (end == std::string_view::npos) break;
    SEALIFT_ASSIGN_OR_RETURN(PublicKey key, PublicKey::FromPem(rest.substr(0, end + kEnd.size())));
    keys.push_back(std::move(key));
    rest.remove_prefix(end + kEnd.size());
  }
  return keys;
}

// Names and messages come from headers and tools: bytes that are no UTF-8 must not end the early boot.
Status Write(const std::filesystem::path& file, const ordered_json& json) {
  return WriteFileAtomically(
      file, AsBytes(json.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n"));
}

ordered_json VolumeJson(const VolumeOutcome& one) {
  ordered_json volume{{"name", one.name},
                      {"device", one.device.string()},
                      {"luks_uuid", one.luks_uuid},
                      {"open", one.status.ok() && !one.recovered}};
  if (one.recovered) volume["recovered"] = true;
  if (const Status& why = one.status.ok() ? one.mount : one.status; !why.ok()) {
    volume["reason"] = ReasonIdOf(why);
    volume["message"] = MessageOf(why);
  }
  volume["slot"] = one.slot;
  ordered_json bindings = ordered_json::array();
  for (const VolumeBound& bound : one.bindings) {
    ordered_json binding{{"policy_key", Base64Encode(bound.policy_key.spki_der())},
                         {"signed_pcrs", bound.signed_pcrs}};
    if (bound.secure_boot.has_value()) binding["secure_boot"] = bound.secure_boot->hex();
    bindings.push_back(std::move(binding));
  }
  volume["bindings"] = std::move(bindings);
  ordered_json recoveries = ordered_json::array();
  for (const escrow::EscrowedKey& key : one.recoveries)
    recoveries.push_back(ordered_json::parse(escrow::Format(key)));
  volume["recovery_keys"] = std::move(recoveries);
  return volume;
}

}  // namespace

Status WriteUnlockState(const std::filesystem::path& runtime, const UnlockReport& report) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(runtime));
  ordered_json volumes = ordered_json::array();
  for (const VolumeOutcome& one : report.volumes) volumes.push_back(VolumeJson(one));
  ordered_json missing = ordered_json::object();
  for (const auto& [name, status] : report.missing) missing[name] = Describe(status);
  SEALIFT_RETURN_IF_ERROR(
      Write(runtime / kVolumesStateName,
            {{"volumes", std::move(volumes)}, {"missing", std::move(missing)}, {"reset", report.reset}}));
  // Without an open volume there is no base to speak of.
  if (report.counter == 0) return OkStatus();
  return Write(runtime / kEpochStateName, {{"base", report.epoch_base},
                                           {"value", report.counter},
                                           {"epoch", report.epoch},
                                           {"image", report.image_epoch}});
}

Status AddUnlockState(const std::filesystem::path& runtime, const UnlockReport& report) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(runtime));
  Result<ordered_json> before = ReadState(runtime / kVolumesStateName);
  ordered_json state = before.ok() ? *std::move(before) : ordered_json::object();
  if (!state["volumes"].is_array()) state["volumes"] = ordered_json::array();
  if (!state["missing"].is_object()) state["missing"] = ordered_json::object();
  ordered_json volumes = ordered_json::array();
  for (const ordered_json& one : state["volumes"]) {
    const bool again = std::ranges::any_of(report.volumes, [&](const VolumeOutcome& now) {
      return one.is_object() && TextMember(one, "device") == now.device.string();
    });
    if (!again) volumes.push_back(one);
  }
  for (const VolumeOutcome& one : report.volumes) {
    volumes.push_back(VolumeJson(one));
    if (one.status.ok() && one.mount.ok()) state["missing"].erase(one.name);
  }
  for (const auto& [name, status] : report.missing) state["missing"][name] = Describe(status);
  state["volumes"] = std::move(volumes);
  return Write(runtime / kVolumesStateName, state);
}

Result<EpochState> ReadEpochState(const std::filesystem::path& runtime) {
  SEALIFT_ASSIGN_OR_RETURN(const ordered_json json, ReadState(runtime / kEpochStateName));
  EpochState state;
  const std::pair<const char*, std::uint64_t*> members[] = {
      {"base", &state.base}, {"value", &state.counter}, {"epoch", &state.epoch}, {"image", &state.image}};
  for (const auto& [name, to] : members) {
    const auto found = json.find(name);
    if (found == json.end() || !found->is_number_unsigned()) return Unusable("a number is missing");
    *to = found->get<std::uint64_t>();
  }
  return state;
}

Result<std::vector<OpenVolume>> ReadOpenVolumes(const std::filesystem::path& runtime) {
  SEALIFT_ASSIGN_OR_RETURN(const ordered_json json, ReadState(runtime / kVolumesStateName));
  std::vector<OpenVolume> volumes;
  const auto listed = json.find("volumes");
  if (listed == json.end() || !listed->is_array()) return Unusable("it lists no volumes");
  for (const ordered_json& one : *listed) {
    if (!IsOpen(one)) continue;
    OpenVolume volume{.device = TextMember(one, "device"), .header = {}};
    volume.header.name = TextMember(one, "name");
    volume.header.luks_uuid = TextMember(one, "luks_uuid");
    const auto slot = one.find("slot");
    const auto bindings = one.find("bindings");
    if (slot == one.end() || !slot->is_number_unsigned() || bindings == one.end() || !bindings->is_array())
      return Unusable("a volume lists no bindings");
    volume.slot = slot->get<std::uint32_t>();
    for (const ordered_json& binding : *bindings) {
      SEALIFT_ASSIGN_OR_RETURN(VolumeBound bound, ReadBinding(binding));
      volume.header.bindings.push_back(std::move(bound));
    }
    volumes.push_back(std::move(volume));
  }
  return volumes;
}

Result<std::vector<escrow::EscrowedKey>> ReadEscrowedKeys(const std::filesystem::path& runtime) {
  SEALIFT_ASSIGN_OR_RETURN(const ordered_json json, ReadState(runtime / kVolumesStateName));
  std::vector<escrow::EscrowedKey> keys;
  const auto volumes = json.find("volumes");
  if (volumes == json.end() || !volumes->is_array()) return Unusable("it lists no volumes");
  for (const ordered_json& volume : *volumes) {
    if (!IsOpen(volume)) continue;
    if (!volume.contains("recovery_keys") || !volume["recovery_keys"].is_array())
      return Unusable("a volume lists no recovery keys");
    for (const ordered_json& key : volume["recovery_keys"]) {
      SEALIFT_ASSIGN_OR_RETURN(
          escrow::EscrowedKey parsed,
          escrow::Parse(key.dump(-1, ' ', false, ordered_json::error_handler_t::replace)));
      keys.push_back(std::move(parsed));
    }
  }
  return keys;
}

Result<std::uint64_t> ReadImageEpoch(const std::filesystem::path& file) {
  const Result<std::string> text = ReadTextFile(file, 64);
  if (!text.ok())
    return MakeError(Code::kFailedPrecondition, Reason::kEpochUnusable,
                     "read the image's epoch: " + MessageOf(text.status()));
  std::string_view digits = *text;
  if (digits.ends_with('\n')) digits.remove_suffix(1);
  std::uint64_t epoch = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), epoch);
  if (error != std::errc() || end != digits.data() + digits.size() || digits.empty())
    return MakeError(Code::kFailedPrecondition, Reason::kEpochUnusable,
                     "read the image's epoch: " + file.string() + " holds no number");
  return epoch;
}

Result<RunningImage> ReadRunningImage(bool bind_secure_boot, const std::filesystem::path& extra,
                                      const std::filesystem::path& keys) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string signatures,
                           ReadTextFile(extra / kSignatureName, kMaxSignatureBytes));
  SEALIFT_ASSIGN_OR_RETURN(const std::string key, ReadTextFile(extra / kPolicyKeyName, kMaxSignatureBytes));
  SEALIFT_ASSIGN_OR_RETURN(uki::PcrSignatures parsed, uki::ParsePcrSignatures(signatures));
  SEALIFT_ASSIGN_OR_RETURN(PublicKey policy_key, PublicKey::FromPem(key));
  SEALIFT_ASSIGN_OR_RETURN(std::vector<PublicKey> accepted, ReadPolicyKeys(keys));
  return RunningImage{.signatures = std::move(parsed),
                      .policy_key = std::move(policy_key),
                      .bind_secure_boot = bind_secure_boot,
                      .accepted_keys = std::move(accepted)};
}

}  // namespace sealift::agent
