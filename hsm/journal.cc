#include "hsm/journal.h"

#include <fmt/format.h>

#include <utility>

#include "shared/base/log.h"
#include "shared/crypto/hash.h"

namespace sealift::hsm {
namespace {

constexpr std::string_view kCountedRole = "controller-tls-";

struct OpenJournals {
  std::mutex mutex;
  std::map<std::string, std::weak_ptr<Journal>> journals;
};
OpenJournals& TheOpenJournals() {
  static OpenJournals& journals = *new OpenJournals;
  return journals;
}

const Clock& SystemTime() {
  static const SystemClock clock;
  return clock;
}

std::uint64_t Total(const std::map<Sha256Digest, std::uint64_t>& handshakes) {
  std::uint64_t total = 0;
  for (const auto& [key, count] : handshakes) total += count;
  return total;
}

// One name a file, however the path is spelled.
std::string NameOf(const std::filesystem::path& path) {
  std::error_code error;
  const auto canonical = std::filesystem::weakly_canonical(path, error);
  return error ? std::filesystem::absolute(path).string() : canonical.string();
}

}  // namespace

Journal::Journal(JournalFile file, JournalOptions options)
    : path_(file.path()), options_(std::move(options)), file_(std::move(file)) {
  last_time_ = std::chrono::steady_clock::now();
}

Result<std::shared_ptr<Journal>> Journal::Open(const std::filesystem::path& path, JournalOptions options) {
  OpenJournals& open = TheOpenJournals();
  const std::lock_guard lock(open.mutex);
  std::weak_ptr<Journal>& known = open.journals[NameOf(path)];
  if (std::shared_ptr<Journal> journal = known.lock()) return journal;
  SEALIFT_ASSIGN_OR_RETURN(JournalFile file, JournalFile::Open(path));
  std::shared_ptr<Journal> journal(new Journal(std::move(file), std::move(options)));
  SEALIFT_RETURN_IF_ERROR(journal->file_.size() == 0 ? journal->Begin() : journal->Recover());
  known = journal;
  return journal;
}

Journal::~Journal() {
  if (const auto checkpoint = Checkpoint(); !checkpoint.ok()) {
    log::Error("the signing journal was closed without a checkpoint",
               {{"path", path_.string()},
                {"reason", ReasonIdOf(checkpoint.status())},
                {"error", MessageOf(checkpoint.status())}});
  }
}

Status Journal::Begin() {
  id_ = HexEncode(RandomBytes(16));
  SEALIFT_RETURN_IF_ERROR(Append(JournalBegin{.journal = id_}).status());
  SEALIFT_RETURN_IF_ERROR(file_.Sync());
  synced_ = file_.size();
  return SyncDirectory(path_.parent_path());
}

UnixMillis Journal::Now() const { return (options_.clock == nullptr ? SystemTime() : *options_.clock).Now(); }

void Journal::NameKey(const Sha256Digest& key_id, std::string name) {
  const std::lock_guard lock(mutex_);
  names_.insert_or_assign(key_id, std::move(name));
}

void Journal::SetCheckpointSigner(std::shared_ptr<Signer> signer) {
  const std::lock_guard lock(mutex_);
  signer_ = std::move(signer);
}

Result<std::uint64_t> Journal::Append(JournalBody body) {
  SEALIFT_RETURN_IF_ERROR(broken_);
  const JournalRecord record{
      .sequence = sequence_ + 1, .previous = head_, .at = Now(), .body = std::move(body)};
  std::string line = record.Line();
  const Sha256Digest hash = Sha256(AsBytes(line));
  line += '\n';
  if (const Status written = file_.Append(line); !written.ok()) {
    if (!file_.usable()) broken_ = written;
    return written;
  }
  sequence_ = record.sequence;
  head_ = hash;
  return file_.size();
}

Status Journal::WriteOwed() {
  while (!owed_.empty()) {
    SEALIFT_RETURN_IF_ERROR(
        Append(JournalOutcome{.of = owed_.back(),
                              .result = JournalResult::kFailed,
                              .reason = std::string(ReasonId(Reason::kJournalUnwritable))})
            .status());
    open_.erase(owed_.back());
    owed_.pop_back();
  }
  return OkStatus();
}

Result<std::uint64_t> Journal::RecordIntent(const Sha256Digest& key_id, const SigningRequest& request) {
  const std::lock_guard lock(mutex_);
  SEALIFT_RETURN_IF_ERROR(WriteOwed());
  if (open_.size() >= kMaxOpenIntents) {
    return MakeError(Code::kUnavailable, Reason::kHsmBusy,
                     fmt::format("record signature in '{}': {} are under way", path_.string(), open_.size()));
  }
  const auto name = names_.find(key_id);
  SEALIFT_RETURN_IF_ERROR(Append(JournalIntent{.key_id = key_id,
                                               .key_name = name == names_.end() ? "" : name->second,
                                               .intent = CleanIntent(request.intent),
                                               .digest = ToBytes(request.digest)})
                              .status());
  open_.insert(sequence_);
  return sequence_;
}

Result<std::uint64_t> Journal::RecordOutcome(std::uint64_t intent, const Result<Bytes>& signature) {
  JournalOutcome outcome{.of = intent};
  if (signature.ok()) {
    outcome.signature = Sha256(*signature);
  } else {
    outcome.result = JournalResult::kFailed;
    outcome.reason = ReasonIdOf(signature.status());
  }
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(open_.count(intent) == 1);
  const auto place = Append(outcome);
  if (!place.ok()) {
    owed_.push_back(intent);
    return place;
  }
  open_.erase(intent);
  return place;
}

Status Journal::Commit(std::uint64_t place) {
  std::unique_lock lock(mutex_);
  while (synced_ < place) {
    SEALIFT_RETURN_IF_ERROR(broken_);
    if (syncing_) {
      synced_more_.wait(lock);
      continue;
    }
    // The first one flushes for all; whoever comes meanwhile waits for the next flush.
    syncing_ = true;
    const std::uint64_t target = file_.size();
    lock.unlock();
    const Status flushed = file_.Sync();
    lock.lock();
    syncing_ = false;
    if (flushed.ok()) {
      synced_ = target;
    } else {
      // The kernel may have dropped the pages and will call the next flush a success (fsync(2), notes).
      broken_ = flushed;
    }
    synced_more_.notify_all();
  }
  return OkStatus();
}

Result<bool> Journal::CountHandshake(const Sha256Digest& key_id, const SigningRequest& request) {
  if (!request.tls_handshake) return false;
  const std::lock_guard lock(mutex_);
  const auto name = names_.find(key_id);
  if (name == names_.end() || !name->second.starts_with(kCountedRole)) return false;
  SEALIFT_RETURN_IF_ERROR(broken_);
  ++handshakes_[key_id];
  return true;
}

Status Journal::RecordKeyEvent(const JournalKeyEvent& event) {
  std::uint64_t place = 0;
  {
    const std::lock_guard lock(mutex_);
    SEALIFT_RETURN_IF_ERROR(WriteOwed());
    SEALIFT_ASSIGN_OR_RETURN(place, Append(event));
  }
  return Commit(place);
}

// --- checkpoints

JournalCheckpoint Journal::Place() const {
  return {.journal = id_,
          .sequence = sequence_,
          .head = head_,
          .at = Now(),
          .tls_handshakes = Total(handshakes_),
          .handshakes_by_key = handshakes_,
          .open = std::vector<std::uint64_t>(open_.begin(), open_.end())};
}

Result<JournalCheckpoint> Journal::Head() {
  JournalCheckpoint head;
  std::uint64_t place = 0;
  {
    const std::lock_guard lock(mutex_);
    head = Place();
    place = file_.size();
  }
  SEALIFT_RETURN_IF_ERROR(Commit(place));
  return head;
}

std::uint64_t Journal::Uncovered() const {
  return sequence_ - (last_.has_value() ? last_->sequence + 1 : 0) + Total(handshakes_);
}

Result<std::optional<JournalCheckpoint>> Journal::Checkpoint() {
  const std::lock_guard one_at_a_time(checkpoint_mutex_);
  return MakeCheckpoint();
}

Result<std::optional<JournalCheckpoint>> Journal::MakeCheckpoint() {
  std::shared_ptr<Signer> signer;
  JournalCheckpoint checkpoint;
  {
    const std::lock_guard lock(mutex_);
    if (signer_ == nullptr || Uncovered() == 0) return last_;
    SEALIFT_RETURN_IF_ERROR(WriteOwed());
    signer = signer_;
    checkpoint = Place();
  }
  // Others go on recording meanwhile: the record below says which place it covers.
  checkpoint.key_id = signer->public_key().key_id();
  SEALIFT_ASSIGN_OR_RETURN(checkpoint.signature,
                           signer->SignMessage(checkpoint.SignedBytes(), "journal checkpoint"));
  std::uint64_t place = 0;
  {
    const std::lock_guard lock(mutex_);
    SEALIFT_ASSIGN_OR_RETURN(place, Append(checkpoint));
    for (const auto& [key, count] : checkpoint.handshakes_by_key) {
      const auto left = handshakes_.find(key);
      left->second -= count;
      if (left->second == 0) handshakes_.erase(left);
    }
    last_time_ = std::chrono::steady_clock::now();
  }
  // It pins records that others will be asked for: it leaves only when they are on the disk.
  SEALIFT_RETURN_IF_ERROR(Commit(place));
  const std::lock_guard lock(mutex_);
  last_ = checkpoint;
  return last_;
}

void Journal::CheckpointIfDue() {
  const std::unique_lock one_at_a_time(checkpoint_mutex_, std::try_to_lock);
  if (!one_at_a_time.owns_lock()) return;
  {
    const std::lock_guard lock(mutex_);
    const auto age = std::chrono::steady_clock::now() - last_time_;
    const std::uint64_t fresh = Uncovered();
    if (signer_ == nullptr || fresh == 0) return;
    if (fresh < options_.checkpoint_records && age < options_.checkpoint_interval) return;
  }
  if (const auto made = MakeCheckpoint(); !made.ok()) {
    log::Warning("the signing journal could not be checkpointed", {{"path", path_.string()},
                                                                   {"reason", ReasonIdOf(made.status())},
                                                                   {"error", MessageOf(made.status())}});
  }
}

std::optional<JournalCheckpoint> Journal::last_checkpoint() const {
  const std::lock_guard lock(mutex_);
  return last_;
}

}  // namespace sealift::hsm
