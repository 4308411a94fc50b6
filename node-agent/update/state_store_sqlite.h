// StateStore in one SQLite file: WAL, synchronous=FULL, numbered migrations, read as untrusted input.
//
// Not thread-safe. Holds the file's lock while it lives, so that two agents never share a state. The schema
// found must be, to the letter, the one that this build's migrations make; every value is checked on reading.
#pragma once

#include <sqlite3.h>

#include <filesystem>
#include <memory>

#include "node-agent/update/state_store.h"

namespace sealift::agent {

// A state of 64 failures is some 200 KB; anything near this is not ours.
inline constexpr std::uint64_t kMaxStateFileBytes = 16u << 20;

class SqliteStateStore final : public StateStore {
 public:
  // Opens or creates `file`; its directory must exist.
  // Errors: DATA_LOSS/STATE_CORRUPT (no database, damaged, another schema, not a regular file, too large);
  // FAILED_PRECONDITION/STATE_TOO_NEW; UNAVAILABLE/STATE_IO, also while another process has it;
  // RESOURCE_EXHAUSTED/DISK_FULL.
  static Result<std::unique_ptr<SqliteStateStore>> Open(const std::filesystem::path& file);

  Result<NodeState> Load() override;
  Status Commit(const StateChange& change) override;

 private:
  struct CloseDatabase {
    void operator()(sqlite3* database) const { sqlite3_close_v2(database); }
  };
  using Database = std::unique_ptr<sqlite3, CloseDatabase>;
  explicit SqliteStateStore(Database database) : database_(std::move(database)) {}
  Status Prepare();
  Status Migrate();
  Status CheckSchema();
  Status Write(const StateChange& change);

  Database database_;
};

}  // namespace sealift::agent
