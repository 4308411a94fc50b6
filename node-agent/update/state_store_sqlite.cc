#include "node-agent/update/state_store_sqlite.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <iterator>
#include <limits>

#include "shared/base/ids.h"

namespace sealift::agent {
namespace {

// One entry a schema version; never edited once released, only appended to.
constexpr const char* kMigrations[] = {
    R"sql(
    CREATE TABLE update_record (
      id INTEGER PRIMARY KEY CHECK (id = 1), state INTEGER NOT NULL, channel TEXT NOT NULL,
      version TEXT NOT NULL, release_id BLOB NOT NULL, image_digest BLOB NOT NULL,
      image_size INTEGER NOT NULL, from_version TEXT NOT NULL, boot_id TEXT NOT NULL,
      since_ms INTEGER NOT NULL, attempts INTEGER NOT NULL, report_due INTEGER NOT NULL,
      report_accepted INTEGER NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL);
    CREATE TABLE version_failure (
      sequence INTEGER PRIMARY KEY, version TEXT NOT NULL UNIQUE, reason TEXT NOT NULL,
      message TEXT NOT NULL, at_unix_ms INTEGER NOT NULL, while_running TEXT NOT NULL);
    CREATE TABLE node_fact (
      id INTEGER PRIMARY KEY CHECK (id = 1), time_floor_unix_ms INTEGER NOT NULL,
      permitted_rollback TEXT NOT NULL, committed INTEGER NOT NULL);
    INSERT INTO node_fact VALUES (1, 0, '', 0);
    )sql",
    R"sql(
    CREATE TABLE blessed_boots (
      id INTEGER PRIMARY KEY CHECK (id = 1), image BLOB NOT NULL, count INTEGER NOT NULL,
      boot_id TEXT NOT NULL);
    )sql",
};
constexpr int kSchemaVersion = static_cast<int>(std::size(kMigrations));

Status Corrupt(std::string_view what) {
  return MakeError(Code::kDataLoss, Reason::kStateCorrupt, fmt::format("read update state: {}", what));
}

Status SqlError(sqlite3* database, std::string_view action) {
  const int code = sqlite3_errcode(database);
  const std::string message = fmt::format("{}: {}", action, sqlite3_errmsg(database));
  switch (code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_ERROR:
    case SQLITE_SCHEMA:
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
    case SQLITE_TOOBIG:
      return MakeError(Code::kDataLoss, Reason::kStateCorrupt, message);
    case SQLITE_FULL:
      return MakeError(Code::kResourceExhausted, Reason::kDiskFull, message);
    default:
      return MakeError(Code::kUnavailable, Reason::kStateIo, message);
  }
}

Status Execute(sqlite3* database, const char* sql) {
  if (sqlite3_exec(database, sql, nullptr, nullptr, nullptr) != SQLITE_OK) {
    return SqlError(database, "use update state");
  }
  return OkStatus();
}

// One prepared statement. Columns are read with their type checked: the first that differs is remembered.
class Statement {
 public:
  Statement(sqlite3* database, const char* sql) : database_(database) {
    if (sqlite3_prepare_v2(database, sql, -1, &statement_, nullptr) != SQLITE_OK) {
      status_ = SqlError(database, "use update state");
    }
  }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  ~Statement() { sqlite3_finalize(statement_); }

  void Bind(std::int64_t value) {
    if (status_.ok()) Check(sqlite3_bind_int64(statement_, ++bound_, value));
  }
  void Bind(std::string_view text) {
    if (!status_.ok()) return;
    Check(sqlite3_bind_text(statement_, ++bound_, text.data(), static_cast<int>(text.size()),
                            SQLITE_TRANSIENT));
  }
  void Bind(const Sha256Digest& digest) {
    if (!status_.ok()) return;
    Check(sqlite3_bind_blob(statement_, ++bound_, digest.bytes.data(), static_cast<int>(digest.bytes.size()),
                            SQLITE_TRANSIENT));
  }

