// Who may become a node: the inventory, join tokens, refusals.
#include <fmt/format.h>

#include "controller/attest/quote_clock.h"
#include "controller/store/codec.h"
#include "controller/store/sqlite_stores.h"

namespace sealift::controller {
namespace {

// Strangers write them: more than this and the oldest go.
constexpr std::int64_t kMostRefusals = 10'000;

class SqliteInventoryStore final : public InventoryStore {
 public:
  explicit SqliteInventoryStore(SqliteDb& db) : db_(db) {}

  Result<InventoryChange> Import(const std::vector<InventoryEntry>& entries) override {
    InventoryChange change;
    const Status written = db_.Write([&](SqliteConnection& connection) -> Status {
      change = {};
      for (const InventoryEntry& entry : entries) {
        SEALIFT_ASSIGN_OR_RETURN(const bool known, IsListed(connection, entry.ek.ek_digest));
        ++(known ? change.replaced : change.added);
        SEALIFT_ASSIGN_OR_RETURN(
            auto write, connection.Prepare(
                            "INSERT INTO admitted_eks (ek_digest, labels, note, admitted_by, at_ms, serial) "
                            "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (ek_digest) DO UPDATE SET "
                            "labels = excluded.labels, note = excluded.note, serial = excluded.serial"));
        write.Blob(entry.ek.ek_digest.view()).Text(EncodeLabels(entry.ek.labels)).Text(entry.ek.note);
        write.Text(entry.ek.admitted_by).Time(entry.ek.at).Text(entry.serial);
        SEALIFT_RETURN_IF_ERROR(write.Run().status());
      }
      return OkStatus();
    });
    if (!written.ok()) return written;
    return change;
  }

