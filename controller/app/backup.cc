#include "controller/app/backup.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>

#include "controller/publish/tuf_repository.h"
#include "controller/store/sqlite_backup.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/tuf/metadata.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int kFormat = 1;
constexpr char kListFile[] = "backup.json";
constexpr std::uint64_t kMaxListBytes = 256ull << 20;
constexpr std::size_t kBlock = 1u << 20;
constexpr std::uint32_t kLift = 1'000'000;
// A journal that is one file, not a folder.
const std::string kJournalItself = ".file";

struct Entry {
  std::uint64_t size = 0;
  std::string sha256;
};
using Entries = std::map<std::string, Entry>;

Status Invalid(const fs::path& backup, std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kBackupInvalid,
                   fmt::format("read backup '{}': {}", backup.string(), what));
}

Status Refused(const fs::path& place) {
  return MakeError(Code::kFailedPrecondition, Reason::kRestoreRefused,
                   fmt::format("restore to '{}': something is there already", place.string()));
}

Status Unwritable(const fs::path& path, std::string_view what) {
  return MakeError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("{} '{}'", what, path.string()));
}

// Copies up to `limit` bytes and makes them durable. The digest is of what was copied.
Result<Entry> CopyFile(const fs::path& from, const fs::path& to, std::uint64_t limit = UINT64_MAX) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(to.parent_path(), 0700));
  const UniqueFd in(open(from.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!in.valid()) {
    return MakeError(Code::kNotFound, Reason::kFileUnreadable, fmt::format("open '{}'", from.string()));
  }
  UniqueFd out(open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!out.valid()) return Unwritable(to, "create");
  Entry entry;
  Sha256Hasher hasher;
  Bytes buffer(kBlock);
  while (entry.size < limit) {
    const ssize_t got =
        read(in.get(), buffer.data(), std::min<std::uint64_t>(buffer.size(), limit - entry.size));
    if (got < 0) {
      return MakeError(Code::kUnavailable, Reason::kFileUnreadable, fmt::format("read '{}'", from.string()));
    }
    if (got == 0) break;
    const ByteView piece = ByteView(buffer).first(static_cast<std::size_t>(got));
    hasher.Update(piece);
    entry.size += piece.size();
    SEALIFT_RETURN_IF_ERROR(WriteAll(out.get(), to, piece));
  }
  if (fsync(out.get()) != 0) return Unwritable(to, "sync");
  SEALIFT_RETURN_IF_ERROR(out.Close());
  entry.sha256 = hasher.Finish().hex();
  return entry;
}

Result<Entry> HashOf(const fs::path& path) {
  const UniqueFd in(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!in.valid()) {
    return MakeError(Code::kNotFound, Reason::kFileUnreadable, fmt::format("open '{}'", path.string()));
  }
  Entry entry;
  Sha256Hasher hasher;
  Bytes buffer(kBlock);
  for (;;) {
    const ssize_t got = read(in.get(), buffer.data(), buffer.size());
    if (got < 0) {
      return MakeError(Code::kUnavailable, Reason::kFileUnreadable, fmt::format("read '{}'", path.string()));
    }
    if (got == 0) break;
    hasher.Update(ByteView(buffer).first(static_cast<std::size_t>(got)));
    entry.size += static_cast<std::uint64_t>(got);
  }
  entry.sha256 = hasher.Finish().hex();
  return entry;
}

// Relative paths of the regular files below `folder`, or "" for `folder` itself where it is a file.
Result<std::vector<std::string>> FilesBelow(const fs::path& folder) {
  std::vector<std::string> files;
  std::error_code error;
  if (fs::is_regular_file(folder, error)) return std::vector<std::string>{""};
  if (!fs::is_directory(folder, error)) return files;
  for (auto entry = fs::recursive_directory_iterator(folder, error);
       !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_regular_file(ignored) && !entry->is_symlink(ignored)) {
      files.push_back(entry->path().lexically_relative(folder).string());
    }
  }
  if (error) {
    return MakeError(Code::kUnavailable, Reason::kFileUnreadable,
                     fmt::format("list '{}': {}", folder.string(), error.message()));
  }
  std::sort(files.begin(), files.end());
  return files;
}

