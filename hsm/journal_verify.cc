#include "hsm/journal_verify.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <set>

#include "hsm/journal_file.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/tuf/json.h"

namespace sealift::hsm {
namespace {

constexpr auto kNames = std::to_array<std::string_view>({"edited", "removed", "reordered", "cut", "forked"});

// TUF targets are the largest that carries any.
constexpr std::size_t kMaxCheckpointFile = 8u << 20;
constexpr std::string_view kMember = "x-sealift-journal";

// Depth is bounded by the parser.
void CollectCheckpoints(const nlohmann::json& value, std::vector<const nlohmann::json*>& found) {
  if (!value.is_structured()) return;
  for (auto member = value.begin(); member != value.end(); ++member) {
    if (value.is_object() && member.key() == kMember) {
      found.push_back(&*member);
    } else {
      CollectCheckpoints(*member, found);
    }
  }
}

Result<UniqueFd> OpenToRead(const std::filesystem::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.valid()) return fd;
  return ErrnoError(errno == ENOENT ? Code::kNotFound : Code::kUnavailable, Reason::kFileUnreadable,
                    fmt::format("read signing journal '{}'", path.string()), "open", errno);
}

// What the chain is checked by.
struct Link {
  std::uint64_t sequence = 0;
  Sha256Digest previous;
  Sha256Digest hash;
  // The line is no record: sequence and previous are unknown.
  bool damaged = false;
};

class Verifier {
 public:
  explicit Verifier(const JournalVerifyOptions& options) : options_(options) {}

  void Take(std::string_view line);
  void CheckChain();
  void CheckCheckpoints();
  void CheckGiven();
  JournalReport& report() { return report_; }

 private:
  void Find(JournalFindingKind kind, std::uint64_t sequence, std::string message) {
    if (report_.findings.size() < kMaxFindings) {
      report_.findings.push_back({.kind = kind, .sequence = sequence, .message = std::move(message)});
    }
  }
  void Count(const JournalRecord& record);
  void CountOutcome(const JournalOutcome& outcome, std::uint64_t sequence);
  // Hash of the line of that record; null where there is none, or not one.
  const Sha256Digest* HashOf(std::uint64_t sequence) const;
  bool OneSigned(const JournalCheckpoint& checkpoint) const;

