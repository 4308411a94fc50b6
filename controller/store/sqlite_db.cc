#include "controller/store/sqlite_db.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <semaphore>
#include <utility>

#include "shared/base/files.h"

namespace sealift::controller {
namespace {

constexpr int kBusyTimeoutMs = 10'000;
// As many as calls are commonly under way: opening one costs far more than keeping it.
constexpr std::size_t kMaxIdleReaders = 64;

Status SqliteError(sqlite3* db, std::string_view call) {
  return MakeError(
      Code::kUnavailable, Reason::kStoreFailed,
      fmt::format("use database: {}", db == nullptr ? "out of memory" : sqlite3_errmsg(db)),
      NativeError{.call = std::string(call),
                  .code = static_cast<std::uint64_t>(db == nullptr ? 0 : sqlite3_extended_errcode(db)),
                  .name = db == nullptr ? "" : sqlite3_errstr(sqlite3_errcode(db))});
}

Result<int> AppliedVersion(SqliteConnection& connection) {
  SEALIFT_RETURN_IF_ERROR(connection.Script(
      "CREATE TABLE IF NOT EXISTS schema_migrations (version BIGINT PRIMARY KEY, name TEXT NOT NULL)"));
  SEALIFT_ASSIGN_OR_RETURN(auto query,
                           connection.Prepare("SELECT COALESCE(MAX(version), 0) FROM schema_migrations"));
  SEALIFT_RETURN_IF_ERROR(query.Step().status());
  return static_cast<int>(query.IntegerAt(0));
}

Status ApplyMigration(SqliteConnection& connection, const Migration& migration) {
  SEALIFT_RETURN_IF_ERROR(connection.Script(migration.sql));
  SEALIFT_ASSIGN_OR_RETURN(
      auto insert, connection.Prepare("INSERT INTO schema_migrations (version, name) VALUES ($1, $2)"));
  return insert.Integer(migration.version).Text(migration.name).Run().status();
}

// In one transaction each, so that two programs that start at once do not both apply one.
Status Migrate(SqliteConnection& connection, const std::vector<Migration>& migrations) {
  SEALIFT_RETURN_IF_ERROR(connection.Script("BEGIN IMMEDIATE"));
  Status status = [&]() -> Status {
    SEALIFT_ASSIGN_OR_RETURN(const int applied, AppliedVersion(connection));
    if (!migrations.empty() && applied > migrations.back().version) {
      return MakeError(Code::kFailedPrecondition, Reason::kStoreTooNew,
                       fmt::format("open database: its schema is {}, this build knows {}", applied,
                                   migrations.back().version));
    }
    for (const Migration& migration : migrations) {
      if (migration.version <= applied) continue;
      if (Status done = ApplyMigration(connection, migration); !done.ok()) {
        return Annotate(done, fmt::format("apply migration {} '{}'", migration.version, migration.name));
      }
    }
    return OkStatus();
  }();
  if (status.ok()) return connection.Script("COMMIT");
  if (connection.InTransaction()) (void)connection.Script("ROLLBACK");
  return status;
}

}  // namespace

SqliteStatement::SqliteStatement(SqliteStatement&& other) noexcept
    : statement_(std::exchange(other.statement_, nullptr)),
      bound_(other.bound_),
      bind_error_(other.bind_error_) {}

SqliteStatement::~SqliteStatement() {
  if (statement_ == nullptr) return;
  // Its result repeats what Step already returned.
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

SqliteStatement& SqliteStatement::Text(std::string_view value) {
  const int error = sqlite3_bind_text64(statement_, ++bound_, value.data() == nullptr ? "" : value.data(),
                                        value.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
  if (error != SQLITE_OK) bind_error_ = error;
  return *this;
}

SqliteStatement& SqliteStatement::Blob(ByteView value) {
  const int error = sqlite3_bind_blob64(statement_, ++bound_,
                                        value.empty() ? reinterpret_cast<const void*>("") : value.data(),
                                        value.size(), SQLITE_TRANSIENT);
  if (error != SQLITE_OK) bind_error_ = error;
  return *this;
}

SqliteStatement& SqliteStatement::Integer(std::int64_t value) {
  if (const int error = sqlite3_bind_int64(statement_, ++bound_, value); error != SQLITE_OK)
    bind_error_ = error;
  return *this;
}

SqliteStatement& SqliteStatement::Null() {
  if (const int error = sqlite3_bind_null(statement_, ++bound_); error != SQLITE_OK) bind_error_ = error;
  return *this;
}

Status SqliteStatement::Error(std::string_view call) const {
  return SqliteError(sqlite3_db_handle(statement_), call);
}

Result<bool> SqliteStatement::Step() {
  if (bind_error_ != SQLITE_OK) return Error("sqlite3_bind");
  // A value for each placeholder, or the query means something else than its text.
  SEALIFT_CHECK(bound_ == sqlite3_bind_parameter_count(statement_));
  const int result = sqlite3_step(statement_);
  if (result == SQLITE_ROW) return true;
  if (result == SQLITE_DONE) return false;
  return Error("sqlite3_step");
}

Result<int> SqliteStatement::Run() {
  SEALIFT_ASSIGN_OR_RETURN(bool row, Step());
  while (row) {
    SEALIFT_ASSIGN_OR_RETURN(row, Step());
  }
  return sqlite3_changes(sqlite3_db_handle(statement_));
}

std::string SqliteStatement::TextAt(int column) const {
  const unsigned char* text = sqlite3_column_text(statement_, column);
  if (text == nullptr) return {};
  return {reinterpret_cast<const char*>(text),
          static_cast<std::size_t>(sqlite3_column_bytes(statement_, column))};
}

Bytes SqliteStatement::BlobAt(int column) const {
  const auto* data = static_cast<const std::uint8_t*>(sqlite3_column_blob(statement_, column));
  if (data == nullptr) return {};
  return {data, data + sqlite3_column_bytes(statement_, column)};
}

std::int64_t SqliteStatement::IntegerAt(int column) const { return sqlite3_column_int64(statement_, column); }
bool SqliteStatement::NullAt(int column) const {
  return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

Result<std::unique_ptr<SqliteConnection>> SqliteConnection::Open(const std::filesystem::path& path) {
  sqlite3* db = nullptr;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  const int opened = sqlite3_open_v2(path.c_str(), &db, flags, nullptr);
  std::unique_ptr<SqliteConnection> connection(new SqliteConnection(db));
  if (opened != SQLITE_OK) return Annotate(SqliteError(db, "sqlite3_open_v2"), path.string());
  sqlite3_busy_timeout(db, kBusyTimeoutMs);
  SEALIFT_RETURN_IF_ERROR(
      connection->Script("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                         "PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;"));
  return connection;
}

SqliteConnection::~SqliteConnection() {
  for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(db_);
}

Result<SqliteStatement> SqliteConnection::Prepare(const char* sql) {
  auto found = statements_.find(sql);
  if (found == statements_.end()) {
    sqlite3_stmt* statement = nullptr;
    if (sqlite3_prepare_v3(db_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr) != SQLITE_OK) {
      return SqliteError(db_, "sqlite3_prepare_v3");
    }
    found = statements_.emplace(sql, statement).first;
  }
  return SqliteStatement(found->second);
}

Status SqliteConnection::Script(const char* sql) {
  if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return SqliteError(db_, "sqlite3_exec");
  return OkStatus();
}

Result<std::unique_ptr<SqliteDb>> SqliteDb::Open(const std::filesystem::path& path,
                                                 const std::vector<Migration>& migrations) {
  // SQLite gives its side files the mode of the main file, so only this one needs care.
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file.valid()) {
    return ErrnoError(Code::kUnavailable, Reason::kStoreFailed,
                      fmt::format("open database {}", path.string()), "open", errno);
  }
  std::unique_ptr<SqliteDb> db(new SqliteDb(path));
  SEALIFT_ASSIGN_OR_RETURN(db->writer_, SqliteConnection::Open(path));
  if (Status migrated = Migrate(*db->writer_, migrations); !migrated.ok())
    return Annotate(migrated, path.string());
  db->writer_thread_ = std::thread([raw = db.get()] { raw->CommitUntilStopped(); });
  return db;
}

SqliteDb::~SqliteDb() {
  if (!writer_thread_.joinable()) return;
  {
    const std::lock_guard lock(write_mutex_);
    stopping_ = true;
  }
  work_waits_.notify_one();
  writer_thread_.join();
}

void SqliteDb::WriteLater(Work work, Done done) {
  bool first = false;
  {
    const std::lock_guard lock(write_mutex_);
    first = queue_.empty();
    queue_.push_back({.work = std::move(work), .done = std::move(done), .result = {}});
  }
  if (first) work_waits_.notify_one();
}

Status SqliteDb::Write(const Work& work) {
  // Shared: the writer's thread may still be in `release` when this caller is gone.
  struct Answer {
    Status status;
    std::binary_semaphore there{0};
  };
  const auto answer = std::make_shared<Answer>();
  WriteLater([&work](SqliteConnection& connection) { return work(connection); },
             [answer](const Status& status) {
               answer->status = status;
               answer->there.release();
             });
  answer->there.acquire();
  return answer->status;
}

void SqliteDb::CommitUntilStopped() {
  for (;;) {
    Batch batch;
    {
      std::unique_lock lock(write_mutex_);
      work_waits_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      batch.swap(queue_);
    }
    CommitBatch(batch);
    for (const Pending& member : batch) member.done(member.result);
  }
}

void SqliteDb::CommitBatch(Batch& batch) {
  Status status = writer_->Script("BEGIN IMMEDIATE");
  if (status.ok()) status = batch.size() == 1 ? RunAlone(batch.front()) : RunTogether(batch);
  if (status.ok()) {
    SEALIFT_CHECK(writer_->InTransaction());
    status = writer_->Script("COMMIT");
  }
  if (status.ok()) return;
  // Closes the transaction also where SQLite did so itself already, on a full disk for instance.
  if (writer_->InTransaction()) (void)writer_->Script("ROLLBACK");
  for (Pending& member : batch) {
    if (member.result.ok()) member.result = status;
  }
}

Status SqliteDb::RunAlone(Pending& only) {
  only.result = only.work(*writer_);
  return only.result;
}

Status SqliteDb::RunTogether(Batch& batch) {
  for (Pending& member : batch) {
    SEALIFT_RETURN_IF_ERROR(writer_->Script("SAVEPOINT member"));
    member.result = member.work(*writer_);
    if (!writer_->InTransaction()) {
      return MakeError(Code::kUnavailable, Reason::kStoreFailed,
                       "use database: the transaction was rolled back");
    }
    if (!member.result.ok()) SEALIFT_RETURN_IF_ERROR(writer_->Script("ROLLBACK TO member"));
    SEALIFT_RETURN_IF_ERROR(writer_->Script("RELEASE member"));
  }
  return OkStatus();
}

Status SqliteDb::Read(const Work& work) {
  std::unique_ptr<SqliteConnection> connection;
  {
    const std::lock_guard lock(read_mutex_);
    if (!idle_readers_.empty()) {
      connection = std::move(idle_readers_.back());
      idle_readers_.pop_back();
    }
  }
  if (!connection) {
    SEALIFT_ASSIGN_OR_RETURN(connection, SqliteConnection::Open(path_));
    SEALIFT_RETURN_IF_ERROR(connection->Script("PRAGMA query_only = ON"));
  }
  Status status = work(*connection);
  const std::lock_guard lock(read_mutex_);
  if (idle_readers_.size() < kMaxIdleReaders) idle_readers_.push_back(std::move(connection));
  return status;
}

Result<std::string> SqliteDb::CheckIntegrity() {
  std::string found;
  const Status status = Read([&](SqliteConnection& connection) -> Status {
    SEALIFT_ASSIGN_OR_RETURN(auto query, connection.Prepare("PRAGMA integrity_check"));
    SEALIFT_RETURN_IF_ERROR(query.Step().status());
    found = query.TextAt(0);
    return OkStatus();
  });
  if (!status.ok()) return status;
  return found;
}

}  // namespace sealift::controller
