// Baselines as JSON, for the evidence and for the store.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "controller/attest/firmware.h"

namespace sealift::controller {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxApproved = 64;

[[noreturn]] void Throw(const char* what) { throw json::other_error::create(501, what, nullptr); }

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

template <typename T, typename Function>
Result<T> Decode(std::string_view text, Function function) {
  try {
    return function(json::parse(text));
  } catch (const json::exception& error) {
    return MakeError(Code::kInvalidArgument, Reason::kEvidenceInvalid,
                     fmt::format("read baseline: {}", error.what()));
  }
}

Sha256Digest DigestFrom(const json& value) {
  const auto digest = Sha256Digest::FromHex(value.get_ref<const std::string&>());
  if (!digest.ok()) Throw("not a digest");
  return *digest;
}

std::uint32_t PcrFrom(std::uint32_t pcr) {
  if (pcr > 3) Throw("not a register of the firmware");
  return pcr;
}

json BaselineJson(const Baseline& baseline) {
  json registers = json::object();
  for (const auto& [pcr, value] : baseline.registers) registers[std::to_string(pcr)] = value.hex();
  json events = json::array();
  for (const BaselineEvent& event : baseline.events) {
    events.push_back({{"pcr", event.pcr},
                      {"digest", event.digest ? json(event.digest->hex()) : json(nullptr)},
                      {"text", event.text}});
  }
  return {{"id", baseline.id.hex()},           {"vendor", baseline.model.vendor},
          {"product", baseline.model.product}, {"firmware_version", baseline.firmware_version},
          {"registers", std::move(registers)}, {"events", std::move(events)}};
}

Baseline BaselineFrom(const json& value) {
  Baseline baseline;
  baseline.id = DigestFrom(value.at("id"));
  baseline.model.vendor = value.at("vendor").get<std::string>();
  baseline.model.product = value.at("product").get<std::string>();
  baseline.firmware_version = value.at("firmware_version").get<std::string>();
  for (const auto& [pcr, digest] : value.at("registers").items()) {
    if (pcr.size() != 1 || pcr[0] < '0') Throw("not a register");
    baseline.registers[PcrFrom(static_cast<std::uint32_t>(pcr[0] - '0'))] = DigestFrom(digest);
  }
  for (const std::uint32_t pcr : {0u, 2u, 3u}) {
    if (!baseline.registers.contains(pcr)) Throw("a register is missing");
  }
  if (value.at("events").size() > kMaxBaselineEvents) Throw("too many events");
  for (const json& one : value.at("events")) {
    BaselineEvent event;
    event.pcr = PcrFrom(one.at("pcr").get<std::uint32_t>());
    if (!one.at("digest").is_null()) event.digest = DigestFrom(one.at("digest"));
    event.text = one.at("text").get<std::string>();
    baseline.events.push_back(std::move(event));
  }
  return baseline;
}

}  // namespace

std::string EncodeBaseline(const Baseline& baseline) { return Dump(BaselineJson(baseline)); }

Result<Baseline> DecodeBaseline(std::string_view text) { return Decode<Baseline>(text, BaselineFrom); }

Bytes EncodeFirmwareExpectation(const FirmwareExpectation& expectation) {
  json approved = json::array();
  for (const Baseline& baseline : expectation.approved) approved.push_back(BaselineJson(baseline));
  return ToBytes(Dump({{"approved", std::move(approved)},
                       {"confirmed", expectation.confirmed},
                       {"outlier", std::string(TrustName(expectation.outlier))}}));
}

Result<FirmwareExpectation> DecodeFirmwareExpectation(ByteView text) {
  return Decode<FirmwareExpectation>(AsText(text), [](const json& value) {
    FirmwareExpectation expectation;
    if (value.at("approved").size() > kMaxApproved) Throw("too many baselines");
    for (const json& one : value.at("approved")) expectation.approved.push_back(BaselineFrom(one));
    expectation.confirmed = value.at("confirmed").get<bool>();
    const auto& outlier = value.at("outlier").get_ref<const std::string&>();
    if (outlier == TrustName(Trust::kUntrusted)) {
      expectation.outlier = Trust::kUntrusted;
    } else if (outlier != TrustName(Trust::kUnknown)) {
      Throw("not a policy");
    }
    return expectation;
  });
}

}  // namespace sealift::controller
