#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "controller/cli/key_material.h"
#include "controller/cli/verbs.h"
#include "hsm/journal.h"
#include "hsm/journal_verify.h"
#include "hsm/key_ring.h"
#include "shared/base/files.h"

namespace sealift::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxCheckpointFileBytes = 8u << 20;

struct VerifyArguments {
  std::string file;
  std::vector<std::string> public_keys;
  std::vector<std::string> checkpoints;
};

// journal.pub.pem and journal-<n>.pub.pem: of all generations.
std::vector<std::string> KeysBeside(const fs::path& journal) {
  std::vector<std::string> files;
  const fs::path folder = journal.has_parent_path() ? journal.parent_path() : fs::path(".");
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename();
    const bool later = name.starts_with("journal-") && name.ends_with(".pub.pem");
    if (name == hsm::kJournalPublicKeyFile || later) files.push_back(entry->path());
  }
  std::ranges::sort(files);
  return files;
}

Result<hsm::JournalVerifyOptions> LoadOptions(const VerifyArguments& arguments) {
  hsm::JournalVerifyOptions options;
  std::vector<std::string> files = arguments.public_keys;
  if (files.empty()) files = KeysBeside(arguments.file);
  for (const std::string& file : files) {
    SEALIFT_ASSIGN_OR_RETURN(const std::string pem, ReadTextFile(file, kMaxCertificateBytes));
    auto key = PublicKey::FromPem(pem);
    if (!key.ok()) return Annotate(key.status(), fmt::format("read '{}'", file));
    options.keys.push_back(*std::move(key));
  }
  for (const std::string& file : arguments.checkpoints) {
    SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file, kMaxCheckpointFileBytes));
    auto found = hsm::FindCheckpoints(text);
    if (!found.ok()) return Annotate(found.status(), fmt::format("read '{}'", file));
    options.checkpoints.insert(options.checkpoints.end(), found->begin(), found->end());
  }
  return options;
}

std::string Summary(const hsm::JournalReport& report, bool with_keys) {
  std::string text = fmt::format("journal {}: {} records, {} to {}\n", report.journal, report.records,
                                 FormatRfc3339(report.first_at), FormatRfc3339(report.last_at));
  if (!with_keys) {
    text += "  no key was given: only that its lines follow each other was checked\n";
  } else if (report.proven_up_to == 0) {
    text += "  it holds no signed checkpoint: only that its lines follow each other is shown\n";
  }
  text += fmt::format(
      "  complete up to {}{}\n", with_keys && report.proven_up_to > 0 ? report.proven_up_to : report.records,
      with_keys && report.proven_up_to > 0 && report.proven_up_to < report.records
          ? fmt::format(", {} records after it are not covered yet", report.records - report.proven_up_to)
          : "");
  if (report.agreed > 0) text += fmt::format("  agrees with {} checkpoints seen elsewhere\n", report.agreed);
  if (report.open > 0) text += fmt::format("  {} operations without outcome\n", report.open);
  if (report.recoveries > 0)
    text += fmt::format("  {} times cut within a line and taken up again\n", report.recoveries);
  if (report.unfinished_bytes > 0)
    text += fmt::format("  last line unfinished ({} bytes)\n", report.unfinished_bytes);
  for (const auto& [key_id, uses] : report.uses) {
    text += fmt::format("  {:<18} {} {} ok, {} failed, {} unfinished\n", uses.key_name,
                        key_id.hex().substr(0, 16), uses.ok, uses.failed, uses.unfinished);
  }
  if (report.tls_handshakes > 0) text += fmt::format("  {} TLS handshakes\n", report.tls_handshakes);
  return text;
}

