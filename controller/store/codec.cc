#include "controller/store/codec.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace sealift::controller {
namespace {

using nlohmann::json;

// Text from nodes may hold any bytes; JSON may not.
std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

json DigestJson(const std::optional<Sha256Digest>& digest) {
  return digest ? json(digest->hex()) : json(nullptr);
}

// nlohmann reports wrong types by exception; this is the one place of the store where one may come up.
template <typename T, typename Function>
Result<T> Decode(const std::string& text, std::string_view what, Function function) {
  try {
    return function(json::parse(text));
  } catch (const json::exception& error) {
    return MakeError(Code::kDataLoss, Reason::kStoreFailed,
                     fmt::format("read stored {}: {}", what, error.what()));
  }
}

// A digest that does not parse is as damaged as a wrong type.
Sha256Digest DigestFrom(const json& value) {
  auto digest = Sha256Digest::FromHex(value.get<std::string>());
  if (!digest.ok()) throw json::other_error::create(501, "not a digest", &value);
  return *digest;
}

std::optional<Sha256Digest> OptionalDigest(const json& value) {
  if (value.is_null()) return std::nullopt;
  return DigestFrom(value);
}

json FindingJson(const PcrFinding& finding) {
  json expected = json::array();
  for (const Sha256Digest& digest : finding.expected) expected.push_back(digest.hex());
  return {{"pcr", finding.pcr},
          {"outcome", finding.outcome},
          {"expected", expected},
          {"found", DigestJson(finding.found)},
          {"first_difference", finding.first_difference}};
}

PcrFinding FindingFrom(const json& value) {
  PcrFinding finding;
  finding.pcr = value.at("pcr").get<std::uint32_t>();
  finding.outcome = value.at("outcome").get<std::string>();
  for (const json& digest : value.at("expected")) finding.expected.push_back(DigestFrom(digest));
  finding.found = OptionalDigest(value.at("found"));
  finding.first_difference = value.at("first_difference").get<std::string>();
  return finding;
}

json FailureJson(const VersionFailure& failure) {
  return {{"version", failure.version},
          {"reason", failure.reason},
          {"message", failure.message},
          {"at", ToUnixMs(failure.at)}};
}

VersionFailure FailureFrom(const json& value) {
  return {.version = value.at("version").get<std::string>(),
          .reason = value.at("reason").get<std::string>(),
          .message = value.at("message").get<std::string>(),
          .at = FromUnixMs(value.at("at").get<std::int64_t>())};
}

json EpochJson(const EpochStatus& epoch) {
  return {{"lowest", epoch.lowest},
          {"base", epoch.base},
          {"image", epoch.image},
          {"passive", epoch.passive},
          {"recovery", epoch.recovery}};
}

EpochStatus EpochFrom(const json& value) {
  return {.lowest = value.at("lowest").get<std::uint64_t>(),
          .base = value.at("base").get<std::uint64_t>(),
          .image = value.at("image").get<std::uint64_t>(),
          .passive = value.at("passive").get<std::uint64_t>(),
          .recovery = value.at("recovery").get<std::uint64_t>()};
}

json VolumeJson(const VolumeStatus& volume) {
  return {{"name", volume.name},       {"state", static_cast<int>(volume.state)},
          {"uuid", volume.luks_uuid},  {"reason", volume.reason},
          {"message", volume.message}, {"without_pcr7", volume.without_pcr7}};
}

VolumeStatus VolumeFrom(const json& value) {
  return {.name = value.at("name").get<std::string>(),
          .state = static_cast<VolumeState>(value.at("state").get<int>()),
          .luks_uuid = value.at("uuid").get<std::string>(),
          .reason = value.at("reason").get<std::string>(),
          .message = value.at("message").get<std::string>(),
          .without_pcr7 = value.at("without_pcr7").get<bool>()};
}

Bytes BytesFrom(const json& value) {
  auto bytes = HexDecode(value.get<std::string>());
  if (!bytes.ok()) throw json::other_error::create(501, "not hex", &value);
  return *std::move(bytes);
}

json ClockJson(const std::optional<QuoteClock>& clock) {
  if (!clock) return nullptr;
  return {{"clock", clock->clock_ms},
          {"resets", clock->reset_count},
          {"restarts", clock->restart_count},
          {"firmware", clock->firmware_version}};
}

std::optional<QuoteClock> ClockFrom(const json& value) {
  if (value.is_null()) return std::nullopt;
  return QuoteClock{.clock_ms = value.at("clock").get<std::uint64_t>(),
                    .reset_count = value.at("resets").get<std::uint32_t>(),
                    .restart_count = value.at("restarts").get<std::uint32_t>(),
                    .firmware_version = value.at("firmware").get<std::uint64_t>()};
}

}  // namespace