  Result<std::vector<InventoryEntry>> List(const InventoryQuery& wanted) override {
    std::vector<InventoryEntry> entries;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query,
          connection.Prepare("SELECT a.ek_digest, a.labels, a.note, a.admitted_by, a.at_ms, a.serial, n.id "
                             "FROM admitted_eks a LEFT JOIN nodes n ON n.ek_digest = a.ek_digest "
                             "WHERE a.ek_digest > $1 ORDER BY a.ek_digest"));
      query.Blob(wanted.after ? ByteView(wanted.after->bytes) : ByteView());
      while (entries.size() < wanted.limit) {
        SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
        if (!row) break;
        if (wanted.not_enrolled && !query.NullAt(6)) continue;
        InventoryEntry entry;
        SEALIFT_ASSIGN_OR_RETURN(entry.ek.ek_digest, Sha256Digest::FromBytes(query.BlobAt(0)));
        SEALIFT_ASSIGN_OR_RETURN(entry.ek.labels, DecodeLabels(query.TextAt(1)));
        entry.ek.note = query.TextAt(2);
        entry.ek.admitted_by = query.TextAt(3);
        entry.ek.at = query.TimeAt(4);
        entry.serial = query.TextAt(5);
        if (!query.NullAt(6)) {
          SEALIFT_ASSIGN_OR_RETURN(entry.node_id, NodeId::Parse(query.TextAt(6)));
        }
        entries.push_back(std::move(entry));
      }
      return OkStatus();
    }));
    return entries;
  }

  Status Withdraw(const Sha256Digest& ek_digest) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto owner, connection.Prepare("SELECT id FROM nodes WHERE ek_digest = $1 AND admission <> $2"));
      owner.Blob(ek_digest.view()).Integer(static_cast<std::int64_t>(Admission::kPending));
      SEALIFT_ASSIGN_OR_RETURN(const bool enrolled, owner.Step());
      if (enrolled) {
        return MakeError(Code::kFailedPrecondition, Reason::kEkClaimed,
                         fmt::format("withdraw endorsement key {}: its machine is node {}; revoke the node",
                                     ek_digest.hex(), owner.TextAt(0)));
      }
      SEALIFT_ASSIGN_OR_RETURN(auto drop,
                               connection.Prepare("DELETE FROM admitted_eks WHERE ek_digest = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const int dropped, drop.Blob(ek_digest.view()).Run());
      if (dropped == 1) return OkStatus();
      return MakeError(Code::kNotFound, Reason::kEkNotListed,
                       fmt::format("withdraw endorsement key {}: it is not listed", ek_digest.hex()));
    });
  }

  Status ReplaceEk(const NodeId& id, const Sha256Digest& ek_digest, UnixMillis now) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_RETURN_IF_ERROR(FreeEk(connection, id, ek_digest));
      SEALIFT_ASSIGN_OR_RETURN(
          auto update, connection.Prepare("UPDATE nodes SET ek_digest = $1, ak_public = $2, verdict = NULL, "
                                          "verdict_trust = 0, verdict_decided_ms = 0, verdict_boot = '', "
                                          "certificate_not_after_ms = 0 WHERE id = $3"));
      SEALIFT_ASSIGN_OR_RETURN(const int changed,
                               update.Blob(ek_digest.view()).Blob(ByteView()).Text(id.text()).Run());
      if (changed != 1) {
        return MakeError(Code::kNotFound, Reason::kNodeUnknown, fmt::format("find node {}", id.text()));
      }
      SEALIFT_ASSIGN_OR_RETURN(auto clock, connection.Prepare("DELETE FROM quote_clocks WHERE node_id = $1"));
      SEALIFT_RETURN_IF_ERROR(clock.Text(id.text()).Run().status());
      SEALIFT_ASSIGN_OR_RETURN(
          auto revoke,
          connection.Prepare(
              "INSERT INTO revocations (sha256, reason, at_ms) SELECT sha256, 'board replaced', $1 "
              "FROM certificates WHERE subject = $2 AND not_after_ms > $3 "
              "ON CONFLICT (sha256) DO NOTHING"));
      return revoke.Time(now).Text(id.SubjectUri()).Time(now).Run().status();
    });
  }

 private:
  static Result<bool> IsListed(SqliteConnection& connection, const Sha256Digest& ek_digest) {
    SEALIFT_ASSIGN_OR_RETURN(auto query,
                             connection.Prepare("SELECT 1 FROM admitted_eks WHERE ek_digest = $1"));
    return query.Blob(ek_digest.view()).Step();
  }

  // The new board may have asked already, and be waiting as a node of its own.
  static Status FreeEk(SqliteConnection& connection, const NodeId& id, const Sha256Digest& ek_digest) {
    std::string other;
    {
      SEALIFT_ASSIGN_OR_RETURN(auto query,
                               connection.Prepare("SELECT id, admission FROM nodes WHERE ek_digest = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Blob(ek_digest.view()).Step());
      if (!row) return OkStatus();
      other = query.TextAt(0);
      // The same TPM, cleared.
      if (other == id.text()) return OkStatus();
      if (query.IntegerAt(1) != static_cast<std::int64_t>(Admission::kPending)) {
        return MakeError(Code::kAlreadyExists, Reason::kEkClaimed,
                         fmt::format("replace the endorsement key of node {}: the new one is node {}'s",
                                     id.text(), other));
      }
    }
    SEALIFT_ASSIGN_OR_RETURN(auto status,
                             connection.Prepare("DELETE FROM node_check_ins WHERE node_id = $1"));
    SEALIFT_RETURN_IF_ERROR(status.Text(other).Run().status());
    SEALIFT_ASSIGN_OR_RETURN(auto node, connection.Prepare("DELETE FROM nodes WHERE id = $1"));
    return node.Text(other).Run().status();
  }

  SqliteDb& db_;
};

#define SEALIFT_TOKEN_COLUMNS \
  "id, hash, uses, used, created_ms, expires_ms, revoked, created_by, note, labels"

Result<JoinToken> ReadToken(const SqliteStatement& row) {
  JoinToken token{.id = row.TextAt(0)};
  SEALIFT_ASSIGN_OR_RETURN(token.hash, Sha256Digest::FromBytes(row.BlobAt(1)));
  token.uses = static_cast<std::uint32_t>(row.IntegerAt(2));
  token.used = static_cast<std::uint32_t>(row.IntegerAt(3));
  token.created = row.TimeAt(4);
  token.expires = row.TimeAt(5);
  token.revoked = row.IntegerAt(6) != 0;
  token.created_by = row.TextAt(7);
  token.note = row.TextAt(8);
  SEALIFT_ASSIGN_OR_RETURN(token.labels, DecodeLabels(row.TextAt(9)));
  return token;
}

class SqliteJoinTokenStore final : public JoinTokenStore {
 public:
  explicit SqliteJoinTokenStore(SqliteDb& db) : db_(db) {}

  Status Create(const JoinToken& token) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto insert,
                               connection.Prepare("INSERT INTO join_tokens (" SEALIFT_TOKEN_COLUMNS
                                                  ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"));
      insert.Text(token.id).Blob(token.hash.view()).Integer(token.uses).Integer(token.used);
      insert.Time(token.created).Time(token.expires).Integer(token.revoked ? 1 : 0).Text(token.created_by);
      return insert.Text(token.note).Text(EncodeLabels(token.labels)).Run().status();
    });
  }

  Result<std::vector<JoinToken>> List(std::size_t limit) override {
    std::vector<JoinToken> tokens;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query,
                               connection.Prepare("SELECT " SEALIFT_TOKEN_COLUMNS
                                                  " FROM join_tokens ORDER BY created_ms DESC, id"));
      while (tokens.size() < limit) {
        SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
        if (!row) break;
        SEALIFT_ASSIGN_OR_RETURN(JoinToken token, ReadToken(query));
        tokens.push_back(std::move(token));
      }
      return OkStatus();
    }));
    return tokens;
  }

  Result<JoinToken> Revoke(const std::string& id) override {
    std::optional<JoinToken> revoked;
    const Status written = db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto update,
                               connection.Prepare("UPDATE join_tokens SET revoked = 1 WHERE id = $1"));
      SEALIFT_RETURN_IF_ERROR(update.Text(id).Run().status());
      SEALIFT_ASSIGN_OR_RETURN(
          auto query, connection.Prepare("SELECT " SEALIFT_TOKEN_COLUMNS " FROM join_tokens WHERE id = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Text(id).Step());
      if (!row) {
        return MakeError(Code::kNotFound, Reason::kJoinTokenUnusable,
                         fmt::format("revoke join token '{}': there is none of this id", id.substr(0, 40)));
      }
      SEALIFT_ASSIGN_OR_RETURN(revoked, ReadToken(query));
      return OkStatus();
    });
    if (!written.ok()) return written;
    return std::move(*revoked);
  }

  Result<JoinToken> Redeem(const Sha256Digest& hash, const Sha256Digest& ek_digest, UnixMillis now) override {
    std::optional<JoinToken> redeemed;
    const Status written = db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query, connection.Prepare("SELECT " SEALIFT_TOKEN_COLUMNS
                                                              " FROM join_tokens WHERE hash = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Blob(hash.view()).Step());
      if (!row) return Unusable("it is unknown");
      SEALIFT_ASSIGN_OR_RETURN(JoinToken token, ReadToken(query));
      SEALIFT_ASSIGN_OR_RETURN(
          auto use,
          connection.Prepare("SELECT 1 FROM join_token_uses WHERE token_id = $1 AND ek_digest = $2"));
      SEALIFT_ASSIGN_OR_RETURN(const bool used_before, use.Text(token.id).Blob(ek_digest.view()).Step());
      if (token.revoked) return Unusable("it was revoked");
      if (token.expires <= now) return Unusable("it has expired");
      if (!used_before) {
        if (token.used >= token.uses) return Unusable("it is used up");
        ++token.used;
        SEALIFT_RETURN_IF_ERROR(CountUse(connection, token, ek_digest, now));
      }
      redeemed = std::move(token);
      return OkStatus();
    });
    if (!written.ok()) return written;
    return std::move(*redeemed);
  }

 private:
  static Status Unusable(std::string_view why) {
    return MakeError(Code::kPermissionDenied, Reason::kJoinTokenUnusable,
                     fmt::format("redeem the join token: {}", why));
  }
  static Status CountUse(SqliteConnection& connection, const JoinToken& token, const Sha256Digest& ek_digest,
                         UnixMillis now) {
    SEALIFT_ASSIGN_OR_RETURN(auto update,
                             connection.Prepare("UPDATE join_tokens SET used = $1 WHERE id = $2"));
    SEALIFT_RETURN_IF_ERROR(update.Integer(token.used).Text(token.id).Run().status());
    SEALIFT_ASSIGN_OR_RETURN(
        auto insert,
        connection.Prepare("INSERT INTO join_token_uses (token_id, ek_digest, at_ms) VALUES ($1, $2, $3)"));
    return insert.Text(token.id).Blob(ek_digest.view()).Time(now).Run().status();
  }

  SqliteDb& db_;
};