  // Whether there is a (further) row.
  Result<bool> Step() {
    SEALIFT_RETURN_IF_ERROR(status_);
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    return SqlError(database_, "use update state");
  }
  Status Run() {
    SEALIFT_ASSIGN_OR_RETURN(const bool row, Step());
    return row ? Corrupt("a change gave rows") : OkStatus();
  }

  std::int64_t Integer(int column, std::int64_t min, std::int64_t max) {
    if (!IsType(column, SQLITE_INTEGER)) return min;
    const std::int64_t value = sqlite3_column_int64(statement_, column);
    if (value >= min && value <= max) return value;
    status_ = Corrupt(fmt::format("column {} is out of range", sqlite3_column_name(statement_, column)));
    return min;
  }
  std::string Text(int column, std::size_t max_bytes) {
    if (!IsType(column, SQLITE_TEXT)) return {};
    const unsigned char* text = sqlite3_column_text(statement_, column);
    const auto size = static_cast<std::size_t>(sqlite3_column_bytes(statement_, column));
    if (text != nullptr && size <= max_bytes) return {reinterpret_cast<const char*>(text), size};
    status_ = Corrupt(fmt::format("column {} is too long", sqlite3_column_name(statement_, column)));
    return {};
  }
  Sha256Digest Digest(int column) {
    if (!IsType(column, SQLITE_BLOB)) return {};
    const auto* data = static_cast<const std::uint8_t*>(sqlite3_column_blob(statement_, column));
    const auto size = static_cast<std::size_t>(sqlite3_column_bytes(statement_, column));
    auto digest = Sha256Digest::FromBytes({data, data == nullptr ? 0 : size});
    if (digest.ok()) return *digest;
    status_ = Corrupt(fmt::format("column {} is no digest", sqlite3_column_name(statement_, column)));
    return {};
  }
  const Status& status() const { return status_; }

 private:
  bool IsType(int column, int type) {
    if (!status_.ok()) return false;
    if (sqlite3_column_type(statement_, column) == type) return true;
    status_ = Corrupt(fmt::format("column {} is of another type", sqlite3_column_name(statement_, column)));
    return false;
  }
  void Check(int code) {
    if (code != SQLITE_OK) status_ = SqlError(database_, "use update state");
  }

  sqlite3* database_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
  Status status_;
};

Result<std::int64_t> Number(sqlite3* database, const char* sql) {
  Statement statement(database, sql);
  SEALIFT_ASSIGN_OR_RETURN(const bool row, statement.Step());
  if (!row) return Corrupt("a number is missing");
  const std::int64_t value = statement.Integer(0, 0, std::numeric_limits<std::int64_t>::max());
  SEALIFT_RETURN_IF_ERROR(statement.status());
  return value;
}

// Every object of a schema, with the text that made it.
Result<std::string> SchemaText(sqlite3* database) {
  Statement statement(
      database, "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name");
  std::string out;
  for (;;) {
    SEALIFT_ASSIGN_OR_RETURN(const bool row, statement.Step());
    if (!row) return out;
    for (int column = 0; column < 4; ++column) out += statement.Text(column, 4096) + "\x1f";
    SEALIFT_RETURN_IF_ERROR(statement.status());
    if (out.size() > 65536) return Corrupt("too many tables");
  }
}

// Of the database, or of one that SQLite keeps beside it.
Status CheckFile(const std::filesystem::path& file) {
  struct stat facts {};
  if (lstat(file.c_str(), &facts) != 0) {
    if (errno == ENOENT) return OkStatus();
    return ErrnoError(Code::kUnavailable, Reason::kStateIo,
                      fmt::format("open update state '{}'", file.string()), "lstat", errno);
  }
  if (!S_ISREG(facts.st_mode)) return Corrupt(fmt::format("'{}' is not a regular file", file.string()));
  if (static_cast<std::uint64_t>(facts.st_size) > kMaxStateFileBytes) {
    return Corrupt(fmt::format("'{}' is too large", file.string()));
  }
  return OkStatus();
}

constexpr std::int64_t kMaxMs = std::int64_t{1} << 50;

