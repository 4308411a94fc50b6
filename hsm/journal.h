// The signing journal: what every private key of the hierarchy was used for, recorded before a signature
// leaves.
//
// An append-only file, one JSON record a line, each naming the hash of the line before. An intent is written
// before the token is asked, an outcome after it; Commit waits until both are on the disk, one flush for all
// that wait (docs/decisions/0030). Checkpoints, signed by the `journal` key, leave the machine and pin what
// was written.
//
// Thread-safe. One writer a file over all processes; opening a file that is open in this process returns the
// one that is open. The destructor writes a last checkpoint where there is something new to cover.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "hsm/journal_file.h"
#include "hsm/journal_record.h"
#include "shared/base/clock.h"
#include "shared/crypto/signer.h"

namespace sealift::hsm {

inline constexpr char kJournalFileName[] = "journal";
inline constexpr char kJournalPublicKeyFile[] = "journal.pub.pem";

struct JournalOptions {
  // A checkpoint is due after so many records or this long after the last one, at the next use of a key.
  std::uint64_t checkpoint_records = 1000;
  std::chrono::milliseconds checkpoint_interval = std::chrono::minutes(5);
  // Where it is given, the last checkpoint in the file must be signed by one of these.
  std::vector<PublicKey> trusted;
  // Borrowed; null is the system's.
  const Clock* clock = nullptr;
};

class Journal {
 public:
  // Begins the file when it is missing or empty. Otherwise proves the chain from the last checkpoint on, cuts
  // an unfinished last line away and closes intents without outcome as unfinished, with records that say so.
  // Errors: UNAVAILABLE/JOURNAL_IN_USE; UNAVAILABLE/JOURNAL_UNWRITABLE; DATA_LOSS/JOURNAL_DAMAGED.
  static Result<std::shared_ptr<Journal>> Open(const std::filesystem::path& path,
                                               JournalOptions options = {});
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;
  ~Journal();

  // Names a key in records: "db-1". Handshakes are counted for "controller-tls-<n>" only.
  void NameKey(const Sha256Digest& key_id, std::string name);
  // The `journal` key, recorded by the checkpoints it signs and by nothing else.
  void SetCheckpointSigner(std::shared_ptr<Signer> signer);

  // Before the token is asked. Returns the intent's sequence. Not durable yet, but a killed process leaves it
  // behind. Errors: JOURNAL_UNWRITABLE; nothing may be signed then.
  Result<std::uint64_t> RecordIntent(const Sha256Digest& key_id, const SigningRequest& request);
  // After it. Returns what Commit is to wait for. Errors: JOURNAL_UNWRITABLE; the signature may not leave
  // then, and the outcome is recorded as failed once the file can be written again.
  Result<std::uint64_t> RecordOutcome(std::uint64_t intent, const Result<Bytes>& signature);
  // Returns when everything up to `place` is on the disk. Errors: JOURNAL_UNWRITABLE.
  Status Commit(std::uint64_t place);
  // Whether the request is one TLS handshake to be counted, and counts it.
  // Errors: JOURNAL_UNWRITABLE where the file is lost and no count would ever reach it.
  Result<bool> CountHandshake(const Sha256Digest& key_id, const SigningRequest& request);
  Status RecordKeyEvent(const JournalKeyEvent& event);

  // Signs a checkpoint over all there is, unless nothing is new; the newest one either way. Nothing without a
  // checkpoint signer. Errors: JOURNAL_UNWRITABLE; those of the signer.
  Result<std::optional<JournalCheckpoint>> Checkpoint();
  // The same, where the options say it is due. Failures are logged: no signature waits for a checkpoint.
  void CheckpointIfDue();
  std::optional<JournalCheckpoint> last_checkpoint() const;
  // The present end of the chain, durable, unsigned.
  Result<JournalCheckpoint> Head();

  const std::filesystem::path& path() const { return path_; }

 private:
  Journal(JournalFile file, JournalOptions options);
  Status Begin();
  Status Recover();
  struct Tail;
  Result<Tail> ReadTail();
  Status CloseUnfinished(const Tail& tail);
  // Under mutex_. Returns the file's size after it.
  Result<std::uint64_t> Append(JournalBody body);
  Status WriteOwed();
  JournalCheckpoint Place() const;
  // Records and handshakes that the last checkpoint does not cover, itself aside.
  std::uint64_t Uncovered() const;
  // Under checkpoint_mutex_.
  Result<std::optional<JournalCheckpoint>> MakeCheckpoint();
  UnixMillis Now() const;

  const std::filesystem::path path_;
  const JournalOptions options_;

  // One checkpoint at a time. Taken before mutex_, and held while the token signs the checkpoint.
  std::mutex checkpoint_mutex_;
  // Guards all below. Held over write(2), so that lines follow each other, never over a flush or the token.
  mutable std::mutex mutex_;
  std::condition_variable synced_more_;
  JournalFile file_;
  std::shared_ptr<Signer> signer_;
  std::map<Sha256Digest, std::string> names_;
  std::string id_;
  std::uint64_t sequence_ = 0;
  Sha256Digest head_;
  std::set<std::uint64_t> open_;
  // Intents whose outcome did not fit on the disk.
  std::vector<std::uint64_t> owed_;
  // Since the last checkpoint, by key.
  std::map<Sha256Digest, std::uint64_t> handshakes_;
  std::optional<JournalCheckpoint> last_;
  std::chrono::steady_clock::time_point last_time_;
  bool syncing_ = false;
  std::uint64_t synced_ = 0;
  // Not OK once the end of the file is not known any more.
  Status broken_;
};

}  // namespace sealift::hsm
