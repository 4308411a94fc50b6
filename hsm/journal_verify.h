// What an auditor asks of a signing journal: is it whole, and what does it say about each key.
//
// Pure functions over a file that others may be writing; thread-safe. Memory: some 80 bytes a record.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hsm/journal_record.h"

namespace sealift::hsm {

enum class JournalFindingKind {
  // A line was changed, or a checkpoint in the file is not what the journal key signed.
  kEdited,
  kRemoved,
  kReordered,
  // Ends before a checkpoint that was given.
  kCut,
  // Says something else than a checkpoint that was given, or is another journal than its.
  kForked,
};
// "edited", "removed", "reordered", "cut", "forked".
std::string_view JournalFindingName(JournalFindingKind kind);

struct JournalFinding {
  JournalFindingKind kind = JournalFindingKind::kEdited;
  // The first record concerned.
  std::uint64_t sequence = 0;
  std::string message;
  // JOURNAL_DAMAGED, JOURNAL_SHORT or JOURNAL_FORKED.
  Reason reason() const;
};

struct JournalUses {
  std::string key_name;
  std::uint64_t ok = 0;
  std::uint64_t failed = 0;
  std::uint64_t unfinished = 0;
};

struct JournalReport {
  std::string journal;
  std::uint64_t records = 0;
  // Of the last record.
  Sha256Digest head;
  UnixMillis first_at;
  UnixMillis last_at;
  std::uint64_t checkpoints = 0;
  // Up to here no record can have been changed, removed or reordered: covered by a checkpoint in the file
  // whose signature fits a key given. 0 when there is none.
  std::uint64_t proven_up_to = 0;
  // Checkpoints given that the file agrees with.
  std::uint64_t agreed = 0;
  std::uint64_t tls_handshakes = 0;
  // Of those, the ones that a checkpoint gives to a key.
  std::map<Sha256Digest, std::uint64_t> handshakes_by_key;
  // Intents without outcome at the end: under way, or the writer was killed.
  std::uint64_t open = 0;
  // Times a writer was killed within a line.
  std::uint64_t recoveries = 0;
  // Bytes of an unfinished last line.
  std::uint64_t unfinished_bytes = 0;
  std::map<Sha256Digest, JournalUses> uses;
  // At most kMaxFindings, in the order of the file.
  std::vector<JournalFinding> findings;
};
inline constexpr std::size_t kMaxFindings = 20;

struct JournalVerifyOptions {
  // Every generation of the `journal` key. Without any, only the chain is checked and nothing is proven.
  std::vector<PublicKey> keys;
  // Seen elsewhere, signed or not: whoever gives them vouches for where they come from.
  std::vector<JournalCheckpoint> checkpoints;
};

// Errors: those of reading the file; DATA_LOSS/JOURNAL_DAMAGED where it is no journal at all;
// UNAUTHENTICATED/SIGNATURE_INVALID for a signed checkpoint given that none of `keys` signed.
Result<JournalReport> VerifyJournal(const std::filesystem::path& path, const JournalVerifyOptions& options);

// Every record in the order of the file, checked for its form alone; `visit` returns false to stop.
Status ReadJournal(const std::filesystem::path& path, const std::function<bool(const JournalRecord&)>& visit);

// Checkpoints as they travel: one alone, or all that JSON such as a TUF timestamp or TUF targets holds under
// "x-sealift-journal". Errors: INVALID_ARGUMENT/MALFORMED, also when there is none.
Result<std::vector<JournalCheckpoint>> FindCheckpoints(std::string_view json);

}  // namespace sealift::hsm
