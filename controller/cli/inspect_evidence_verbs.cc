// `sealift inspect event-log|quote`: what a machine says it measured, and whether a TPM says so, too.
#include <fmt/format.h>

#include <charconv>
#include <memory>
#include <optional>

#include "controller/cli/inspect_answer.h"
#include "shared/base/files.h"
#include "shared/tpm/event_log.h"
#include "shared/tpm/quote.h"

namespace sealift::cli {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxPcrFileBytes = 1u << 20;

// --- event-log

json EntryJson(const tpm::Event& event) {
  json digests = json::object();
  for (const auto& [algorithm, digest] : event.digests) {
    digests[tpm::AlgorithmName(algorithm)] = HexEncode(digest);
  }
  return {{"pcr", event.pcr},
          {"type", tpm::EventTypeName(event.type)},
          {"size", event.data.size()},
          {"digests", std::move(digests)},
          {"text", tpm::DescribeEvent(event)}};
}

Result<Answer> InspectEventLog(const std::string& file) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(file));
  SEALIFT_ASSIGN_OR_RETURN(const tpm::EventLog log, tpm::EventLog::Read(bytes));
  const std::string_view format = log.format() == tpm::EventLogFormat::kSha1 ? "sha1" : "crypto-agile";
  json banks = json::array();
  json pcrs = json::object();
  std::string values;
  for (const std::uint16_t bank : log.bank_order()) {
    const std::string name = tpm::AlgorithmName(bank);
    banks.push_back(name);
    // A bank whose hash nobody here can compute has no registers to show.
    if (tpm::DigestSize(bank) == 0) continue;
    json registers = json::object();
    for (const auto& [pcr, value] : log.ReplayBank(bank)) {
      registers[std::to_string(pcr)] = HexEncode(value);
      values += fmt::format("\nPCR {:<2} {:<9} {}", pcr, name, HexEncode(value));
    }
    pcrs[name] = std::move(registers);
  }
  json entries = json::array();
  std::string lines;
  for (const tpm::Event& event : log.events()) {
    entries.push_back(EntryJson(event));
    lines += fmt::format("\n  {:>2}  {}", event.pcr, tpm::DescribeEvent(event));
  }
  Answer answer;
  answer.object = {{"format", std::string(format)}, {"banks", std::move(banks)},
                   {"events", log.event_count()},   {"pcrs", std::move(pcrs)},
                   {"padding", log.padding()},      {"startup_locality", log.startup_locality()},
                   {"entries", std::move(entries)}};
  answer.text = fmt::format("format   {}\nevents   {}{}{}", format, log.event_count(), lines, values);
  return answer;
}

// --- quote

struct QuoteArguments {
  std::string attest;
  std::string signature;
  std::string key;
  std::string pcrs;
  CLI::Option* nonce_option = nullptr;
  std::string nonce;
  bool allow_sha1 = false;
};

Status BadPcrFile(std::string_view cause) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                   fmt::format("read register values: {}", cause));
}

Result<std::uint32_t> ParseIndex(std::string_view text) {
  std::uint32_t index = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (error != std::errc() || end != text.data() + text.size())
    return BadPcrFile(fmt::format("'{}' is no register", text.substr(0, 32)));
  return index;
}

// Banks and registers that the quote does not cover may be there, as in the answer of `event-log`.
Result<std::map<std::uint16_t, std::map<std::uint32_t, Bytes>>> ParsePcrFile(std::string_view text) {
  const json object = json::parse(text, nullptr, false);
  if (!object.is_object()) return BadPcrFile("not a JSON object");
  std::map<std::uint16_t, std::map<std::uint32_t, Bytes>> values;
  for (const auto& [bank, registers] : object.items()) {
    const std::uint16_t hash = tpm::HashNamed(bank);
    if (hash == tpm::kAlgNull) continue;
    if (!registers.is_object()) return BadPcrFile(fmt::format("bank {} is not an object", bank));
    for (const auto& [index_text, hex] : registers.items()) {
      SEALIFT_ASSIGN_OR_RETURN(const std::uint32_t index, ParseIndex(index_text));
      Result<Bytes> value = hex.is_string() ? HexDecode(hex.get_ref<const std::string&>()) : BadPcrFile("");
      if (!value.ok() || value->size() != tpm::DigestSize(hash))
        return BadPcrFile(fmt::format("PCR {} of {} is not a digest of it in hex", index, bank));
      values[hash][index] = *std::move(value);
    }
  }
  return values;
}

std::string_view CheckName(tpm::QuoteCheck check, std::string_view bad) {
  switch (check) {
    case tpm::QuoteCheck::kOk:
      return "ok";
    case tpm::QuoteCheck::kBad:
      return bad;
    case tpm::QuoteCheck::kNotChecked:
      break;
  }
  return "not-checked";
}

json SelectionJson(const tpm::QuoteInfo& quote) {
  std::map<std::string, std::vector<std::uint32_t>> banks;
  for (const tpm::PcrSelection& selection : quote.selections) {
    std::vector<std::uint32_t>& pcrs = banks[tpm::AlgorithmName(selection.hash)];
    pcrs.insert(pcrs.end(), selection.pcrs.begin(), selection.pcrs.end());
  }
  return banks;
}

