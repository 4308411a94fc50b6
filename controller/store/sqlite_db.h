// SQLite as this project uses it: WAL, synchronous=FULL, one writer with group commit, readers beside it.
//
// SqliteDb is thread-safe; a connection and its statements belong to one call at a time. A write that
// returned OK is on disk. SQL is kept portable to PostgreSQL: $1.. in order of appearance, BIGINT/TEXT/BYTEA,
// no SQLite functions.
#pragma once

#include <sqlite3.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/status.h"

namespace sealift::controller {

// A prepared statement in use. Reset when it goes out of scope. Values are bound from left to right.
class SqliteStatement {
 public:
  explicit SqliteStatement(sqlite3_stmt* statement) : statement_(statement) {}
  SqliteStatement(SqliteStatement&& other) noexcept;
  SqliteStatement& operator=(SqliteStatement&&) = delete;
  ~SqliteStatement();

  SqliteStatement& Text(std::string_view value);
  SqliteStatement& Blob(ByteView value);
  SqliteStatement& Integer(std::int64_t value);
  SqliteStatement& Time(UnixMillis value) { return Integer(ToUnixMs(value)); }
  SqliteStatement& Null();

  // True while there is a row.
  Result<bool> Step();
  // For statements without rows. The result is how many rows changed.
  Result<int> Run();

  // Columns of the current row, from 0.
  std::string TextAt(int column) const;
  Bytes BlobAt(int column) const;
  std::int64_t IntegerAt(int column) const;
  UnixMillis TimeAt(int column) const { return FromUnixMs(IntegerAt(column)); }
  bool NullAt(int column) const;

 private:
  Status Error(std::string_view call) const;
  sqlite3_stmt* statement_;
  int bound_ = 0;
  int bind_error_ = SQLITE_OK;
};

class SqliteConnection {
 public:
  static Result<std::unique_ptr<SqliteConnection>> Open(const std::filesystem::path& path);
  ~SqliteConnection();
  SqliteConnection(const SqliteConnection&) = delete;
  SqliteConnection& operator=(const SqliteConnection&) = delete;

  // Prepared once a connection, then reused. `sql` is a literal of the program, never text from outside.
  Result<SqliteStatement> Prepare(const char* sql);
  // Several statements, no values.
  Status Script(const char* sql);
  bool InTransaction() const { return sqlite3_get_autocommit(db_) == 0; }

 private:
  explicit SqliteConnection(sqlite3* db) : db_(db) {}
  sqlite3* db_;
  std::unordered_map<const char*, sqlite3_stmt*> statements_;
};

struct Migration {
  int version;
  const char* name;
  const char* sql;
};

class SqliteDb {
 public:
  using Work = std::function<Status(SqliteConnection&)>;

  // Commits what is queued first.
  ~SqliteDb();
  SqliteDb(const SqliteDb&) = delete;
  SqliteDb& operator=(const SqliteDb&) = delete;

  // Creates the file (0600) or brings its schema up to date. Errors: UNAVAILABLE/STORE_FAILED;
  // FAILED_PRECONDITION/STORE_TOO_NEW when it holds migrations this build does not know.
  static Result<std::unique_ptr<SqliteDb>> Open(const std::filesystem::path& path,
                                                const std::vector<Migration>& migrations);

  using Done = std::function<void(const Status&)>;
  // Runs `work` in a transaction on the writer's thread and tells `done` when it is durable. What queues up
  // while a commit is under way shares the next one; each is rolled back alone when its own work fails.
  // `done` runs on the writer's thread: it must not block, and must not write.
  void WriteLater(Work work, Done done);
  // The same, waiting. Not from within a `done`.
  Status Write(const Work& work);
  // Runs `work` on a connection of its own, which sees the last commit.
  Status Read(const Work& work);
  // "ok", or what PRAGMA integrity_check found.
  Result<std::string> CheckIntegrity();

 private:
  struct Pending {
    Work work;
    Done done;
    Status result;
  };
  using Batch = std::deque<Pending>;
  explicit SqliteDb(std::filesystem::path path) : path_(std::move(path)) {}
  void CommitUntilStopped();
  void CommitBatch(Batch& batch);
  Status RunAlone(Pending& only);
  Status RunTogether(Batch& batch);

  std::filesystem::path path_;
  // Touched by the writer's thread, once that runs.
  std::unique_ptr<SqliteConnection> writer_;

  std::mutex write_mutex_;
  std::condition_variable work_waits_;
  // Guarded by write_mutex_.
  Batch queue_;
  bool stopping_ = false;

  std::mutex read_mutex_;
  // Guarded by read_mutex_.
  std::vector<std::unique_ptr<SqliteConnection>> idle_readers_;
  // Last: it uses all of the above.
  std::thread writer_thread_;
};

}  // namespace sealift::controller