std::string EncodeLabels(const std::map<std::string, std::string>& labels) { return Dump(json(labels)); }

std::string EncodeStatus(const NodeStatus& status) {
  json failures = json::array();
  for (const VersionFailure& failure : status.failures) failures.push_back(FailureJson(failure));
  json findings = json::array();
  for (const NodeFinding& finding : status.findings)
    findings.push_back({{"reason", finding.reason}, {"message", finding.message}});
  json volumes = json::array();
  for (const VolumeStatus& volume : status.volumes) volumes.push_back(VolumeJson(volume));
  return Dump({{"order_nonce", HexEncode(status.order_nonce)},
               {"epoch", status.epoch ? EpochJson(*status.epoch) : json(nullptr)},
               {"volumes", volumes},
               {"fetch", status.fetch ? json{{"fetched", status.fetch->fetched}, {"size", status.fetch->size}}
                                      : json(nullptr)},
               {"state", static_cast<int>(status.state)},
               {"version", status.running.version},
               {"image", DigestJson(status.running.image_digest)},
               {"role", status.running.role},
               {"boot", status.running.boot_id},
               {"staged", status.staged_version},
               {"failures", failures},
               {"healthy", status.healthy},
               {"agent", status.agent_version},
               {"findings", findings}});
}

std::string EncodeVerdict(const Verdict& verdict) {
  json findings = json::array();
  for (const PcrFinding& finding : verdict.findings) findings.push_back(FindingJson(finding));
  return Dump({{"trust", static_cast<int>(verdict.trust)},
               {"reasons", verdict.reasons},
               {"findings", findings},
               {"version", verdict.release_version},
               {"release", verdict.release_id ? json(verdict.release_id->hex()) : json(nullptr)},
               {"decided", ToUnixMs(verdict.decided)},
               {"degraded", verdict.degraded_boot},
               {"boot", verdict.boot_id},
               {"notes", verdict.notes},
               {"clock", ClockJson(verdict.clock)}});
}

std::string EncodeEvidenceContext(const EvidenceRecord& record) {
  json pcrs = json::object();
  for (const auto& [pcr, value] : record.pcrs) pcrs[std::to_string(pcr)] = value.hex();
  return Dump({{"nonce", HexEncode(record.nonce)},
               {"ak", HexEncode(record.ak_public)},
               {"pcrs", std::move(pcrs)},
               {"any_phase", record.any_phase},
               {"before", ClockJson(record.before)}});
}

Status DecodeEvidenceContext(const std::string& text, EvidenceRecord& record) {
  return Decode<bool>(text, "evidence",
                      [&record](const json& value) {
                        record.nonce = BytesFrom(value.at("nonce"));
                        record.ak_public = BytesFrom(value.at("ak"));
                        for (const auto& [pcr, digest] : value.at("pcrs").items()) {
                          record.pcrs[static_cast<std::uint32_t>(std::stoul(pcr))] = DigestFrom(digest);
                        }
                        record.any_phase = value.at("any_phase").get<bool>();
                        record.before = ClockFrom(value.at("before"));
                        return true;
                      })
      .status();
}

Result<std::map<std::string, std::string>> DecodeLabels(const std::string& text) {
  using Labels = std::map<std::string, std::string>;
  return Decode<Labels>(text, "labels", [](const json& value) { return value.get<Labels>(); });
}