class SqliteRefusalStore final : public RefusalStore {
 public:
  explicit SqliteRefusalStore(SqliteDb& db) : db_(db) {}

  Status Record(const Refusal& refusal) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      // Removed and written anew: the sequence is the order of the last tries.
      std::int64_t count = 1;
      UnixMillis first = refusal.last;
      {
        SEALIFT_ASSIGN_OR_RETURN(auto query,
                                 connection.Prepare("SELECT count, first_ms FROM enrolment_refusals "
                                                    "WHERE ek_digest = $1 AND reason = $2"));
        SEALIFT_ASSIGN_OR_RETURN(const bool row,
                                 query.Blob(refusal.ek_digest.view()).Text(refusal.reason).Step());
        if (row) {
          count = query.IntegerAt(0) + 1;
          first = query.TimeAt(1);
        }
      }
      SEALIFT_ASSIGN_OR_RETURN(auto drop, connection.Prepare("DELETE FROM enrolment_refusals "
                                                             "WHERE ek_digest = $1 AND reason = $2"));
      SEALIFT_RETURN_IF_ERROR(drop.Blob(refusal.ek_digest.view()).Text(refusal.reason).Run().status());
      SEALIFT_ASSIGN_OR_RETURN(
          auto insert,
          connection.Prepare("INSERT INTO enrolment_refusals (ek_digest, reason, message, origin, count, "
                             "first_ms, last_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)"));
      insert.Blob(refusal.ek_digest.view()).Text(refusal.reason).Text(refusal.message).Text(refusal.origin);
      SEALIFT_RETURN_IF_ERROR(insert.Integer(count).Time(first).Time(refusal.last).Run().status());
      SEALIFT_ASSIGN_OR_RETURN(auto forget,
                               connection.Prepare("DELETE FROM enrolment_refusals WHERE sequence <= "
                                                  "(SELECT MAX(sequence) FROM enrolment_refusals) - $1"));
      return forget.Integer(kMostRefusals).Run().status();
    });
  }

  Result<std::vector<Refusal>> List(const std::optional<NodeId>& node, std::size_t limit) override {
    std::vector<Refusal> refusals;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query, connection.Prepare("SELECT r.ek_digest, r.reason, r.message, r.origin, r.count, "
                                         "r.first_ms, r.last_ms, n.id FROM enrolment_refusals r "
                                         "LEFT JOIN nodes n ON n.ek_digest = r.ek_digest "
                                         "WHERE $1 = '' OR n.id = $2 ORDER BY r.sequence DESC"));
      const std::string id = node ? node->text() : "";
      query.Text(id).Text(id);
      while (refusals.size() < limit) {
        SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
        if (!row) break;
        Refusal refusal{.ek_digest = {},
                        .node_id = std::nullopt,
                        .reason = query.TextAt(1),
                        .message = query.TextAt(2),
                        .origin = query.TextAt(3),
                        .count = static_cast<std::uint32_t>(query.IntegerAt(4)),
                        .first = query.TimeAt(5),
                        .last = query.TimeAt(6)};
        SEALIFT_ASSIGN_OR_RETURN(refusal.ek_digest, Sha256Digest::FromBytes(query.BlobAt(0)));
        if (!query.NullAt(7)) {
          SEALIFT_ASSIGN_OR_RETURN(refusal.node_id, NodeId::Parse(query.TextAt(7)));
        }
        refusals.push_back(std::move(refusal));
      }
      return OkStatus();
    }));
    return refusals;
  }

 private:
  SqliteDb& db_;
};