class BackupWriter {
 public:
  BackupWriter(const ControllerConfig& config, fs::path folder)
      : config_(config), folder_(std::move(folder)) {}

  Status Database() {
    const fs::path to = folder_ / "state" / kDatabaseFile;
    SEALIFT_RETURN_IF_ERROR(MakeDirectories(to.parent_path(), 0700));
    SEALIFT_RETURN_IF_ERROR(CopyDatabase(config_.state_dir / kDatabaseFile, to));
    SEALIFT_ASSIGN_OR_RETURN(entries_[std::string("state/") + kDatabaseFile], HashOf(to));
    return OkStatus();
  }

  // The timestamp first: everything it leads to is there already and does not change.
  Status Metadata() {
    const fs::path from = config_.state_dir / "tuf";
    std::error_code error;
    if (fs::exists(from / "timestamp.json", error)) {
      SEALIFT_RETURN_IF_ERROR(Copy(from / "timestamp.json", "state/tuf/timestamp.json"));
      SEALIFT_RETURN_IF_ERROR(ReadVersions());
    }
    SEALIFT_ASSIGN_OR_RETURN(const auto files, FilesBelow(from));
    for (const std::string& file : files) {
      const bool numbered = !file.empty() && file.front() >= '0' && file.front() <= '9';
      if (numbered && file.ends_with(".json"))
        SEALIFT_RETURN_IF_ERROR(Copy(from / file, "state/tuf/" + file));
    }
    return OkStatus();
  }

  // Logs and quotes that the rows of the database name; written before them, never changed.
  Status Evidence() {
    const fs::path from = config_.state_dir / "evidence";
    SEALIFT_ASSIGN_OR_RETURN(const auto files, FilesBelow(from));
    for (const std::string& file : files)
      SEALIFT_RETURN_IF_ERROR(Copy(from / file, "state/evidence/" + file));
    return OkStatus();
  }

  // Objects are immutable. One that was collected meanwhile is named by nothing any more.
  Status Content() {
    const fs::path from = config_.state_dir / "content";
    SEALIFT_ASSIGN_OR_RETURN(const auto files, FilesBelow(from));
    for (const std::string& file : files) {
      // What is on its way in, or was put aside, is no object.
      if (file.starts_with("incoming/")) continue;
      if (fs::path(file).filename().string().find_first_not_of("0123456789abcdef") != std::string::npos)
        continue;
      const Status copied = Copy(from / file, "state/content/" + file);
      if (!copied.ok() && copied.code() != Code::kNotFound) return copied;
    }
    return OkStatus();
  }

  Status Journal() {
    SEALIFT_ASSIGN_OR_RETURN(const auto files, FilesBelow(config_.journal));
    for (const std::string& file : files) {
      const fs::path from = file.empty() ? config_.journal : config_.journal / file;
      SEALIFT_RETURN_IF_ERROR(Copy(from, "journal/" + (file.empty() ? kJournalItself : file)));
    }
    return OkStatus();
  }