Result<UpdateRecord> ReadRecord(Statement& row) {
  UpdateRecord record;
  SEALIFT_ASSIGN_OR_RETURN(record.state, StoredStateFromNumber(row.Integer(0, 0, 255)));
  record.channel = row.Text(1, kMaxChannelBytes);
  record.version = row.Text(2, 64);
  record.release_id = row.Digest(3);
  record.image_digest = row.Digest(4);
  record.image_size = static_cast<std::uint64_t>(row.Integer(5, 0, std::numeric_limits<std::int64_t>::max()));
  record.from_version = row.Text(6, 64);
  record.boot_id = row.Text(7, kMaxBootIdBytes);
  record.since_ms = row.Integer(8, 0, kMaxMs);
  record.attempts = static_cast<std::uint32_t>(row.Integer(9, 0, std::numeric_limits<std::uint32_t>::max()));
  record.report_due = row.Integer(10, 0, 1) == 1;
  record.report_accepted = row.Integer(11, 0, 1) == 1;
  record.reason = row.Text(12, kMaxReasonBytes);
  record.message = row.Text(13, kMaxMessageBytes);
  SEALIFT_RETURN_IF_ERROR(row.status());
  SEALIFT_RETURN_IF_ERROR(CheckRecord(record));
  return record;
}

Result<VersionFailure> ReadFailure(Statement& row) {
  VersionFailure failure;
  failure.version = row.Text(0, 64);
  failure.reason = row.Text(1, kMaxReasonBytes);
  failure.message = row.Text(2, kMaxMessageBytes);
  failure.at = FromUnixMs(row.Integer(3, 0, kMaxMs));
  failure.while_running = row.Text(4, 64);
  SEALIFT_RETURN_IF_ERROR(row.status());
  SEALIFT_RETURN_IF_ERROR(CheckFailure(failure));
  return failure;
}

// A value that is not well formed means that the store is not.
template <typename T>
Status AsCorrupt(const Result<T>& result) {
  return ReasonOf(result.status()) == Reason::kMalformed ? Corrupt(MessageOf(result.status()))
                                                         : result.status();
}

Status WriteRecord(sqlite3* database, const UpdateRecord& record) {
  Statement statement(
      database, "INSERT OR REPLACE INTO update_record VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
  statement.Bind(static_cast<std::int64_t>(record.state));
  statement.Bind(record.channel);
  statement.Bind(record.version);
  statement.Bind(record.release_id);
  statement.Bind(record.image_digest);
  statement.Bind(static_cast<std::int64_t>(record.image_size));
  statement.Bind(record.from_version);
  statement.Bind(record.boot_id);
  statement.Bind(record.since_ms);
  statement.Bind(static_cast<std::int64_t>(record.attempts));
  statement.Bind(std::int64_t{record.report_due});
  statement.Bind(std::int64_t{record.report_accepted});
  statement.Bind(record.reason);
  statement.Bind(record.message);
  return statement.Run();
}

Status ForgetFailure(sqlite3* database, const std::string& version) {
  Statement statement(database, "DELETE FROM version_failure WHERE version = ?");
  statement.Bind(version);
  return statement.Run();
}

Status WriteFailure(sqlite3* database, const VersionFailure& failure) {
  SEALIFT_RETURN_IF_ERROR(ForgetFailure(database, failure.version));
  {
    Statement statement(
        database,
        "INSERT INTO version_failure (sequence, version, reason, message, at_unix_ms, while_running) "
        "VALUES ((SELECT coalesce(max(sequence), 0) + 1 FROM version_failure), ?, ?, ?, ?, ?)");
    statement.Bind(failure.version);
    statement.Bind(failure.reason);
    statement.Bind(failure.message);
    statement.Bind(ToUnixMs(failure.at));
    statement.Bind(failure.while_running);
    SEALIFT_RETURN_IF_ERROR(statement.Run());
  }
  Statement trim(database,
                 "DELETE FROM version_failure WHERE sequence NOT IN "
                 "(SELECT sequence FROM version_failure ORDER BY sequence DESC LIMIT ?)");
  trim.Bind(std::int64_t{kMaxFailures});
  return trim.Run();
}

}  // namespace