class SqliteQuoteClockStore final : public QuoteClockStore {
 public:
  explicit SqliteQuoteClockStore(SqliteDb& db) : db_(db) {}

  Status Advance(const NodeId& node, const SignerClock& quoted) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(const auto newest, Find(connection, node));
      const QuoteClock& clock = quoted.clock;
      if (newest && newest->signer == quoted.signer && RunsBackwards(clock, newest->clock)) {
        return MakeError(Code::kInvalidArgument, Reason::kQuoteClockBackwards,
                         "verify quote: its TPM's clock or reset counter runs behind what was seen before");
      }
      SEALIFT_ASSIGN_OR_RETURN(
          auto write, connection.Prepare(
                          "INSERT INTO quote_clocks (node_id, signer, clock_ms, reset_count, restart_count, "
                          "firmware_version) VALUES ($1, $2, $3, $4, $5, $6) "
                          "ON CONFLICT (node_id) DO UPDATE SET "
                          "signer = excluded.signer, clock_ms = excluded.clock_ms, "
                          "reset_count = excluded.reset_count, restart_count = excluded.restart_count, "
                          "firmware_version = excluded.firmware_version"));
      write.Text(node.text()).Blob(quoted.signer).Integer(static_cast<std::int64_t>(clock.clock_ms));
      write.Integer(clock.reset_count).Integer(clock.restart_count);
      return write.Integer(static_cast<std::int64_t>(clock.firmware_version)).Run().status();
    });
  }

  Result<std::optional<SignerClock>> Newest(const NodeId& node) override {
    std::optional<SignerClock> newest;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(newest, Find(connection, node));
      return OkStatus();
    }));
    return newest;
  }

 private:
  static Result<std::optional<SignerClock>> Find(SqliteConnection& connection, const NodeId& node) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto query,
        connection.Prepare("SELECT signer, clock_ms, reset_count, restart_count, firmware_version "
                           "FROM quote_clocks WHERE node_id = $1"));
    SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Text(node.text()).Step());
    if (!row) return std::optional<SignerClock>();
    return std::optional(
        SignerClock{.signer = query.BlobAt(0),
                    .clock = {.clock_ms = static_cast<std::uint64_t>(query.IntegerAt(1)),
                              .reset_count = static_cast<std::uint32_t>(query.IntegerAt(2)),
                              .restart_count = static_cast<std::uint32_t>(query.IntegerAt(3)),
                              .firmware_version = static_cast<std::uint64_t>(query.IntegerAt(4))}});
  }

  SqliteDb& db_;
};

}  // namespace