  Result<BackupSummary> Finish(UnixMillis now) {
    Json files = Json::array();
    for (const auto& [path, entry] : entries_) {
      files.push_back({{"path", path}, {"size", entry.size}, {"sha256", entry.sha256}});
      ++summary_.files;
      summary_.bytes += entry.size;
    }
    const Json list = {{"format", kFormat},
                       {"created", FormatRfc3339(now)},
                       {"timestamp_version", summary_.timestamp_version},
                       {"snapshot_version", summary_.snapshot_version},
                       {"targets_version", summary_.targets_version},
                       {"files", files}};
    SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(folder_ / kListFile, AsBytes(list.dump(1) + "\n"), 0600));
    return summary_;
  }

 private:
  Status Copy(const fs::path& from, const std::string& path) {
    if (entries_.contains(path)) return OkStatus();
    SEALIFT_ASSIGN_OR_RETURN(const Entry entry, CopyFile(from, folder_ / path));
    entries_[path] = entry;
    return OkStatus();
  }

  Status ReadVersions() {
    const auto read = [&](const std::string& name, std::size_t max) -> Result<tuf::Envelope> {
      SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(config_.state_dir / "tuf" / name, max));
      return tuf::ParseEnvelope(text, max);
    };
    const auto versions = [&]() -> Status {
      SEALIFT_ASSIGN_OR_RETURN(const std::string text,
                               ReadTextFile(folder_ / "state/tuf/timestamp.json", tuf::kMaxTimestampBytes));
      SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope file, tuf::ParseEnvelope(text, tuf::kMaxTimestampBytes));
      SEALIFT_ASSIGN_OR_RETURN(const tuf::Timestamp timestamp, tuf::ParseTimestamp(file));
      SEALIFT_ASSIGN_OR_RETURN(
          const tuf::Envelope snapshot_file,
          read(fmt::format("{}.snapshot.json", timestamp.snapshot.version), tuf::kMaxSnapshotBytes));
      SEALIFT_ASSIGN_OR_RETURN(const tuf::Snapshot snapshot, tuf::ParseSnapshot(snapshot_file));
      summary_.timestamp_version = timestamp.version;
      summary_.snapshot_version = snapshot.version;
      summary_.targets_version = snapshot.meta.at("targets.json").version;
      return OkStatus();
    };
    const Status read_all = versions();
    if (read_all.ok()) return OkStatus();
    return MakeError(Code::kDataLoss, Reason::kRepositoryDamaged,
                     fmt::format("back up metadata: {}", Describe(read_all)));
  }

  const ControllerConfig& config_;
  const fs::path folder_;
  Entries entries_;
  BackupSummary summary_;
};

// Below state/ or journal/, without a step up.
bool IsPathOfBackup(const std::string& text) {
  const fs::path path(text);
  if (path.is_absolute() || text.size() > 1024) return false;
  if (!text.starts_with("state/") && !text.starts_with("journal/")) return false;
  return std::none_of(path.begin(), path.end(),
                      [](const fs::path& part) { return part == ".." || part == "." || part.empty(); });
}

struct BackupList {
  Entries entries;
  BackupSummary summary;
};

Result<BackupList> ReadList(const fs::path& backup) {
  const Result<std::string> text = ReadTextFile(backup / kListFile, kMaxListBytes);
  if (!text.ok()) return Invalid(backup, Describe(text.status()));
  const Json list = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!list.is_object() || list.value("format", Json()) != kFormat || !list.contains("files") ||
      !list["files"].is_array()) {
    return Invalid(backup, fmt::format("'{}' is no list of format {}", kListFile, kFormat));
  }
  BackupList read;
  constexpr std::array kVersions = {"timestamp_version", "snapshot_version", "targets_version"};
  std::array<std::uint32_t, 3> versions{};
  for (std::size_t i = 0; i < kVersions.size(); ++i) {
    const Json value = list.value(kVersions.at(i), Json());
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > tuf::kMaxVersion / 4) {
      return Invalid(backup, fmt::format("'{}' is no version", kVersions.at(i)));
    }
    versions.at(i) = value.get<std::uint32_t>();
  }
  read.summary.timestamp_version = versions[0];
  read.summary.snapshot_version = versions[1];
  read.summary.targets_version = versions[2];
  for (const Json& file : list["files"]) {
    const bool shaped = file.is_object() && file.value("path", Json()).is_string() &&
                        file.value("size", Json()).is_number_unsigned() &&
                        file.value("sha256", Json()).is_string();
    if (!shaped || !IsPathOfBackup(file["path"]))
      return Invalid(backup, "the list names no file of a backup");
    read.entries[file["path"]] = {.size = file["size"], .sha256 = file["sha256"]};
    ++read.summary.files;
    read.summary.bytes += file["size"].get<std::uint64_t>();
  }
  if (!read.entries.contains(std::string("state/") + kDatabaseFile)) {
    return Invalid(backup, "the database is missing");
  }
  return read;
}

bool IsEmptyOrMissing(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(path, error))) return true;
  return fs::is_directory(fs::symlink_status(path, error)) && fs::is_empty(path, error) && !error;
}

