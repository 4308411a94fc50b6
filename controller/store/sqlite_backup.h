// Copies of the controller's database, and what a restored one may no longer hold true.
//
// Plain functions over files; they need no SqliteDb.
#pragma once

#include <filesystem>

#include "shared/base/clock.h"
#include "shared/base/status.h"

namespace sealift::controller {

inline constexpr char kDatabaseFile[] = "controller.db";

// A whole and sound copy (SQLite's online backup, then an integrity check), while another process goes on
// writing. `to` must not exist. Errors: UNAVAILABLE/STORE_FAILED.
Status CopyDatabase(const std::filesystem::path& from, const std::filesystem::path& to);

// Of a database that nobody has open: nonces that were out are forgotten, open, approved and delivered
// requests and orders are cancelled, join tokens are revoked, rollouts pause; the audit log says that it was
// restored. Whoever holds a copy of what was open gains nothing from a restore. Errors:
// UNAVAILABLE/STORE_FAILED.
Status VoidWhatWasOpen(const std::filesystem::path& database, UnixMillis now);

}  // namespace sealift::controller
