// `sealift inspect pcr-policy|pcrsig`: predicted PCR policies, and signed ones checked.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>

#include "controller/cli/inspect_answer.h"
#include "shared/crypto/hash.h"
#include "shared/uki/content_source.h"
#include "shared/uki/pcr_bank.h"
#include "shared/uki/pcr_policy.h"

namespace sealift::cli {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxSectionBytes = 1ull << 30;
constexpr std::size_t kScratchBytes = 256 << 10;
constexpr std::size_t kMaxSignatureFileBytes = 1 << 20;
constexpr unsigned kPcrCount = 24;

Result<const uki::PcrBank*> Bank(const std::string& name) {
  const uki::PcrBank* bank = uki::FindPcrBank(name);
  if (bank != nullptr) return bank;
  return InspectUsage(
      fmt::format("'{}' is no bank; sha1, sha256, sha384 and sha512 are", name.substr(0, 64)));
}

Result<unsigned> PcrIndex(std::string_view text) {
  unsigned index = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (error == std::errc() && end == text.data() + text.size() && index < kPcrCount) return index;
  return InspectUsage(fmt::format("'{}' is no PCR; 0 to 23 are", text.substr(0, 64)));
}

// NAME=FILE, the name with its dot. Empty files count as absent, as the stub has it.
struct NamedSection {
  std::string name;
  uki::SourceFile file;
};

Result<std::vector<NamedSection>> OpenSections(const std::vector<std::string>& texts) {
  std::vector<NamedSection> sections;
  for (const std::string& text : texts) {
    const std::size_t at = text.find('=');
    if (at == std::string::npos || at < 2 || text[0] != '.')
      return InspectUsage(
          fmt::format("'{}' is not NAME=FILE with a dot before the name", text.substr(0, 128)));
    NamedSection section{.name = text.substr(0, at), .file = {}};
    const bool twice = std::any_of(sections.begin(), sections.end(),
                                   [&](const NamedSection& other) { return other.name == section.name; });
    if (twice) return InspectUsage(fmt::format("section {} twice", section.name));
    SEALIFT_ASSIGN_OR_RETURN(section.file, uki::OpenSource(text.substr(at + 1), kMaxSectionBytes));
    sections.push_back(std::move(section));
  }
  return sections;
}

Result<std::map<std::string, Bytes>> SectionDigests(const uki::PcrBank& bank,
                                                    const std::vector<NamedSection>& sections) {
  std::map<std::string, Bytes> digests;
  Bytes scratch(kScratchBytes);
  for (const NamedSection& section : sections) {
    if (section.file.source.empty()) continue;
    uki::BankHasher hasher(bank);
    SEALIFT_RETURN_IF_ERROR(section.file.source.ForEach(scratch, 0, [&](ByteView piece) -> Status {
      hasher.Update(piece);
      return OkStatus();
    }));
    digests[section.name] = hasher.Finish();
  }
  return digests;
}

Bytes PolicyOf(const uki::PcrBank& bank, unsigned pcr, const Bytes& value) {
  const std::array<uki::PcrValue, 1> values = {uki::PcrValue{.bank = &bank, .index = pcr, .value = value}};
  return uki::PolicyPcrDigest(*uki::FindPcrBank("sha256"), values);
}

Result<PublicKey> ReadPublicKey(const std::string& path) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string pem, ReadTextFile(path, 64u << 10));
  Result<PublicKey> key = PublicKey::FromPem(pem);
  if (key.ok()) return key;
  return InspectUsage(fmt::format("'{}' is no public key: {}", path, MessageOf(key.status())));
}

// --- pcr-policy

struct PolicyArguments {
  std::vector<std::string> sections;
  std::vector<std::string> phases;
  std::string pcr = "11";
  std::vector<std::string> banks;
  std::string public_key;
  std::vector<std::string> values;
  std::string policy_hash = "sha256";
};

// BANK:INDEX=HEX
Result<uki::PcrValue> ParseValue(const std::string& text) {
  const std::size_t colon = text.find(':');
  const std::size_t equals = text.find('=');
  if (colon == std::string::npos || equals == std::string::npos || equals < colon)
    return InspectUsage(fmt::format("'{}' is not BANK:INDEX=HEX", text.substr(0, 160)));
  uki::PcrValue value;
  SEALIFT_ASSIGN_OR_RETURN(value.bank, Bank(text.substr(0, colon)));
  SEALIFT_ASSIGN_OR_RETURN(value.index,
                           PcrIndex(std::string_view(text).substr(colon + 1, equals - colon - 1)));
  const Result<Bytes> bytes = HexDecode(std::string_view(text).substr(equals + 1));
  if (!bytes.ok() || bytes->size() != value.bank->digest_bytes) {
    return InspectUsage(
        fmt::format("'{}' holds no value of {} bytes in hex", text.substr(0, 160), value.bank->digest_bytes));
  }
  value.value = *bytes;
  return value;
}

