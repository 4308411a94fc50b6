#include "controller/cli/attest_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/status.h"

namespace sealift::cli {
namespace {

using nlohmann::json;

std::string Hex(const std::string& bytes) { return HexEncode(AsBytes(bytes)); }

// What nodes had a hand in never reaches a terminal as it is.
std::string Plain(const std::string& text) {
  std::string plain;
  for (const char c : text) plain.push_back(c >= ' ' && c <= '~' ? c : '?');
  return plain;
}

std::string Outcome(const v1::Verdict& verdict) {
  switch (verdict.outcome()) {
    case v1::Verdict::TRUSTED:
      return "trusted";
    case v1::Verdict::UNTRUSTED:
      return "untrusted";
    case v1::Verdict::UNKNOWN:
      return "unknown";
    default:
      return "undecided";
  }
}

std::string_view Purpose(std::uint32_t pcr) {
  switch (pcr) {
    case 0:
      return "firmware code";
    case 1:
      return "firmware configuration";
    case 2:
      return "code of add-in cards";
    case 3:
      return "configuration of add-in cards";
    case 4:
      return "what firmware started";
    case 5:
      return "partition table and boot configuration";
    case 6:
      return "what the maker chose";
    case 7:
      return "Secure Boot and its keys";
    case 9:
      return "what the kernel loaded";
    case 11:
      return "the image and the phases of its boot";
    case 12:
      return "parameters and credentials beside the image";
    case 13:
      return "extensions";
    case 14:
      return "shim's keys";
    default:
      return "a register of no fixed use";
  }
}

std::string Explain(const v1::PcrFinding& finding) {
  const std::string what = fmt::format("PCR {} ({})", finding.pcr(), Purpose(finding.pcr()));
  const std::string detail = Plain(finding.first_difference());
  if (finding.outcome() == "match") {
    return detail.empty() ? fmt::format("{} is as predicted.", what)
                          : fmt::format("{} is allowed: {}.", what, detail);
  }
  if (finding.outcome() == "unknown") {
    return detail.empty() ? fmt::format("{} has no approved baseline to be compared with.", what)
                          : fmt::format("{} shows what nobody approved yet: {}.", what, detail);
  }
  if (finding.outcome() == "mismatch") {
    return fmt::format("{} is not as predicted: {}.", what, detail.empty() ? "another value" : detail);
  }
  return fmt::format("{} is recorded and not judged.", what);
}

std::string Summary(const v1::VerdictEntry& entry) {
  const v1::Verdict& verdict = entry.verdict();
  std::string text = fmt::format("At {} the node was {}",
                                 FormatRfc3339(FromUnixMs(verdict.decided_unix_ms())), Outcome(verdict));
  if (!verdict.release_version().empty())
    text += fmt::format(", running {}", Plain(verdict.release_version()));
  for (int i = 0; i < verdict.reasons_size(); ++i) {
    text += fmt::format("{}{}", i == 0 ? ", because of " : ", ", Plain(verdict.reasons(i)));
  }
  return text + ".";
}

}  // namespace

json VerdictEntryJson(const v1::VerdictEntry& entry) {
  const v1::Verdict& verdict = entry.verdict();
  json findings = json::array();
  for (const v1::PcrFinding& finding : verdict.findings()) {
    json expected = json::array();
    for (const std::string& value : finding.expected()) expected.push_back(Hex(value));
    findings.push_back({{"pcr", finding.pcr()},
                        {"outcome", finding.outcome()},
                        {"expected", std::move(expected)},
                        {"found", Hex(finding.found())},
                        {"first_difference", finding.first_difference()}});
  }
  json out = {{"sequence", entry.sequence()},
              {"outcome", Outcome(verdict)},
              {"reasons", std::vector<std::string>(verdict.reasons().begin(), verdict.reasons().end())},
              {"notes", std::vector<std::string>(entry.notes().begin(), entry.notes().end())},
              {"release_version", verdict.release_version()},
              {"release_id", Hex(verdict.release_id())},
              {"decided", FormatRfc3339(FromUnixMs(verdict.decided_unix_ms()))},
              {"degraded_boot", verdict.degraded_boot()},
              {"enrolment", entry.enrolment()},
              {"boot_id", entry.boot_id()},
              {"clock", nullptr},
              {"findings", std::move(findings)}};
  if (entry.has_clock()) {
    out["clock"] = {{"clock_ms", entry.clock().clock_ms()},
                    {"reset_count", entry.clock().reset_count()},
                    {"restart_count", entry.clock().restart_count()},
                    {"firmware_version", fmt::format("{:016x}", entry.clock().firmware_version())}};
  }
  return out;
}

std::string VerdictEntryText(const v1::VerdictEntry& entry) {
  std::string out = fmt::format("{:<6} {}\n", entry.sequence(), Summary(entry));
  for (const v1::PcrFinding& finding : entry.verdict().findings()) {
    if (finding.outcome() == "unpredicted") continue;
    out +=
        fmt::format("       PCR {:<3} {:<9} {}{}{}\n", finding.pcr(), finding.outcome(), Hex(finding.found()),
                    finding.first_difference().empty() ? "" : "  ", Plain(finding.first_difference()));
  }
  for (const std::string& note : entry.notes()) out += fmt::format("       note {}\n", Plain(note));
  return out;
}

std::vector<std::string> ExplainVerdict(const v1::VerdictEntry& entry) {
  std::vector<std::string> sentences{Summary(entry)};
  for (const v1::PcrFinding& finding : entry.verdict().findings()) sentences.push_back(Explain(finding));
  std::vector<std::string> ids(entry.verdict().reasons().begin(), entry.verdict().reasons().end());
  ids.insert(ids.end(), entry.notes().begin(), entry.notes().end());
  for (const std::string& id : ids) {
    sentences.push_back(fmt::format("{}: {}.", Plain(id), ReasonAdvice(ReasonFromId(id))));
  }
  return sentences;
}

}  // namespace sealift::cli