  const JournalVerifyOptions& options_;
  JournalReport report_;
  std::vector<Link> links_;
  std::map<std::uint64_t, Sha256Digest> open_;
  // With the sequence of its own record.
  std::vector<std::pair<std::uint64_t, JournalCheckpoint>> checkpoints_;
  std::vector<std::uint64_t> stray_outcomes_;
};

void Verifier::Take(std::string_view line) {
  Link link{.hash = Sha256(AsBytes(line))};
  const auto record = JournalRecord::Parse(line);
  if (record.ok()) {
    link.sequence = record->sequence;
    link.previous = record->previous;
    Count(*record);
  } else {
    link.damaged = true;
  }
  links_.push_back(link);
  report_.head = link.hash;
}

void Verifier::Count(const JournalRecord& record) {
  if (links_.empty()) report_.first_at = record.at;
  report_.last_at = record.at;
  if (const auto* begin = std::get_if<JournalBegin>(&record.body); begin != nullptr && links_.empty()) {
    report_.journal = begin->journal;
  } else if (const auto* intent = std::get_if<JournalIntent>(&record.body)) {
    open_.emplace(record.sequence, intent->key_id);
    report_.uses[intent->key_id].key_name = intent->key_name;
  } else if (const auto* outcome = std::get_if<JournalOutcome>(&record.body)) {
    CountOutcome(*outcome, record.sequence);
  } else if (const auto* checkpoint = std::get_if<JournalCheckpoint>(&record.body)) {
    report_.tls_handshakes += checkpoint->tls_handshakes;
    for (const auto& [key, count] : checkpoint->handshakes_by_key) report_.handshakes_by_key[key] += count;
    checkpoints_.emplace_back(record.sequence, *checkpoint);
  } else if (std::holds_alternative<JournalRecovery>(record.body)) {
    ++report_.recoveries;
  }
}

void Verifier::CountOutcome(const JournalOutcome& outcome, std::uint64_t sequence) {
  const auto intent = open_.find(outcome.of);
  if (intent == open_.end()) {
    stray_outcomes_.push_back(sequence);
    return;
  }
  JournalUses& uses = report_.uses[intent->second];
  if (outcome.result == JournalResult::kOk) ++uses.ok;
  if (outcome.result == JournalResult::kFailed) ++uses.failed;
  if (outcome.result == JournalResult::kUnfinished) ++uses.unfinished;
  open_.erase(intent);
}

void Verifier::CheckChain() {
  report_.records = links_.size();
  report_.open = open_.size();
  std::set<std::uint64_t> present;
  for (const Link& link : links_) present.insert(link.sequence);
  std::uint64_t expected = 1;
  const Link* before = nullptr;
  for (const Link& link : links_) {
    if (link.damaged) {
      Find(JournalFindingKind::kEdited, expected, fmt::format("line {} is no record any more", expected));
    } else if (link.sequence != expected) {
      // Whether the missing one is somewhere else tells a removal from a change of order.
      if (link.sequence < expected || present.count(expected) != 0) {
        Find(JournalFindingKind::kReordered, expected,
             fmt::format("record {} stands where record {} belongs", link.sequence, expected));
        return;
      }
      Find(JournalFindingKind::kRemoved, expected,
           link.sequence == expected + 1
               ? fmt::format("record {} is missing", expected)
               : fmt::format("records {} to {} are missing", expected, link.sequence - 1));
    } else if (before == nullptr ? link.previous != Sha256Digest{}
                                 : !before->damaged && link.previous != before->hash) {
      Find(JournalFindingKind::kEdited, expected == 1 ? 1 : expected - 1,
           fmt::format("record {} is not the one that record {} was written after",
                       expected == 1 ? 0 : expected - 1, expected));
    }
    expected = (link.damaged ? expected : link.sequence) + 1;
    before = &link;
  }
  if (!report_.findings.empty()) return;
  for (const std::uint64_t sequence : stray_outcomes_) {
    Find(JournalFindingKind::kEdited, sequence,
         fmt::format("record {} is the outcome of no open intent", sequence));
  }
}

const Sha256Digest* Verifier::HashOf(std::uint64_t sequence) const {
  if (sequence == 0 || sequence > links_.size()) return nullptr;
  const Link& link = links_[static_cast<std::size_t>(sequence - 1)];
  return link.sequence == sequence ? &link.hash : nullptr;
}

bool Verifier::OneSigned(const JournalCheckpoint& checkpoint) const {
  return std::any_of(options_.keys.begin(), options_.keys.end(),
                     [&](const PublicKey& key) { return checkpoint.Verify(key).ok(); });
}

void Verifier::CheckCheckpoints() {
  report_.checkpoints = checkpoints_.size();
  for (const auto& [sequence, checkpoint] : checkpoints_) {
    const Sha256Digest* covered = HashOf(checkpoint.sequence);
    if (!options_.keys.empty() && !OneSigned(checkpoint)) {
      Find(JournalFindingKind::kEdited, sequence,
           fmt::format("checkpoint in record {} is not signed by a journal key that was given", sequence));
    } else if (checkpoint.journal != report_.journal && !report_.journal.empty()) {
      Find(JournalFindingKind::kForked, sequence,
           fmt::format("checkpoint in record {} is of journal {}", sequence, checkpoint.journal));
    } else if (covered == nullptr || *covered != checkpoint.head || checkpoint.sequence >= sequence) {
      Find(JournalFindingKind::kEdited, checkpoint.sequence,
           fmt::format("record {} is not the one that the checkpoint in record {} covers",
                       checkpoint.sequence, sequence));
    } else if (!options_.keys.empty() && report_.findings.empty()) {
      report_.proven_up_to = std::max(report_.proven_up_to, checkpoint.sequence);
    }
  }
}

void Verifier::CheckGiven() {
  for (const JournalCheckpoint& given : options_.checkpoints) {
    const Sha256Digest* covered = HashOf(given.sequence);
    if (given.journal != report_.journal) {
      Find(JournalFindingKind::kForked, given.sequence,
           fmt::format("a checkpoint of journal {} was given; this file is {}", given.journal,
                       report_.journal));
    } else if (given.sequence > links_.size()) {
      Find(JournalFindingKind::kCut, links_.size() + 1,
           fmt::format("it ends at record {}, others saw record {}", links_.size(), given.sequence));
    } else if (covered == nullptr || *covered != given.head) {
      Find(JournalFindingKind::kForked, given.sequence,
           fmt::format("record {} is not the one that others saw", given.sequence));
    } else {
      ++report_.agreed;
    }
  }
}

Status CheckGivenSignatures(const JournalVerifyOptions& options) {
  for (const JournalCheckpoint& given : options.checkpoints) {
    if (options.keys.empty() || !given.key_id.has_value()) continue;
    Status status;
    for (const PublicKey& key : options.keys) {
      status = given.Verify(key);
      if (status.ok()) break;
    }
    SEALIFT_RETURN_IF_ERROR(status);
  }
  return OkStatus();
}

}  // namespace