void Describe(const tpm::QuoteExamination& seen, Answer& answer) {
  const tpm::Attest& attest = seen.attest;
  json& object = answer.object;
  object["hash"] = nullptr;
  object["scheme"] = nullptr;
  if (seen.signature) {
    object["hash"] = tpm::AlgorithmName(seen.signature->hash);
    object["scheme"] = tpm::AlgorithmName(seen.signature->scheme);
  }
  object["extra_data"] = HexEncode(attest.extra_data);
  object["qualified_signer"] = HexEncode(attest.qualified_signer);
  object["clock"] = attest.clock.clock_ms;
  object["reset_count"] = attest.clock.reset_count;
  object["restart_count"] = attest.clock.restart_count;
  object["safe"] = attest.clock.safe;
  object["firmware_version"] = fmt::format("{:016x}", attest.firmware_version);
  object["pcr_selection"] = SelectionJson(seen.quote());
  object["pcr_digest"] = HexEncode(seen.quote().pcr_digest);
  object["signature"] = CheckName(seen.signature_check, "bad");
  object["nonce"] = CheckName(seen.nonce_check, "mismatch");
  object["pcr"] = CheckName(seen.pcr_check, "mismatch");
  if (!seen.problem.ok()) {
    object["problem"] = MessageOf(seen.problem);
    object["reason"] = ReasonIdOf(seen.problem);
  }
  for (const auto& [name, value] : object.items()) {
    answer.text += fmt::format("{}{:<17} {}", answer.text.empty() ? "" : "\n", name,
                               value.is_string() ? value.get<std::string>() : value.dump());
  }
}

Result<Answer> InspectQuote(const QuoteArguments& arguments) {
  const bool verify = !arguments.key.empty();
  if (verify && arguments.signature.empty()) return InspectUsage("--ak needs --signature");
  tpm::QuoteChecks checks{
      .key = nullptr, .nonce = std::nullopt, .pcrs = std::nullopt, .allow_sha1 = arguments.allow_sha1};
  if (arguments.nonce_option->count() != 0) {
    Result<Bytes> nonce = HexDecode(arguments.nonce);
    if (!nonce.ok()) return InspectUsage("--nonce is not hex");
    checks.nonce = *std::move(nonce);
  }
  // Every file first, so that one that cannot be read is never taken for a verdict.
  SEALIFT_ASSIGN_OR_RETURN(const Bytes attest, ReadFile(arguments.attest));
  Bytes signature;
  if (!arguments.signature.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(signature, ReadFile(arguments.signature));
  }
  Bytes key_file;
  if (verify) {
    SEALIFT_ASSIGN_OR_RETURN(key_file, ReadFile(arguments.key));
  }
  if (!arguments.pcrs.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(arguments.pcrs, kMaxPcrFileBytes));
    SEALIFT_ASSIGN_OR_RETURN(checks.pcrs, ParsePcrFile(text));
  }
  EvpPkeyPtr key;
  if (verify) {
    SEALIFT_ASSIGN_OR_RETURN(key, tpm::ReadVerificationKey(key_file));
    checks.key = key.get();
  }
  SEALIFT_ASSIGN_OR_RETURN(
      const tpm::QuoteExamination seen,
      tpm::ExamineQuote(
          attest, arguments.signature.empty() ? std::nullopt : std::optional<ByteView>(signature), checks));
  Answer answer;
  answer.object = {{"verified", nullptr}};
  if (verify) answer.object["verified"] = seen.problem.ok();
  answer.good = !verify || seen.problem.ok();
  Describe(seen, answer);
  return answer;
}

}  // namespace

void AddInspectEvidenceVerbs(CLI::App& group, Session& session) {
  const auto log = std::make_shared<std::string>();
  CLI::App* log_verb =
      AddInspection(group, session, "event-log", "a firmware's event log, and the registers it leads to",
                    "sealift inspect event-log /sys/kernel/security/tpm0/binary_bios_measurements -o json",
                    [log] { return InspectEventLog(*log); });
  log_verb->add_option("FILE", *log, "the log, crypto-agile or of the older SHA-1 form")->required();

  const auto quote = std::make_shared<QuoteArguments>();
  CLI::App* quote_verb =
      AddInspection(group, session, "quote", "a TPM's quote: what it says, and with --ak whether it holds",
                    "sealift inspect quote --attest quote.bin --signature quote.sig --ak ak.pem \\\n"
                    "    --pcrs pcrs.json --nonce 00112233 -o json",
                    [quote] { return InspectQuote(*quote); });
  quote_verb->add_option("--attest", quote->attest, "TPMS_ATTEST")->required();
  quote_verb->add_option("--signature", quote->signature, "TPMT_SIGNATURE");
  quote_verb->add_option("--ak", quote->key, "TPMT_PUBLIC, TPM2B_PUBLIC or a PEM public key");
  quote_verb->add_option("--pcrs", quote->pcrs, R"(register values: {"sha256": {"0": HEX}})");
  quote->nonce_option =
      quote_verb->add_option("--nonce", quote->nonce, "hex; '--nonce=' asks for an empty one")
          ->expected(0, 1);
  quote_verb->add_flag("--allow-sha1", quote->allow_sha1, "accept a signature or a bank of SHA-1");
}

}  // namespace sealift::cli