nlohmann::json ToJson(const hsm::JournalReport& report) {
  nlohmann::json findings = nlohmann::json::array();
  for (const hsm::JournalFinding& finding : report.findings) {
    findings.push_back({{"finding", std::string(hsm::JournalFindingName(finding.kind))},
                        {"sequence", finding.sequence},
                        {"message", finding.message},
                        {"reason", std::string(ReasonId(finding.reason()))}});
  }
  nlohmann::json uses = nlohmann::json::array();
  for (const auto& [key_id, one] : report.uses) {
    uses.push_back({{"key", one.key_name},
                    {"key_id", key_id.hex()},
                    {"ok", one.ok},
                    {"failed", one.failed},
                    {"unfinished", one.unfinished}});
  }
  return {{"journal", report.journal},
          {"records", report.records},
          {"head", report.head.hex()},
          {"checkpoints", report.checkpoints},
          {"proven_up_to", report.proven_up_to},
          {"checkpoints_agreed", report.agreed},
          {"tls_handshakes", report.tls_handshakes},
          {"open", report.open},
          {"recoveries", report.recoveries},
          {"unfinished_bytes", report.unfinished_bytes},
          {"findings", findings},
          {"uses", uses}};
}

Status Verify(const VerifyArguments& arguments, Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const hsm::JournalVerifyOptions options, LoadOptions(arguments));
  SEALIFT_ASSIGN_OR_RETURN(const hsm::JournalReport report, hsm::VerifyJournal(arguments.file, options));
  if (session.json()) {
    std::printf("%s\n", ToJson(report).dump(2).c_str());
    session.exit_code = report.findings.empty() ? 0 : 1;
    return OkStatus();
  }
  for (const hsm::JournalFinding& finding : report.findings) {
    std::printf("%s: %s\n", std::string(hsm::JournalFindingName(finding.kind)).c_str(),
                finding.message.c_str());
  }
  if (report.findings.empty()) {
    std::printf("%s", Summary(report, !options.keys.empty()).c_str());
    return OkStatus();
  }
  return MakeError(Code::kDataLoss, report.findings.front().reason(),
                   fmt::format("verify '{}': {}", arguments.file, report.findings.front().message));
}

struct ListArguments {
  std::string file;
  std::string key;
  std::uint64_t from = 1;
};

struct Describer {
  std::string operator()(const hsm::JournalBegin& body) const { return "journal " + body.journal; }
  std::string operator()(const hsm::JournalKeyEvent& body) const {
    return fmt::format("{} {} ({})", body.key_name, body.event, body.label);
  }
  std::string operator()(const hsm::JournalIntent& body) const {
    return fmt::format("{} {} digest {}",
                       body.key_name.empty() ? body.key_id.hex().substr(0, 16) : body.key_name, body.intent,
                       HexEncode(body.digest).substr(0, 16));
  }
  std::string operator()(const hsm::JournalOutcome& body) const {
    return fmt::format(
        "of {} {} {}", body.of, hsm::JournalResultName(body.result),
        body.result == hsm::JournalResult::kOk ? body.signature.hex().substr(0, 16) : body.reason);
  }
  std::string operator()(const hsm::JournalRecovery& body) const {
    return fmt::format("{} bytes of an unfinished line cut", body.cut_bytes);
  }
  std::string operator()(const hsm::JournalCheckpoint& body) const {
    return fmt::format("covers {}, {} TLS handshakes", body.sequence, body.tls_handshakes);
  }
};

// With --key, what concerns that key alone.
class Filter {
 public:
  explicit Filter(const ListArguments& arguments) : arguments_(arguments) {}
  bool Takes(const hsm::JournalRecord& record) {
    const bool fits = Fits(record);
    return fits && record.sequence >= arguments_.from;
  }

 private:
  bool Fits(const hsm::JournalRecord& record) {
    if (arguments_.key.empty()) return true;
    const auto named = [&](const std::string& name, const Sha256Digest& id) {
      return name == arguments_.key || id.hex() == arguments_.key;
    };
    if (const auto* event = std::get_if<hsm::JournalKeyEvent>(&record.body)) {
      return named(event->key_name, event->key_id);
    }
    if (const auto* intent = std::get_if<hsm::JournalIntent>(&record.body)) {
      if (!named(intent->key_name, intent->key_id)) return false;
      intents_.insert(record.sequence);
      return true;
    }
    const auto* outcome = std::get_if<hsm::JournalOutcome>(&record.body);
    return outcome != nullptr && intents_.erase(outcome->of) == 1;
  }

  const ListArguments& arguments_;
  std::set<std::uint64_t> intents_;
};

