#include "controller/app/config.h"

#include <arpa/inet.h>

#include <algorithm>
#include <sstream>

#include "shared/base/config.h"
#include "shared/base/files.h"
#include "shared/order/delegation.h"

namespace sealift::controller {
namespace {

constexpr std::int64_t kHour = 3'600'000;
// No word of a policy.
constexpr std::string_view kAdmitWhatCanBeKept = "*";

bool IsIpAddress(const std::string& text) {
  unsigned char buffer[sizeof(in6_addr)];
  return inet_pton(AF_INET, text.c_str(), buffer) == 1 || inet_pton(AF_INET6, text.c_str(), buffer) == 1;
}

bool IsAddress(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return false;
  const std::string port = text.substr(colon + 1);
  return !port.empty() && port.size() <= 5 &&
         std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; }) &&
         std::stoi(port) <= 65535;
}

std::chrono::milliseconds Millis(ConfigReader& config, std::string_view path, std::int64_t fallback,
                                 std::int64_t min, std::int64_t max) {
  return std::chrono::milliseconds(config.Integer(path, fallback, min, max));
}

std::string Address(ConfigReader& config, std::string_view path, std::string_view fallback, bool may_be_off) {
  std::string address = config.String(path, fallback);
  if (!(may_be_off && address.empty()) && !IsAddress(address)) config.Problem(path, "is not host:port");
  return address;
}

void ReadTls(ConfigReader& config, ControllerConfig& out) {
  for (const std::string& name : config.Strings("tls.names")) {
    if (name.empty() || name.size() > 253) config.Problem("tls.names", "holds a name that is none");
    (IsIpAddress(name) ? out.ip_addresses : out.dns_names).push_back(name);
  }
}

void ReadBuild(ConfigReader& config, const std::filesystem::path& folder, ControllerConfig& out) {
  out.build.tokens = config.Strings("build.tokens");
  out.build.output = folder / config.String("build.output", (out.state_dir / "builds").string());
  out.build.sources = config.Strings("build.sources");
  out.build.max_waiting = static_cast<std::size_t>(config.Integer("build.max_waiting", 4, 0, 64));
  if (!out.build.tokens.empty() && out.build.sources.empty())
    config.Problem("build.sources", "required: the folders and registries that may be built from");
}