// Where a file of the backup goes: into `state`, which becomes state_dir, or to a journal that lies
// elsewhere.
fs::path Destination(const ControllerConfig& config, const fs::path& state, const std::string& path) {
  if (path.starts_with("state/")) return state / path.substr(6);
  const std::string rest = path.substr(8);
  const fs::path inside = config.journal.lexically_relative(config.state_dir);
  const bool within = !inside.empty() && *inside.begin() != "..";
  const fs::path journal = within ? state / inside : config.journal;
  // A journal that is one file keeps the configured name.
  return rest == kJournalItself ? journal : journal / rest;
}

class Staging {
 public:
  explicit Staging(fs::path path) : path_(std::move(path)) { Clear(); }
  ~Staging() {
    if (!kept_) Clear();
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  const fs::path& path() const { return path_; }
  Status RenameTo(const fs::path& target) {
    if (rename(path_.c_str(), target.c_str()) != 0) return Unwritable(target, "rename to");
    kept_ = true;
    return SyncDirectory(target.parent_path());
  }

 private:
  void Clear() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  fs::path path_;
  bool kept_ = false;
};

fs::path Normal(const fs::path& path) {
  const fs::path normal = fs::absolute(path).lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

}  // namespace

Result<BackupSummary> BackUp(const ControllerConfig& config, const fs::path& out, const Clock& clock) {
  const fs::path target = Normal(out);
  std::error_code error;
  if (fs::exists(fs::symlink_status(target, error))) {
    return MakeError(Code::kAlreadyExists, Reason::kFileUnwritable,
                     fmt::format("back up to '{}': it is there already", target.string()));
  }
  Staging part(target.string() + ".part");
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(part.path(), 0700));
  BackupWriter writer(config, part.path());
  SEALIFT_RETURN_IF_ERROR(writer.Database());
  SEALIFT_RETURN_IF_ERROR(writer.Evidence());
  SEALIFT_RETURN_IF_ERROR(writer.Metadata());
  SEALIFT_RETURN_IF_ERROR(writer.Content());
  SEALIFT_RETURN_IF_ERROR(writer.Journal());
  SEALIFT_ASSIGN_OR_RETURN(const BackupSummary summary, writer.Finish(clock.Now()));
  SEALIFT_RETURN_IF_ERROR(part.RenameTo(target));
  return summary;
}

Result<BackupSummary> Restore(const ControllerConfig& config, const fs::path& backup,
                              const RestoreOptions& options, const Clock& clock) {
  const fs::path state = Normal(config.state_dir);
  if (!IsEmptyOrMissing(state)) return Refused(state);
  if (!IsEmptyOrMissing(config.journal)) return Refused(config.journal);
  SEALIFT_ASSIGN_OR_RETURN(const BackupList list, ReadList(backup));
  for (const auto& [path, entry] : list.entries) {
    const Result<Entry> found = HashOf(backup / path);
    if (!found.ok()) return Invalid(backup, Describe(found.status()));
    if (found->size != entry.size || found->sha256 != entry.sha256) {
      return Invalid(backup, fmt::format("'{}' is not the file that was backed up", path));
    }
  }
  Staging part(state.string() + ".restoring");
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(part.path(), 0700));
  for (const auto& [path, entry] : list.entries) {
    SEALIFT_ASSIGN_OR_RETURN(const Entry copied,
                             CopyFile(backup / path, Destination(config, part.path(), path)));
    if (copied.sha256 != entry.sha256)
      return Invalid(backup, fmt::format("'{}' changes while it is read", path));
  }
  SEALIFT_RETURN_IF_ERROR(VoidWhatWasOpen(part.path() / kDatabaseFile, clock.Now()));
  const std::uint32_t above = std::max(
      options.seen_version, std::max(list.summary.timestamp_version, list.summary.snapshot_version) + kLift);
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(part.path() / "tuf", 0700));
  SEALIFT_RETURN_IF_ERROR(
      WriteFileAtomically(part.path() / "tuf" / kLiftFile, AsBytes(std::to_string(above))));
  SEALIFT_RETURN_IF_ERROR(part.RenameTo(state));
  return list.summary;
}

}  // namespace sealift::controller
