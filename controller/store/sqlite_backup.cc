#include "controller/store/sqlite_backup.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <memory>

#include "controller/fleet/request.h"
#include "controller/fleet/rollout.h"
#include "controller/store/sqlite_db.h"

namespace sealift::controller {
namespace {

struct CloseDatabase {
  void operator()(sqlite3* db) const { sqlite3_close_v2(db); }
};
using Database = std::unique_ptr<sqlite3, CloseDatabase>;

constexpr int kBusyMs = 10'000;

Status Failed(std::string_view what, const std::filesystem::path& path, sqlite3* db) {
  return MakeError(
      Code::kUnavailable, Reason::kStoreFailed,
      fmt::format("{} '{}': {}", what, path.string(), db == nullptr ? "no memory" : sqlite3_errmsg(db)));
}

Result<Database> OpenPlain(const std::filesystem::path& path, int flags) {
  sqlite3* raw = nullptr;
  const int result = sqlite3_open_v2(path.c_str(), &raw, flags, nullptr);
  Database db(raw);
  if (result != SQLITE_OK) return Failed("open database", path, raw);
  sqlite3_busy_timeout(raw, kBusyMs);
  return db;
}

Status CheckIntegrity(const std::filesystem::path& path) {
  SEALIFT_ASSIGN_OR_RETURN(const auto connection, SqliteConnection::Open(path));
  SEALIFT_ASSIGN_OR_RETURN(auto query, connection->Prepare("PRAGMA integrity_check"));
  SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
  if (row && query.TextAt(0) == "ok") return OkStatus();
  return MakeError(Code::kUnavailable, Reason::kStoreFailed,
                   fmt::format("copy database to '{}': the copy is not sound", path.string()));
}

Status RevokeTokens(SqliteConnection& connection) {
  SEALIFT_ASSIGN_OR_RETURN(
      auto query,
      connection.Prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'join_tokens'"));
  SEALIFT_ASSIGN_OR_RETURN(const bool there, query.Step());
  if (!there) return OkStatus();
  return connection.Script("UPDATE join_tokens SET revoked = 1 WHERE revoked = 0");
}

}  // namespace

Status CopyDatabase(const std::filesystem::path& from, const std::filesystem::path& to) {
  SEALIFT_ASSIGN_OR_RETURN(const Database source, OpenPlain(from, SQLITE_OPEN_READWRITE));
  {
    SEALIFT_ASSIGN_OR_RETURN(const Database copy, OpenPlain(to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE |
                                                                    SQLITE_OPEN_EXCLUSIVE));
    sqlite3_backup* const backup = sqlite3_backup_init(copy.get(), "main", source.get(), "main");
    if (backup == nullptr) return Failed("copy database to", to, copy.get());
    const int stepped = sqlite3_backup_step(backup, -1);
    const int finished = sqlite3_backup_finish(backup);
    if (stepped != SQLITE_DONE || finished != SQLITE_OK) return Failed("copy database to", to, copy.get());
  }
  return CheckIntegrity(to);
}

Status VoidWhatWasOpen(const std::filesystem::path& database, UnixMillis now) {
  SEALIFT_ASSIGN_OR_RETURN(const auto connection, SqliteConnection::Open(database));
  static_assert(
      static_cast<int>(RequestState::kDelivered) == 3 && static_cast<int>(RequestState::kCancelled) == 6 &&
      static_cast<int>(RolloutState::kRunning) == 1 && static_cast<int>(RolloutState::kPaused) == 2);
  SEALIFT_RETURN_IF_ERROR(connection->Script(
      "BEGIN IMMEDIATE;"
      "UPDATE node_check_ins SET quote_nonce = NULL, quote_nonce_expires_ms = 0;"
      "UPDATE change_requests SET state = 6, deliverable = 0, envelope = '' WHERE state <= 3;"
      "UPDATE rollouts SET state = 2, revision = revision + 1 WHERE state = 1"));
  SEALIFT_RETURN_IF_ERROR(RevokeTokens(*connection));
  {
    SEALIFT_ASSIGN_OR_RETURN(
        auto audit,
        connection->Prepare("INSERT INTO audit (at_ms, operator_name, role, rpc, request, outcome) "
                            "VALUES ($1, $2, $3, $4, $5, $6)"));
    SEALIFT_RETURN_IF_ERROR(audit.Time(now)
                                .Text("sealift-controller")
                                .Text("local")
                                .Text("restore")
                                .Text("nonces, tokens, requests and orders that were open are void")
                                .Text("OK")
                                .Run()
                                .status());
  }
  return connection->Script("COMMIT");
}

}  // namespace sealift::controller