// 0: not known yet.
const char kQuoteClockSchema[] = R"sql(
ALTER TABLE quote_clocks ADD COLUMN firmware_version BIGINT NOT NULL DEFAULT 0;
)sql";

const char kAdmissionSchema[] = R"sql(
ALTER TABLE admitted_eks ADD COLUMN serial TEXT NOT NULL DEFAULT '';
CREATE TABLE join_tokens (
  id TEXT PRIMARY KEY,
  hash BYTEA NOT NULL UNIQUE,
  uses BIGINT NOT NULL,
  used BIGINT NOT NULL,
  created_ms BIGINT NOT NULL,
  expires_ms BIGINT NOT NULL,
  revoked BIGINT NOT NULL,
  created_by TEXT NOT NULL,
  note TEXT NOT NULL,
  labels TEXT NOT NULL
);
CREATE TABLE join_token_uses (
  token_id TEXT NOT NULL REFERENCES join_tokens (id),
  ek_digest BYTEA NOT NULL,
  at_ms BIGINT NOT NULL,
  PRIMARY KEY (token_id, ek_digest)
);
CREATE TABLE enrolment_refusals (
  sequence INTEGER PRIMARY KEY,
  ek_digest BYTEA NOT NULL,
  reason TEXT NOT NULL,
  message TEXT NOT NULL,
  origin TEXT NOT NULL,
  count BIGINT NOT NULL,
  first_ms BIGINT NOT NULL,
  last_ms BIGINT NOT NULL,
  UNIQUE (ek_digest, reason)
);
CREATE TABLE quote_clocks (
  node_id TEXT PRIMARY KEY,
  signer BYTEA NOT NULL,
  clock_ms BIGINT NOT NULL,
  reset_count BIGINT NOT NULL,
  restart_count BIGINT NOT NULL
);
)sql";

std::unique_ptr<InventoryStore> MakeSqliteInventoryStore(SqliteDb& db) {
  return std::make_unique<SqliteInventoryStore>(db);
}
std::unique_ptr<JoinTokenStore> MakeSqliteJoinTokenStore(SqliteDb& db) {
  return std::make_unique<SqliteJoinTokenStore>(db);
}
std::unique_ptr<QuoteClockStore> MakeSqliteQuoteClockStore(SqliteDb& db) {
  return std::make_unique<SqliteQuoteClockStore>(db);
}
std::unique_ptr<RefusalStore> MakeSqliteRefusalStore(SqliteDb& db) {
  return std::make_unique<SqliteRefusalStore>(db);
}

}  // namespace sealift::controller
