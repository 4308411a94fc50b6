// One line of the signing journal, and a checkpoint of it: models, and the one JSON form of each.
//
// Plain values and pure functions; thread-safe. A record has exactly one form (compact JSON, members in byte
// order): a line that a parser would take but that is written otherwise is no record. Records are stored for
// years: never rename a member. docs/journal.md describes the file.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/crypto/public_key.h"

namespace sealift::hsm {

inline constexpr int kJournalFormat = 1;
// Without the line end. Writers stay far below.
inline constexpr std::size_t kMaxJournalLineBytes = 128u << 10;
inline constexpr std::size_t kMaxIntentBytes = 512;
// Operations under way at one checkpoint.
inline constexpr std::size_t kMaxOpenIntents = 4096;

// What travels: a place in the chain, signed by the `journal` key, or without signature where whatever
// carries it is signed.
struct JournalCheckpoint {
  // Random, 32 hex digits, given when the file was begun.
  std::string journal;
  // The last record covered, and the SHA-256 of its line: with it, of all before it.
  std::uint64_t sequence = 0;
  Sha256Digest head;
  UnixMillis at;
  // TLS handshakes since the checkpoint before.
  std::uint64_t tls_handshakes = 0;
  // The same by CKA_ID of the key that made them; empty in files of writers that counted the total only.
  std::map<Sha256Digest, std::uint64_t> handshakes_by_key;
  // Covered intents that have no outcome yet.
  std::vector<std::uint64_t> open;
  // CKA_ID of the `journal` key; absent when not signed.
  std::optional<Sha256Digest> key_id;
  Bytes signature;

  // What the signature is over: a fixed prefix, then the JSON without "signature".
  Bytes SignedBytes() const;
  std::string Json() const;
  // Bounded; members in any order. Errors: INVALID_ARGUMENT/MALFORMED.
  static Result<JournalCheckpoint> Parse(std::string_view json);
  // Errors: UNAUTHENTICATED/SIGNATURE_INVALID, also when it is not signed or by another key.
  Status Verify(const PublicKey& key) const;
};

// The first record.
struct JournalBegin {
  std::string journal;
};
// A key was "generated", "imported", "destroyed", "backed-up" or "restored".
struct JournalKeyEvent {
  std::string event;
  Sha256Digest key_id;
  // "db-1", as everywhere in this file; empty for a key of no role.
  std::string key_name;
  std::string label;
};
// Written before the token is asked.
struct JournalIntent {
  Sha256Digest key_id;
  std::string key_name;
  // One line of printable UTF-8: CleanIntent.
  std::string intent;
  Bytes digest;
};
enum class JournalResult { kOk, kFailed, kUnfinished };
std::string_view JournalResultName(JournalResult result);
// How the operation of an earlier intent ended.
struct JournalOutcome {
  // Sequence of the intent.
  std::uint64_t of = 0;
  JournalResult result = JournalResult::kOk;
  // SHA-256 of the signature as it left; of kOk only.
  Sha256Digest signature;
  // Reason id; of kFailed only.
  std::string reason;
};
// The writer before was killed within a line, which was cut away.
struct JournalRecovery {
  std::uint64_t cut_bytes = 0;
  Sha256Digest cut_digest;
};

using JournalBody = std::variant<JournalBegin, JournalKeyEvent, JournalIntent, JournalOutcome,
                                 JournalRecovery, JournalCheckpoint>;

struct JournalRecord {
  // From 1, without gaps.
  std::uint64_t sequence = 0;
  // SHA-256 of the line before, without its line end; zeros in the first.
  Sha256Digest previous;
  UnixMillis at;
  JournalBody body;

  // "begin", "key", "intent", "outcome", "recovery", "checkpoint".
  std::string_view type() const;
  // Without line end.
  std::string Line() const;
  // Errors: INVALID_ARGUMENT/JOURNAL_DAMAGED saying what is wrong with the line.
  static Result<JournalRecord> Parse(std::string_view line);
};

// At most kMaxIntentBytes of valid UTF-8 without control characters; what does not fit becomes '?' or is cut.
std::string CleanIntent(std::string_view text);

}  // namespace sealift::hsm