void ReadNodes(ConfigReader& config, ControllerConfig& out) {
  out.certificate_lifetime = std::chrono::hours(config.Integer("nodes.certificate_hours", 24, 1, 24 * 90));
  out.check_in.poll = Millis(config, "nodes.poll_ms", 30'000, 100, 24 * kHour);
  out.check_in.busy_poll = Millis(config, "nodes.busy_poll_ms", 5'000, 100, kHour);
  out.check_in.quote_interval = Millis(config, "nodes.quote_interval_ms", kHour, 1'000, 24 * kHour);
  out.check_in.quote_retry = Millis(config, "nodes.quote_retry_ms", 15'000, 100, kHour);
  out.node_calls.per_node = {.burst = static_cast<int>(config.Integer("nodes.call_burst", 60, 1, 1'000'000)),
                             .refill = Millis(config, "nodes.call_refill_ms", 500, 1, kHour)};
  out.evidence_kept = static_cast<std::size_t>(config.Integer("nodes.evidence_kept", 200, 0, 1'000'000));
  out.node_calls.piece_patience = Millis(config, "nodes.piece_ms", 30'000, 100, kHour);
  const auto per_second = config.Integer("nodes.total_per_second", 4'000, 1, 1'000'000);
  out.node_calls.total = {
      .burst = static_cast<int>(config.Integer("nodes.total_burst", 20'000, 1, 10'000'000)),
      .refill = std::chrono::microseconds(1'000'000 / per_second)};
}

// As written; what they mean together is looked at once the file is read whole.
struct AttestationWords {
  std::string outlier;
  std::string on_untrusted;
  std::string on_unknown;
};

AttestationWords ReadAttestation(ConfigReader& config, ControllerConfig& out) {
  out.baselines.machines =
      static_cast<std::uint32_t>(config.Integer("attestation.baseline_machines", 3, 1, 1'000'000));
  out.attestation.quarantine_percent =
      static_cast<std::uint32_t>(config.Integer("attestation.quarantine_percent", 0, 0, 100));
  out.alert = {.command = config.Strings("attestation.alert_command"),
               .timeout = Millis(config, "attestation.alert_timeout_ms", 10'000, 100, 60'000),
               .per_minute = static_cast<int>(config.Integer("attestation.alert_per_minute", 20, 1, 600))};
  return {.outlier = config.String("attestation.baseline_outlier", "unknown"),
          .on_untrusted = config.String("attestation.on_untrusted", "alert"),
          .on_unknown = config.String("attestation.on_unknown", "alert")};
}

Status TakeAttestation(const AttestationWords& words, ControllerConfig& out) {
  if (words.outlier == TrustName(Trust::kUntrusted)) {
    out.baselines.outlier = Trust::kUntrusted;
  } else if (words.outlier != TrustName(Trust::kUnknown)) {
    return MakeError(Code::kInvalidArgument, Reason::kPolicyUnenforceable,
                     "read attestation.baseline_outlier: it is neither \"unknown\" nor \"untrusted\"");
  }
  SEALIFT_ASSIGN_OR_RETURN(out.attestation.on_untrusted,
                           ParseTrustActions("attestation.on_untrusted", words.on_untrusted));
  SEALIFT_ASSIGN_OR_RETURN(out.attestation.on_unknown,
                           ParseTrustActions("attestation.on_unknown", words.on_unknown));
  SEALIFT_RETURN_IF_ERROR(CheckAttestationPolicy(out.attestation));
  if (!out.alert.command.empty() && !out.attestation.on_untrusted.alert &&
      !out.attestation.on_unknown.alert) {
    return MakeError(Code::kInvalidArgument, Reason::kPolicyUnenforceable,
                     "read attestation.alert_command: no action is 'alert'");
  }
  return CheckAlertCommand(out.alert.command);
}

// Each word of "enrolment.admit"; what can be kept where it is not there.
Result<AdmissionPolicy> AdmissionFrom(const std::string& text, bool with_makers) {
  if (text == kAdmitWhatCanBeKept) return DefaultAdmissionPolicy(with_makers);
  std::vector<std::string> words;
  std::istringstream stream(text);
  for (std::string word; stream >> word;) words.push_back(word);
  return ParseAdmissionPolicy(words, with_makers);
}

}  // namespace

Result<ControllerConfig> ParseControllerConfig(std::string_view text, const std::filesystem::path& source) {
  ConfigReader config = ConfigReader::Parse(text, source.string());
  const std::filesystem::path folder = source.parent_path();
  ControllerConfig out;
  out.state_dir = folder / config.RequiredString("state_dir");
  out.keys = folder / config.RequiredString("keys");
  out.tokens = config.Strings("tokens");
  out.generations = config.Strings("generations");
  out.journal = folder / config.String("journal", (out.state_dir / "journal").string());
  if (out.tokens.empty()) config.Problem("tokens", "required: the online token, as [\"online=pkcs11:...\"]");
  out.listen_fleet = Address(config, "listen.fleet", "0.0.0.0:7443", false);
  out.listen_enrolment = Address(config, "listen.enrolment", "0.0.0.0:7444", false);
  out.listen_metrics = Address(config, "listen.metrics", "127.0.0.1:9464", true);
  if (const std::string ready = config.String("listen.ready_file", ""); !ready.empty())
    out.ready_file = folder / ready;
  ReadTls(config, out);
  out.tuf_root = folder / config.String("tuf.root", (out.keys / "tuf/1.root.json").string());
  out.snapshot_lifetime = std::chrono::hours(config.Integer("tuf.snapshot_hours", 168, 1, 24 * 365));
  out.timestamp_lifetime = std::chrono::hours(config.Integer("tuf.timestamp_hours", 24, 1, 24 * 30));
  out.orders_delegation =
      folder / config.String("orders.delegation", (out.keys / order::kDelegationFile).string());
  if (const std::string makers = config.String("enrolment.tpm_makers", ""); !makers.empty()) {
    out.tpm_makers = folder / makers;
  }
  out.secure_boot = folder / config.String("enrolment.secure_boot", out.keys.string());
  const std::string admit = config.String("enrolment.admit", kAdmitWhatCanBeKept);
  const AttestationWords attestation = ReadAttestation(config, out);
  ReadNodes(config, out);
  ReadBuild(config, folder, out);
  out.collect_interval = Millis(config, "content.collect_interval_ms", 24 * kHour, 0, 24 * 365 * kHour);
  out.content_grace = Millis(config, "content.grace_ms", 24 * kHour, 0, 24 * 365 * kHour);
  const auto level = log::ParseLevel(config.String("log.level", "info"));
  if (level.ok()) {
    out.log_level = *level;
  } else {
    config.Problem("log.level", "is not debug, info, warning or error");
  }
  out.drain = Millis(config, "shutdown.drain_ms", 5'000, 0, 600'000);
  SEALIFT_RETURN_IF_ERROR(config.Finish());
  SEALIFT_RETURN_IF_ERROR(TakeAttestation(attestation, out));
  SEALIFT_ASSIGN_OR_RETURN(out.admission, AdmissionFrom(admit, !out.tpm_makers.empty()));
  return out;
}

Result<ControllerConfig> LoadControllerConfig(const std::filesystem::path& path) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, 256 << 10));
  return ParseControllerConfig(text, std::filesystem::absolute(path));
}

}  // namespace sealift::controller
