#include "controller/attest/evidence_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "controller/attest/epoch.h"
#include "controller/attest/firmware.h"
#include "shared/base/status.h"

namespace sealift::controller {
namespace {

using nlohmann::json;

// What may throw is never an initialiser inside braces: gcc 12 would destroy the members before it twice.
constexpr std::string_view kFormat = "sealift-evidence";
constexpr int kVersion = 1;
constexpr std::size_t kMaxReleases = 4096;

Status Invalid(std::string_view cause) {
  return MakeError(Code::kInvalidArgument, Reason::kEvidenceInvalid, fmt::format("read evidence: {}", cause));
}

// nlohmann reports wrong types by exception; none leaves this function.
template <typename T, typename Function>
Result<T> Decode(std::string_view text, Function function) {
  try {
    return function(json::parse(text));
  } catch (const json::exception& error) {
    return Invalid(error.what());
  }
}

[[noreturn]] void Throw(const char* what) { throw json::other_error::create(501, what, nullptr); }

Sha256Digest DigestFrom(const json& value) {
  const auto digest = Sha256Digest::FromHex(value.get_ref<const std::string&>());
  if (!digest.ok()) Throw("not a digest");
  return *digest;
}

Bytes BytesFrom(const json& value) {
  auto bytes = Base64Decode(value.get_ref<const std::string&>());
  if (!bytes.ok()) Throw("not base64");
  return *std::move(bytes);
}

std::uint32_t PcrFrom(const std::string& text) {
  if (text.empty() || text.size() > 2 || text.find_first_not_of("0123456789") != std::string::npos) {
    Throw("not a register");
  }
  return static_cast<std::uint32_t>(std::stoul(text));
}

json ReleaseJson(const ExpectedRelease& release) {
  json registers = json::object();
  for (const auto& [pcr, values] : release.registers) {
    json list = json::array();
    for (const ExpectedValue& value : values) {
      json events = json::array();
      for (const ExpectedEvent& event : value.events) {
        events.push_back({{"text", event.description}, {"digest", event.digest.hex()}});
      }
      list.push_back({{"label", value.label}, {"value", value.value.hex()}, {"events", std::move(events)}});
    }
    registers[std::to_string(pcr)] = std::move(list);
  }
  json images = json::array();
  for (const Sha256Digest& image : release.allowed_images) images.push_back(image.hex());
  return {{"id", release.id.hex()},
          {"version", release.version},
          {"registers", std::move(registers)},
          {"allowed_images", std::move(images)},
          {"uki", release.uki.hex()}};
}

ExpectedRelease ReleaseFrom(const json& value) {
  ExpectedRelease release;
  release.id = ReleaseId{DigestFrom(value.at("id"))};
  release.version = value.at("version").get<std::string>();
  release.uki = DigestFrom(value.at("uki"));
  for (const json& image : value.at("allowed_images")) release.allowed_images.push_back(DigestFrom(image));
  for (const auto& [pcr, values] : value.at("registers").items()) {
    std::vector<ExpectedValue>& allowed = release.registers[PcrFrom(pcr)];
    for (const json& one : values) {
      ExpectedValue expected;
      expected.label = one.at("label").get<std::string>();
      expected.value = DigestFrom(one.at("value"));
      for (const json& event : one.at("events")) {
        ExpectedEvent& added = expected.events.emplace_back();
        added.description = event.at("text").get<std::string>();
        added.digest = DigestFrom(event.at("digest"));
      }
      allowed.push_back(std::move(expected));
    }
  }
  for (const std::uint32_t pcr : kJudgedPcrs) {
    if (!release.registers.contains(pcr) || release.registers.at(pcr).empty()) Throw("a register is missing");
  }
  return release;
}

json ClockJson(const std::optional<QuoteClock>& clock) {
  if (!clock) return nullptr;
  return {{"clock_ms", clock->clock_ms},
          {"reset_count", clock->reset_count},
          {"restart_count", clock->restart_count},
          {"firmware_version", fmt::format("{:016x}", clock->firmware_version)}};
}

std::optional<QuoteClock> ClockFrom(const json& value) {
  if (value.is_null()) return std::nullopt;
  const auto firmware = HexDecode(value.at("firmware_version").get_ref<const std::string&>());
  if (!firmware.ok() || firmware->size() != 8) Throw("not a firmware version");
  ByteReader reader(*firmware, ByteReader::Endian::kBig);
  return QuoteClock{.clock_ms = value.at("clock_ms").get<std::uint64_t>(),
                    .reset_count = value.at("reset_count").get<std::uint32_t>(),
                    .restart_count = value.at("restart_count").get<std::uint32_t>(),
                    .firmware_version = reader.U64()};
}

json VerdictJson(const Verdict& verdict) {
  json findings = json::array();
  for (const PcrFinding& finding : verdict.findings) {
    json expected = json::array();
    for (const Sha256Digest& digest : finding.expected) expected.push_back(digest.hex());
    findings.push_back({{"pcr", finding.pcr},
                        {"outcome", finding.outcome},
                        {"expected", std::move(expected)},
                        {"found", finding.found ? json(finding.found->hex()) : json()},
                        {"first_difference", finding.first_difference}});
  }
  return {{"outcome", std::string(TrustName(verdict.trust))},
          {"reasons", verdict.reasons},
          {"notes", verdict.notes},
          {"findings", std::move(findings)},
          {"release_version", verdict.release_version},
          {"release_id", verdict.release_id ? json(verdict.release_id->hex()) : json()},
          {"decided", ToUnixMs(verdict.decided)},
          {"degraded_boot", verdict.degraded_boot},
          {"boot_id", verdict.boot_id},
          {"clock", ClockJson(verdict.clock)}};
}

Trust TrustFrom(const std::string& name) {
  for (const Trust trust : {Trust::kTrusted, Trust::kUntrusted, Trust::kUnknown}) {
    if (TrustName(trust) == name) return trust;
  }
  Throw("not an outcome");
}

Verdict VerdictFrom(const json& value) {
  Verdict verdict;
  verdict.trust = TrustFrom(value.at("outcome").get<std::string>());
  verdict.reasons = value.at("reasons").get<std::vector<std::string>>();
  verdict.notes = value.at("notes").get<std::vector<std::string>>();
  for (const json& one : value.at("findings")) {
    PcrFinding finding;
    finding.pcr = one.at("pcr").get<std::uint32_t>();
    finding.outcome = one.at("outcome").get<std::string>();
    for (const json& digest : one.at("expected")) finding.expected.push_back(DigestFrom(digest));
    if (!one.at("found").is_null()) finding.found = DigestFrom(one.at("found"));
    finding.first_difference = one.at("first_difference").get<std::string>();
    verdict.findings.push_back(std::move(finding));
  }
  verdict.release_version = value.at("release_version").get<std::string>();
  if (!value.at("release_id").is_null()) verdict.release_id = ReleaseId{DigestFrom(value.at("release_id"))};
  verdict.decided = FromUnixMs(value.at("decided").get<std::int64_t>());
  verdict.degraded_boot = value.at("degraded_boot").get<bool>();
  verdict.boot_id = value.at("boot_id").get<std::string>();
  verdict.clock = ClockFrom(value.at("clock"));
  return verdict;
}

}  // namespace

Bytes EncodeExpectations(std::span<const ExpectedRelease> releases) {
  json list = json::array();
  for (const ExpectedRelease& release : releases) list.push_back(ReleaseJson(release));
  return ToBytes(list.dump(-1, ' ', false, json::error_handler_t::replace));
}

Result<std::vector<ExpectedRelease>> DecodeExpectations(ByteView text) {
  using Releases = std::vector<ExpectedRelease>;
  return Decode<Releases>(AsText(text), [](const json& value) {
    if (!value.is_array() || value.size() > kMaxReleases) Throw("not a list of releases");
    Releases releases;
    for (const json& one : value) releases.push_back(ReleaseFrom(one));
    return releases;
  });
}

std::string EncodeEvidenceFile(const EvidenceRecord& record, const Sha256Digest& ek_digest) {
  json pcrs = json::object();
  for (const auto& [pcr, value] : record.pcrs) pcrs[std::to_string(pcr)] = value.hex();
  const json file = {
      {"format", std::string(kFormat)},
      {"version", kVersion},
      {"node", record.node_id.text()},
      {"ek_digest", ek_digest.hex()},
      {"sequence", record.sequence},
      {"any_phase", record.any_phase},
      {"nonce", HexEncode(record.nonce)},
      {"ak_public", Base64Encode(record.ak_public)},
      {"attest", Base64Encode(record.attest)},
      {"signature", Base64Encode(record.signature)},
      {"pcrs", {{"sha256", std::move(pcrs)}}},
      {"event_log", Base64Encode(record.event_log)},
      {"seen_before", ClockJson(record.before)},
      {"expected",
       record.expected.empty() ? json::array() : json::parse(AsText(record.expected), nullptr, false)},
      {"baseline", record.baseline.empty() ? json() : json::parse(AsText(record.baseline), nullptr, false)},
      {"verdict", VerdictJson(record.verdict)}};
  return file.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<EvidenceFile> DecodeEvidenceFile(std::string_view text) {
  if (text.size() > kMaxEvidenceFileBytes) return Invalid("it is too large");
  return Decode<EvidenceFile>(text, [](const json& value) {
    if (value.at("format") != kFormat || value.at("version") != kVersion) Throw("another format");
    auto id = NodeId::Parse(value.at("node").get<std::string>());
    if (!id.ok()) Throw("not a node's id");
    EvidenceFile file{.record = {.node_id = *std::move(id)}, .ek_digest = {}};
    file.ek_digest = DigestFrom(value.at("ek_digest"));
    EvidenceRecord& record = file.record;
    if (!value.at("sequence").is_number_unsigned()) Throw("not a sequence");
    record.sequence = value.at("sequence").get<std::uint64_t>();
    record.any_phase = value.at("any_phase").get<bool>();
    auto nonce = HexDecode(value.at("nonce").get<std::string>());
    if (!nonce.ok()) Throw("not a nonce");
    record.nonce = *std::move(nonce);
    record.ak_public = BytesFrom(value.at("ak_public"));
    record.attest = BytesFrom(value.at("attest"));
    record.signature = BytesFrom(value.at("signature"));
    for (const auto& [pcr, digest] : value.at("pcrs").at("sha256").items()) {
      record.pcrs[PcrFrom(pcr)] = DigestFrom(digest);
    }
    record.event_log = BytesFrom(value.at("event_log"));
    record.before = ClockFrom(value.at("seen_before"));
    record.expected = ToBytes(value.at("expected").dump());
    // Absent in files of earlier versions.
    if (const json baseline = value.value("baseline", json()); !baseline.is_null()) {
      record.baseline = ToBytes(baseline.dump());
    }
    record.verdict = VerdictFrom(value.at("verdict"));
    return file;
  });
}

Result<Verdict> JudgeAgain(const EvidenceRecord& record) {
  const auto differs = [](std::string_view what) {
    return MakeError(Code::kFailedPrecondition, Reason::kEvidenceInvalid,
                     fmt::format("verify evidence: {}", what));
  };
  if (record.ak_public.empty() || record.expected.empty()) {
    return differs("it was recorded before expected values were kept with it");
  }
  SEALIFT_ASSIGN_OR_RETURN(const auto expected, DecodeExpectations(record.expected));
  const auto key = tpm::ParsePublic(record.ak_public);
  if (!key.ok()) return differs(MessageOf(key.status()));
  const Evidence evidence{
      .quote = {.attest = record.attest, .signature = record.signature, .pcrs = record.pcrs},
      .event_log = record.event_log};
  JudgedMachine judged = ExamineMachine(evidence, *key, record.nonce, expected,
                                        record.any_phase ? PhaseRule::kAnyPhase : PhaseRule::kFinalPhase,
                                        record.before, record.verdict.decided);
  Verdict& found = judged.verdict;
  if (judged.firmware && !record.baseline.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(const FirmwareExpectation wanted, DecodeFirmwareExpectation(record.baseline));
    JudgeFirmware(*judged.firmware, wanted, found);
  }
  const Verdict& stated = record.verdict;
  std::vector<std::string> reasons = stated.reasons;
  std::erase_if(reasons, IsAboutEpoch);
  if (found.reasons != reasons) {
    return differs(fmt::format("it leads to '{}', not to '{}'", fmt::join(found.reasons, ", "),
                               fmt::join(reasons, ", ")));
  }
  const bool refused_by_epoch = reasons.size() != stated.reasons.size();
  if (stated.trust != (refused_by_epoch ? Trust::kUntrusted : found.trust)) {
    return differs(fmt::format("it leads to {}, not to {}", TrustName(found.trust), TrustName(stated.trust)));
  }
  if (found.findings != stated.findings || found.notes != stated.notes ||
      found.degraded_boot != stated.degraded_boot) {
    return differs("it leads to other findings about the registers");
  }
  if (found.release_id != stated.release_id || found.release_version != stated.release_version) {
    return differs("it shows another release");
  }
  return stated;
}

}  // namespace sealift::controller