Result<std::unique_ptr<SqliteStateStore>> SqliteStateStore::Open(const std::filesystem::path& file) {
  for (const char* suffix : {"", "-wal", "-shm", "-journal"}) {
    SEALIFT_RETURN_IF_ERROR(CheckFile(file.string() + suffix));
  }
  sqlite3* raw = nullptr;
  const int code = sqlite3_open_v2(
      file.c_str(), &raw,
      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_FULLMUTEX, nullptr);
  Database database(raw);
  if (code != SQLITE_OK) return SqlError(raw, fmt::format("open update state '{}'", file.string()));
  std::unique_ptr<SqliteStateStore> store(new SqliteStateStore(std::move(database)));
  SEALIFT_RETURN_IF_ERROR(store->Prepare());
  SEALIFT_RETURN_IF_ERROR(store->Migrate());
  SEALIFT_RETURN_IF_ERROR(store->CheckSchema());
  return store;
}

Status SqliteStateStore::Prepare() {
  sqlite3* db = database_.get();
  sqlite3_extended_result_codes(db, 1);
  sqlite3_limit(db, SQLITE_LIMIT_LENGTH, 1 << 20);
  sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, nullptr);
  sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, nullptr);
  SEALIFT_RETURN_IF_ERROR(Execute(db, "PRAGMA cell_size_check = ON"));
  SEALIFT_RETURN_IF_ERROR(Execute(db, "PRAGMA locking_mode = EXCLUSIVE"));
  SEALIFT_RETURN_IF_ERROR(Execute(db, "PRAGMA journal_mode = WAL"));
  SEALIFT_RETURN_IF_ERROR(Execute(db, "PRAGMA synchronous = FULL"));
  // A write takes the lock now, not at the first transition.
  SEALIFT_RETURN_IF_ERROR(Execute(db, "BEGIN IMMEDIATE; COMMIT"));
  Statement check(db, "PRAGMA quick_check(1)");
  SEALIFT_ASSIGN_OR_RETURN(const bool row, check.Step());
  if (!row || check.Text(0, 4096) != "ok") return Corrupt("the database is damaged");
  return OkStatus();
}

Status SqliteStateStore::Migrate() {
  sqlite3* db = database_.get();
  SEALIFT_ASSIGN_OR_RETURN(const std::int64_t found, Number(db, "PRAGMA user_version"));
  if (found > kSchemaVersion) {
    return MakeError(Code::kFailedPrecondition, Reason::kStateTooNew,
                     fmt::format("open update state: schema {} is newer than {}", found, kSchemaVersion));
  }
  for (int version = static_cast<int>(found); version < kSchemaVersion; ++version) {
    const std::string sql =
        fmt::format("BEGIN IMMEDIATE;{}PRAGMA user_version = {};COMMIT", kMigrations[version], version + 1);
    if (const Status status = Execute(db, sql.c_str()); !status.ok()) {
      sqlite3_exec(db, "ROLLBACK", nullptr, nullptr, nullptr);
      return status;
    }
  }
  return OkStatus();
}

Status SqliteStateStore::CheckSchema() {
  sqlite3* raw = nullptr;
  const int code = sqlite3_open(":memory:", &raw);
  const Database model(raw);
  if (code != SQLITE_OK) return SqlError(raw, "check update state");
  for (const char* migration : kMigrations) SEALIFT_RETURN_IF_ERROR(Execute(raw, migration));
  SEALIFT_ASSIGN_OR_RETURN(const std::string expected, SchemaText(raw));
  SEALIFT_ASSIGN_OR_RETURN(const std::string found, SchemaText(database_.get()));
  return found == expected ? OkStatus() : Corrupt("the tables are not the agent's");
}