std::string_view JournalFindingName(JournalFindingKind kind) {
  return kNames[static_cast<std::size_t>(kind)];
}

Reason JournalFinding::reason() const {
  if (kind == JournalFindingKind::kCut) return Reason::kJournalShort;
  return kind == JournalFindingKind::kForked ? Reason::kJournalForked : Reason::kJournalDamaged;
}

Result<JournalReport> VerifyJournal(const std::filesystem::path& path, const JournalVerifyOptions& options) {
  SEALIFT_RETURN_IF_ERROR(CheckGivenSignatures(options));
  SEALIFT_ASSIGN_OR_RETURN(const UniqueFd fd, OpenToRead(path));
  JournalLines lines(fd.get(), 0);
  Verifier verifier(options);
  while (true) {
    SEALIFT_ASSIGN_OR_RETURN(const auto line, lines.Next());
    if (!line.has_value()) break;
    verifier.Take(*line);
  }
  verifier.report().unfinished_bytes = lines.Rest().size();
  verifier.CheckChain();
  if (verifier.report().journal.empty() && verifier.report().uses.empty()) {
    return MakeError(Code::kDataLoss, Reason::kJournalDamaged,
                     fmt::format("verify '{}': it is no signing journal", path.string()));
  }
  verifier.CheckCheckpoints();
  verifier.CheckGiven();
  return std::move(verifier.report());
}

Status ReadJournal(const std::filesystem::path& path,
                   const std::function<bool(const JournalRecord&)>& visit) {
  SEALIFT_ASSIGN_OR_RETURN(const UniqueFd fd, OpenToRead(path));
  JournalLines lines(fd.get(), 0);
  std::uint64_t number = 0;
  while (true) {
    SEALIFT_ASSIGN_OR_RETURN(const auto line, lines.Next());
    if (!line.has_value()) return OkStatus();
    ++number;
    const auto record = JournalRecord::Parse(*line);
    if (!record.ok()) {
      return Annotate(record.status(), fmt::format("read '{}' line {}", path.string(), number));
    }
    if (!visit(*record)) return OkStatus();
  }
}

Result<std::vector<JournalCheckpoint>> FindCheckpoints(std::string_view text) {
  const auto refuse = [](std::string_view what) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed, fmt::format("read checkpoint: {}", what));
  };
  const auto parsed = tuf::ParseJson(text, {.max_bytes = kMaxCheckpointFile, .max_depth = 16});
  if (!parsed.ok() || !parsed->is_object()) return refuse("not a JSON object");
  std::vector<const nlohmann::json*> objects;
  if (parsed->contains("sequence")) {
    objects.push_back(&*parsed);
  } else {
    CollectCheckpoints(*parsed, objects);
  }
  std::vector<JournalCheckpoint> found;
  for (const nlohmann::json* object : objects) {
    SEALIFT_ASSIGN_OR_RETURN(JournalCheckpoint checkpoint,
                             JournalCheckpoint::Parse(tuf::CompactJson(*object)));
    found.push_back(std::move(checkpoint));
  }
  if (found.empty()) return refuse("there is none in it");
  return found;
}

}  // namespace sealift::hsm
