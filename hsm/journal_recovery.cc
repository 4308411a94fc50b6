// What Journal::Open does with a file that is there already.
#include <fmt/format.h>

#include "hsm/journal.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"

namespace sealift::hsm {

// What the lines from the last checkpoint on say.
struct Journal::Tail {
  std::string id;
  std::uint64_t sequence = 0;
  Sha256Digest head;
  std::set<std::uint64_t> open;
  std::optional<JournalCheckpoint> last;
  // Size of all whole lines, and what follows them.
  std::uint64_t end = 0;
  std::string rest;
};

namespace {

Status Damaged(const std::filesystem::path& path, std::string_view what) {
  return MakeError(Code::kDataLoss, Reason::kJournalDamaged,
                   fmt::format("open signing journal '{}': {}", path.string(), what));
}

bool SignedByOneOf(const JournalCheckpoint& checkpoint, const std::vector<PublicKey>& trusted) {
  for (const PublicKey& key : trusted) {
    if (checkpoint.Verify(key).ok()) return true;
  }
  return trusted.empty();
}

}  // namespace

Result<Journal::Tail> Journal::ReadTail() {
  SEALIFT_ASSIGN_OR_RETURN(const ResumePoint from, FindResumePoint(file_.fd(), file_.size()));
  Tail tail;
  if (from.checkpoint.has_value()) {
    if (!SignedByOneOf(*from.checkpoint, options_.trusted)) {
      return Damaged(path_, fmt::format("the checkpoint of record {} is not signed by the journal key",
                                        from.checkpoint->sequence));
    }
    tail.id = from.checkpoint->journal;
    tail.sequence = from.checkpoint->sequence;
    tail.head = from.checkpoint->head;
    tail.open.insert(from.checkpoint->open.begin(), from.checkpoint->open.end());
    tail.last = from.checkpoint;
  }
  JournalLines lines(file_.fd(), from.offset);
  while (true) {
    SEALIFT_ASSIGN_OR_RETURN(const auto line, lines.Next());
    if (!line.has_value()) break;
    const auto record = JournalRecord::Parse(*line);
    if (!record.ok()) {
      return Damaged(path_, fmt::format("after record {}: {}", tail.sequence, MessageOf(record.status())));
    }
    if (record->sequence != tail.sequence + 1 || record->previous != tail.head) {
      return Damaged(path_, fmt::format("record {} does not follow record {} as it is now", record->sequence,
                                        tail.sequence));
    }
    tail.sequence = record->sequence;
    tail.head = Sha256(AsBytes(*line));
    if (const auto* begin = std::get_if<JournalBegin>(&record->body)) tail.id = begin->journal;
    if (std::holds_alternative<JournalIntent>(record->body)) tail.open.insert(record->sequence);
    if (const auto* outcome = std::get_if<JournalOutcome>(&record->body)) tail.open.erase(outcome->of);
  }
  tail.end = lines.offset();
  tail.rest = std::string(lines.Rest());
  if (tail.sequence > 0 && tail.id.empty()) return Damaged(path_, "its first record is no beginning");
  return tail;
}

// A signature of an unfinished operation never left: the writer ended before it could have been released.
Status Journal::CloseUnfinished(const Tail& tail) {
  if (!tail.rest.empty()) {
    SEALIFT_RETURN_IF_ERROR(file_.Truncate(tail.end));
    // Nothing at all was there: begin as with an empty file.
    if (sequence_ == 0) {
      SEALIFT_RETURN_IF_ERROR(Begin());
    }
    SEALIFT_RETURN_IF_ERROR(
        Append(JournalRecovery{.cut_bytes = tail.rest.size(), .cut_digest = Sha256(AsBytes(tail.rest))})
            .status());
  }
  for (const std::uint64_t intent : tail.open) {
    SEALIFT_RETURN_IF_ERROR(
        Append(JournalOutcome{.of = intent, .result = JournalResult::kUnfinished}).status());
  }
  if (tail.rest.empty() && tail.open.empty()) return OkStatus();
  log::Warning("the signing journal's last writer was interrupted; its records are closed as unfinished",
               {{"path", path_.string()},
                {"unfinished", std::to_string(tail.open.size())},
                {"cut_bytes", std::to_string(tail.rest.size())}});
  return OkStatus();
}

Status Journal::Recover() {
  SEALIFT_ASSIGN_OR_RETURN(const Tail tail, ReadTail());
  id_ = tail.id;
  sequence_ = tail.sequence;
  head_ = tail.head;
  last_ = tail.last;
  SEALIFT_RETURN_IF_ERROR(CloseUnfinished(tail));
  // Also what the writer before did not get to flush.
  SEALIFT_RETURN_IF_ERROR(file_.Sync());
  synced_ = file_.size();
  return OkStatus();
}

}  // namespace sealift::hsm