Result<NodeState> SqliteStateStore::Load() {
  sqlite3* db = database_.get();
  NodeState state;
  {
    Statement record(
        db,
        "SELECT state, channel, version, release_id, image_digest, image_size, from_version, boot_id, "
        "since_ms, attempts, report_due, report_accepted, reason, message FROM update_record");
    SEALIFT_ASSIGN_OR_RETURN(const bool row, record.Step());
    if (row) {
      auto read = ReadRecord(record);
      if (!read.ok()) return AsCorrupt(read);
      state.record = *std::move(read);
    }
  }
  Statement failures(db,
                     "SELECT version, reason, message, at_unix_ms, while_running FROM version_failure "
                     "ORDER BY sequence");
  for (;;) {
    SEALIFT_ASSIGN_OR_RETURN(const bool row, failures.Step());
    if (!row) break;
    auto read = ReadFailure(failures);
    if (!read.ok()) return AsCorrupt(read);
    state.failures.push_back(*std::move(read));
    if (std::ssize(state.failures) > kMaxFailures) return Corrupt("too many failures");
  }
  Statement facts(db, "SELECT time_floor_unix_ms, permitted_rollback, committed FROM node_fact");
  SEALIFT_ASSIGN_OR_RETURN(const bool row, facts.Step());
  if (!row) return Corrupt("the facts are missing");
  state.time_floor = FromUnixMs(facts.Integer(0, 0, kMaxMs));
  state.permitted_rollback = facts.Text(1, 64);
  state.fresh = facts.Integer(2, 0, 1) == 0;
  SEALIFT_RETURN_IF_ERROR(facts.status());
  if (!state.permitted_rollback.empty() && !IsValidVersion(state.permitted_rollback)) {
    return Corrupt("permitted version is not well formed");
  }
  Statement boots(db, "SELECT image, count, boot_id FROM blessed_boots");
  SEALIFT_ASSIGN_OR_RETURN(const bool counted, boots.Step());
  if (!counted) return state;
  StateChange read;
  read.blessed_boots =
      BlessedBoots{.image = boots.Digest(0),
                   .count = static_cast<std::uint32_t>(boots.Integer(1, 0, kMaxBlessedBoots)),
                   .boot_id = boots.Text(2, kMaxBootIdBytes)};
  SEALIFT_RETURN_IF_ERROR(boots.status());
  if (const Status checked = CheckChange(read); !checked.ok()) return Corrupt(MessageOf(checked));
  state.blessed_boots = *read.blessed_boots;
  return state;
}

Status SqliteStateStore::Commit(const StateChange& change) {
  if (const Status status = CheckChange(change); !status.ok()) {
    return MakeError(Code::kInvalidArgument, Reason::kInternal, MessageOf(status));
  }
  SEALIFT_RETURN_IF_ERROR(Execute(database_.get(), "BEGIN IMMEDIATE"));
  Status status = Write(change);
  if (status.ok()) status = Execute(database_.get(), "COMMIT");
  if (!status.ok() && sqlite3_get_autocommit(database_.get()) == 0) {
    sqlite3_exec(database_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
  }
  return status;
}

Status SqliteStateStore::Write(const StateChange& change) {
  sqlite3* db = database_.get();
  if (change.record) SEALIFT_RETURN_IF_ERROR(WriteRecord(db, *change.record));
  if (change.forget) SEALIFT_RETURN_IF_ERROR(ForgetFailure(db, *change.forget));
  if (change.remember) SEALIFT_RETURN_IF_ERROR(WriteFailure(db, *change.remember));
  if (change.time_floor) {
    Statement floor(db, "UPDATE node_fact SET time_floor_unix_ms = max(time_floor_unix_ms, ?)");
    floor.Bind(ToUnixMs(*change.time_floor));
    SEALIFT_RETURN_IF_ERROR(floor.Run());
  }
  if (change.permitted_rollback) {
    Statement permitted(db, "UPDATE node_fact SET permitted_rollback = ?");
    permitted.Bind(*change.permitted_rollback);
    SEALIFT_RETURN_IF_ERROR(permitted.Run());
  }
  if (change.blessed_boots) {
    Statement boots(db, "INSERT OR REPLACE INTO blessed_boots VALUES (1, ?, ?, ?)");
    boots.Bind(change.blessed_boots->image);
    boots.Bind(change.blessed_boots->count);
    boots.Bind(change.blessed_boots->boot_id);
    SEALIFT_RETURN_IF_ERROR(boots.Run());
  }
  return Statement(db, "UPDATE node_fact SET committed = 1").Run();
}

}  // namespace sealift::agent