Result<Answer> PolicyOfValues(const PolicyArguments& arguments) {
  SEALIFT_ASSIGN_OR_RETURN(const uki::PcrBank* hash, Bank(arguments.policy_hash));
  std::vector<uki::PcrValue> values;
  for (const std::string& text : arguments.values) {
    SEALIFT_ASSIGN_OR_RETURN(uki::PcrValue value, ParseValue(text));
    const bool twice = std::any_of(values.begin(), values.end(), [&](const uki::PcrValue& other) {
      return other.bank == value.bank && other.index == value.index;
    });
    if (twice) return InspectUsage(fmt::format("PCR {} of bank {} twice", value.index, value.bank->name));
    values.push_back(std::move(value));
  }
  Answer answer;
  answer.text = HexEncode(uki::PolicyPcrDigest(*hash, values));
  answer.object = {{"policy", answer.text}, {"hash", std::string(hash->name)}};
  return answer;
}

Result<Answer> InspectPolicy(const PolicyArguments& arguments) {
  if (!arguments.values.empty()) {
    if (!arguments.sections.empty()) return InspectUsage("--pcr-value and --section exclude each other");
    return PolicyOfValues(arguments);
  }
  if (arguments.sections.empty()) return InspectUsage("give --section or --pcr-value");
  SEALIFT_ASSIGN_OR_RETURN(const unsigned pcr, PcrIndex(arguments.pcr));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<NamedSection> sections, OpenSections(arguments.sections));
  std::string fingerprint;
  if (!arguments.public_key.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(const PublicKey key, ReadPublicKey(arguments.public_key));
    const Result<Sha256Digest> digest = key.Pkcs1Fingerprint();
    if (!digest.ok()) return InspectUsage(MessageOf(digest.status()));
    fingerprint = digest->hex();
  }
  const std::vector<std::string> banks =
      arguments.banks.empty() ? std::vector<std::string>{"sha256"} : arguments.banks;
  const std::vector<std::string> phases =
      arguments.phases.empty() ? std::vector<std::string>{""} : arguments.phases;
  Answer answer;
  for (const std::string& name : banks) {
    SEALIFT_ASSIGN_OR_RETURN(const uki::PcrBank* bank, Bank(name));
    SEALIFT_ASSIGN_OR_RETURN(const auto digests, SectionDigests(*bank, sections));
    json entries = json::array();
    for (const std::string& phase : phases) {
      SEALIFT_ASSIGN_OR_RETURN(const Bytes value, uki::Pcr11InBank(*bank, digests, phase));
      json entry = {{"pcrs", {pcr}},
                    {"pol", HexEncode(PolicyOf(*bank, pcr, value))},
                    {"pcr_value", HexEncode(value)},
                    {"phase", phase}};
      if (!fingerprint.empty()) entry["pkfp"] = fingerprint;
      answer.text +=
          fmt::format("{}{} PCR {} {}  policy {}  phase '{}'", answer.text.empty() ? "" : "\n", name, pcr,
                      HexEncode(value), entry.at("pol").get_ref<const std::string&>(), phase);
      entries.push_back(std::move(entry));
    }
    answer.object[name] = std::move(entries);
  }
  return answer;
}

// --- pcrsig

struct SignatureArguments {
  std::string file;
  std::string public_key;
  std::vector<std::string> sections;
  std::vector<std::string> phases;
};

// Whether the entry states the policy that one of the phases leads to.
Result<bool> StatesPolicy(const uki::PcrBank& bank, const uki::PcrSignature& entry,
                          const std::map<std::string, Bytes>& digests,
                          const std::vector<std::string>& phases) {
  if (entry.pcrs.size() != 1) return false;
  for (const std::string& phase : phases) {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes value, uki::Pcr11InBank(bank, digests, phase));
    const Bytes policy = PolicyOf(bank, entry.pcrs.front(), value);
    if (std::equal(policy.begin(), policy.end(), entry.policy.bytes.begin(), entry.policy.bytes.end()))
      return true;
  }
  return false;
}

