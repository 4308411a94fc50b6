// What a reader of metadata remembers of the signing journals behind it: the furthest place seen of each.
//
//   JournalWatch watch(store);
//   Status finding = watch.See(targets.timestamp().journal_checkpoint);   // after each refresh
//
// A controller that cuts its journal, or tells two stories, has to show a place that does not follow from one
// shown before. The store is not trusted: lost memory begins anew, and a forged one raises a false alarm at
// worst. Not thread-safe. docs/journal.md.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/tuf/client.h"

namespace sealift::tuf {

// What of a checkpoint pins the journal: that record `sequence` of journal `journal` has a line that hashes
// to `head`.
struct JournalPlace {
  // 32 hex digits.
  std::string journal;
  std::uint64_t sequence = 0;
  Sha256Digest head;
  bool operator==(const JournalPlace&) const = default;
};

// Of the "x-sealift-journal" object; other members are skipped. Bounded (16 KiB).
// Errors: INVALID_ARGUMENT/MALFORMED.
Result<JournalPlace> ParseJournalPlace(std::string_view json);

class JournalWatch {
 public:
  // Borrows the store and keeps one file in it, "journals.json".
  explicit JournalWatch(TrustedMetadataStore& store) : store_(store) {}

  // Compares a verified timestamp's checkpoint with the furthest seen, and remembers it where it is further.
  // OK for no checkpoint, the same, or a further one. Findings: DATA_LOSS/JOURNAL_SHORT for one that ends
  // before what was seen; DATA_LOSS/JOURNAL_FORKED for another line at the same place, or for another journal
  // than at the last call (said once a change; both are remembered). Errors that are no finding:
  // INVALID_ARGUMENT/MALFORMED; those of the store.
  Status See(std::string_view checkpoint_json);

 private:
  TrustedMetadataStore& store_;
};

// Whether a status of See is a finding about the journal rather than an error of looking.
bool IsJournalFinding(const Status& status);

}  // namespace sealift::tuf