Result<NodeStatus> DecodeStatus(const std::string& text) {
  return Decode<NodeStatus>(text, "node status", [](const json& value) {
    NodeStatus status;
    status.state = static_cast<UpdateState>(value.at("state").get<int>());
    status.running = {.version = value.at("version").get<std::string>(),
                      .image_digest = OptionalDigest(value.at("image")),
                      .role = value.at("role").get<std::string>(),
                      .boot_id = value.at("boot").get<std::string>()};
    status.staged_version = value.at("staged").get<std::string>();
    for (const json& failure : value.at("failures")) status.failures.push_back(FailureFrom(failure));
    status.healthy = value.at("healthy").get<bool>();
    status.agent_version = value.at("agent").get<std::string>();
    // Absent in rows of earlier versions.
    for (const json& finding : value.value("findings", json::array())) {
      status.findings.push_back({.reason = finding.at("reason").get<std::string>(),
                                 .message = finding.at("message").get<std::string>()});
    }
    status.order_nonce = BytesFrom(value.value("order_nonce", json("")));
    if (const json epoch = value.value("epoch", json(nullptr)); !epoch.is_null())
      status.epoch = EpochFrom(epoch);
    for (const json& volume : value.value("volumes", json::array()))
      status.volumes.push_back(VolumeFrom(volume));
    if (const json fetch = value.value("fetch", json(nullptr)); !fetch.is_null()) {
      status.fetch = FetchStatus{.fetched = fetch.at("fetched").get<std::uint64_t>(),
                                 .size = fetch.at("size").get<std::uint64_t>()};
    }
    return status;
  });
}

std::string EncodeInstall(const InstallRecord& install) {
  return Dump({{"config", install.config_digest.hex()},
               {"source", install.config_source},
               {"version", install.version},
               {"installed", ToUnixMs(install.installed)}});
}

Result<InstallRecord> DecodeInstall(const std::string& text) {
  return Decode<InstallRecord>(text, "install record", [](const json& value) {
    return InstallRecord{.config_digest = DigestFrom(value.at("config")),
                         .config_source = value.at("source").get<std::string>(),
                         .version = value.at("version").get<std::string>(),
                         .installed = FromUnixMs(value.at("installed").get<std::int64_t>())};
  });
}

std::string EncodeOutcome(const OrderOutcome& outcome) {
  return Dump({{"request", outcome.request_digest.hex()},
               {"state", static_cast<int>(outcome.state)},
               {"reason", outcome.reason},
               {"message", outcome.message},
               {"at", ToUnixMs(outcome.at)}});
}

Result<OrderOutcome> DecodeOutcome(const std::string& text) {
  return Decode<OrderOutcome>(text, "outcome of an order", [](const json& value) {
    return OrderOutcome{.request_digest = DigestFrom(value.at("request")),
                        .state = static_cast<OutcomeState>(value.at("state").get<int>()),
                        .reason = value.at("reason").get<std::string>(),
                        .message = value.at("message").get<std::string>(),
                        .at = FromUnixMs(value.at("at").get<std::int64_t>())};
  });
}

Result<Verdict> DecodeVerdict(const std::string& text) {
  return Decode<Verdict>(text, "verdict", [](const json& value) {
    Verdict verdict;
    verdict.trust = static_cast<Trust>(value.at("trust").get<int>());
    verdict.reasons = value.at("reasons").get<std::vector<std::string>>();
    for (const json& finding : value.at("findings")) verdict.findings.push_back(FindingFrom(finding));
    verdict.release_version = value.at("version").get<std::string>();
    if (const auto release = OptionalDigest(value.at("release"))) verdict.release_id = ReleaseId{*release};
    verdict.decided = FromUnixMs(value.at("decided").get<std::int64_t>());
    verdict.degraded_boot = value.at("degraded").get<bool>();
    verdict.boot_id = value.at("boot").get<std::string>();
    // Absent in rows of earlier versions.
    verdict.notes = value.value("notes", std::vector<std::string>());
    verdict.clock = ClockFrom(value.value("clock", json(nullptr)));
    return verdict;
  });
}

Status ReadNodeIds(SqliteStatement& query, std::vector<NodeId>& nodes) {
  for (;;) {
    SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
    if (!row) return OkStatus();
    SEALIFT_ASSIGN_OR_RETURN(NodeId node, NodeId::Parse(query.TextAt(0)));
    nodes.push_back(std::move(node));
  }
}

}  // namespace sealift::controller