Status List(const ListArguments& arguments, const Session& session) {
  Filter filter(arguments);
  // One JSON object at the end, or an error instead of it.
  std::string records;
  SEALIFT_RETURN_IF_ERROR(hsm::ReadJournal(arguments.file, [&](const hsm::JournalRecord& record) {
    if (!filter.Takes(record)) return true;
    if (session.json()) {
      records += (records.empty() ? "\n" : ",\n") + record.Line();
    } else {
      fmt::print("{:>8} {} {:<10} {}\n", record.sequence, FormatRfc3339(record.at), record.type(),
                 std::visit(Describer{}, record.body));
    }
    return true;
  }));
  if (session.json()) std::printf("{\"records\":[%s\n]}\n", records.c_str());
  return OkStatus();
}

struct CheckpointArguments {
  std::string keys;
  std::vector<std::string> tokens;
  std::string journal;
  std::vector<std::string> generations;
  std::string out;
};

Status Checkpoint(const CheckpointArguments& arguments) {
  SEALIFT_ASSIGN_OR_RETURN(const auto ring, hsm::KeyRing::Open(arguments.keys, arguments.tokens,
                                                               arguments.journal, arguments.generations));
  SEALIFT_ASSIGN_OR_RETURN(const auto checkpoint, ring->journal()->Checkpoint());
  if (!checkpoint.has_value()) {
    return MakeError(Code::kNotFound, Reason::kHsmKeyMissing,
                     "make checkpoint: no token given holds the journal key; add --token online=URI");
  }
  const std::string text = checkpoint->Json() + "\n";
  if (arguments.out.empty()) {
    std::printf("%s", text.c_str());
    return OkStatus();
  }
  return WriteFileAtomically(arguments.out, AsBytes(text));
}

}  // namespace

void AddJournalVerbs(CLI::App& app, Session& session) {
  CLI::App* journal = app.add_subcommand("journal", "what the keys were used for");
  journal->require_subcommand(1);

  const auto verify = std::make_shared<VerifyArguments>();
  CLI::App* verb =
      AddVerb(*journal, session, "verify",
              "find edits, removals, changes of order, and cuts against checkpoints seen elsewhere",
              "sealift journal verify keys/journal --public-key keys/journal.pub.pem "
              "--checkpoint timestamp.json",
              [verify, &session] { return Verify(*verify, session); });
  verb->add_option("FILE", verify->file, "the signing journal")->required();
  verb->add_option("--public-key", verify->public_keys,
                   "journal.pub.pem; repeatable, one a generation (default: those beside FILE)")
      ->allow_extra_args(false);
  verb->add_option("--checkpoint", verify->checkpoints,
                   "checkpoint seen elsewhere: its own file, a TUF timestamp or TUF targets; repeatable")
      ->allow_extra_args(false);
  verb->footer(verb->get_footer() +
               "\n1 is also: the journal was edited, cut or forked (JOURNAL_DAMAGED, JOURNAL_SHORT, "
               "JOURNAL_FORKED).");

  const auto list = std::make_shared<ListArguments>();
  verb =
      AddVerb(*journal, session, "list", "show the records", "sealift journal list keys/journal --key db-1",
              [list, &session] { return List(*list, session); });
  verb->add_option("FILE", list->file, "the signing journal")->required();
  verb->add_option("--key", list->key, "only of this key: role and generation (db-1) or its id in hex");
  verb->add_option("--from", list->from, "first sequence to show")->capture_default_str();

  const auto checkpoint = std::make_shared<CheckpointArguments>();
  verb = AddVerb(*journal, session, "checkpoint", "sign a checkpoint to keep elsewhere",
                 "sealift journal checkpoint --keys keys --token online=URI --out checkpoint.json",
                 [checkpoint] { return Checkpoint(*checkpoint); });
  verb->add_option("--keys", checkpoint->keys, "folder that keys init wrote")->required();
  AddTokenOption(*verb, checkpoint->tokens);
  AddJournalOption(*verb, checkpoint->journal);
  AddGenerationOption(*verb, checkpoint->generations);
  verb->add_option("--out", checkpoint->out, "file to write (default: stdout)");
}

}  // namespace sealift::cli