Result<Answer> InspectSignatures(const SignatureArguments& arguments) {
  SEALIFT_ASSIGN_OR_RETURN(const PublicKey key, ReadPublicKey(arguments.public_key));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<NamedSection> sections, OpenSections(arguments.sections));
  if (sections.empty() && !arguments.phases.empty()) return InspectUsage("--phases needs --section");
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(arguments.file, kMaxSignatureFileBytes));
  SEALIFT_ASSIGN_OR_RETURN(const uki::PcrSignatures signatures, uki::ParsePcrSignatures(AsText(bytes)));
  const std::vector<std::string> phases =
      arguments.phases.empty() ? std::vector<std::string>{""} : arguments.phases;
  Answer answer;
  answer.object = {{"banks", json::object()}};
  std::size_t count = 0;
  for (const auto& [name, entries] : signatures) {
    const uki::PcrBank* bank = uki::FindPcrBank(name);
    std::map<std::string, Bytes> digests;
    if (bank != nullptr && !sections.empty()) {
      SEALIFT_ASSIGN_OR_RETURN(digests, SectionDigests(*bank, sections));
    }
    json list = json::array();
    for (const uki::PcrSignature& entry : entries) {
      ++count;
      Status status = uki::CheckPcrSignature(name, entry, key);
      if (ReasonOf(status) == Reason::kKeyMismatch) return InspectUsage(MessageOf(status));
      // What lies beside the image is not known here: of such an entry only the signature is checked.
      const bool beside = entry.pcrs == std::vector<unsigned>{11, 12, 13};
      if (status.ok() && !sections.empty() && !beside) {
        SEALIFT_ASSIGN_OR_RETURN(const bool states, StatesPolicy(*bank, entry, digests, phases));
        if (!states) {
          status = MakeError(Code::kUnauthenticated, Reason::kSignatureInvalid,
                             "verify PCR policy: it is not the policy of these sections and phases");
        }
      }
      json object = {{"pcrs", entry.pcrs},
                     {"pkfp", entry.key_fingerprint.hex()},
                     {"pol", entry.policy.hex()},
                     {"verified", status.ok()}};
      if (beside && !sections.empty()) object["compared"] = false;
      if (!status.ok()) object["problem"] = MessageOf(status);
      answer.good = answer.good && status.ok();
      answer.text += fmt::format("{}{} policy {}  {}", answer.text.empty() ? "" : "\n", name.substr(0, 32),
                                 entry.policy.hex(), status.ok() ? "ok" : MessageOf(status));
      list.push_back(std::move(object));
    }
    answer.object["banks"][name] = std::move(list);
  }
  if (count == 0) {
    answer.good = false;
    answer.text = "no signatures";
  }
  answer.object["verified"] = answer.good;
  return answer;
}

}  // namespace

void AddInspectPolicyVerbs(CLI::App& group, Session& session) {
  const auto policy = std::make_shared<PolicyArguments>();
  CLI::App* verb =
      AddInspection(group, session, "pcr-policy", "the PCR policy that sections or PCR values lead to",
                    "sealift inspect pcr-policy --section .linux=vmlinuz --section .initrd=initrd \\\n"
                    "    --phases sysinit:ready --bank sha256 --public-key pcr.pem -o json\n"
                    "  sealift inspect pcr-policy --pcr-value sha256:7=HEX --policy-hash sha256",
                    [policy] { return InspectPolicy(*policy); });
  verb->add_option("--section", policy->sections,
                   ".NAME=FILE; measured in the stub's order, whatever the order here; repeatable");
  verb->add_option("--phases", policy->phases,
                   "words extended one by one, as enter-initrd:leave-initrd; one entry each; repeatable");
  verb->add_option("--pcr", policy->pcr, "the PCR that holds them")->capture_default_str();
  verb->add_option("--bank", policy->banks, "sha256 (the default), sha384, sha512, sha1; repeatable");
  verb->add_option("--public-key", policy->public_key, "PEM; adds its fingerprint");
  verb->add_option("--pcr-value", policy->values, "BANK:INDEX=HEX; repeatable");
  verb->add_option("--policy-hash", policy->policy_hash, "hash of the policy session, with --pcr-value")
      ->capture_default_str();

  const auto signature = std::make_shared<SignatureArguments>();
  CLI::App* signature_verb = AddInspection(group, session, "pcrsig", "signed PCR policies: a .pcrsig section",
                                           "sealift inspect pcrsig pcrsig.json --public-key pcr.pem -o json",
                                           [signature] { return InspectSignatures(*signature); });
  signature_verb->add_option("FILE", signature->file, "JSON as systemd-measure writes it")->required();
  signature_verb
      ->add_option("--public-key", signature->public_key, "PEM of the RSA key that must have signed")
      ->required();
  signature_verb->add_option("--section", signature->sections,
                             ".NAME=FILE; every entry must state the policy that follows; repeatable");
  signature_verb->add_option("--phases", signature->phases,
                             "phase paths whose policies may be stated; none: before any; repeatable");
}

}  // namespace sealift::cli
