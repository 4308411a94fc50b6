// Requests that two persons sign, and escrowed recovery keys.
#include <fmt/format.h>

#include "controller/store/codec.h"
#include "controller/store/sqlite_stores.h"

namespace sealift::controller {
namespace {

#define SEALIFT_REQUEST_COLUMNS                                                                  \
  "canonical, digest, state, requester_certificate, requester_signature, approver_certificate, " \
  "approver_signature, approver_name, approved_ms, envelope, outcome"

Status NoSuchRequest(const std::string& id) {
  return MakeError(Code::kNotFound, Reason::kRequestUnknown,
                   fmt::format("find request '{}'", id.substr(0, 40)));
}

Result<RequestRecord> ReadRequest(const SqliteStatement& row) {
  const std::string canonical = row.TextAt(0);
  auto request = order::ParseChangeRequest(canonical);
  if (!request.ok()) {
    return MakeError(Code::kDataLoss, Reason::kStoreFailed,
                     fmt::format("read stored request: {}", MessageOf(request.status())));
  }
  RequestRecord record{.request = *std::move(request), .canonical = canonical};
  SEALIFT_ASSIGN_OR_RETURN(record.digest, Sha256Digest::FromBytes(row.BlobAt(1)));
  record.state = static_cast<RequestState>(row.IntegerAt(2));
  record.requester = {.certificate = row.BlobAt(3), .signature = row.BlobAt(4)};
  record.approver = {.certificate = row.BlobAt(5), .signature = row.BlobAt(6)};
  record.approver_name = row.TextAt(7);
  record.approved = row.TimeAt(8);
  record.envelope = row.TextAt(9);
  if (!row.NullAt(10)) {
    SEALIFT_ASSIGN_OR_RETURN(record.outcome, DecodeOutcome(row.TextAt(10)));
  }
  return record;
}

// Whether a node may be given it: orders from their approval on, the replacement of a released recovery key
// from its release on.
bool IsDeliverable(const RequestRecord& record) {
  if (record.envelope.empty()) return false;
  if (record.state == RequestState::kDelivered) return true;
  return record.state == RequestState::kApproved &&
         record.request.action != order::Action::kReleaseRecoveryKey;
}

class SqliteRequestStore final : public RequestStore {
 public:
  explicit SqliteRequestStore(SqliteDb& db) : db_(db) {}

  Result<RequestRecord> Create(const RequestRecord& record) override {
    std::optional<RequestRecord> stored;
    SEALIFT_RETURN_IF_ERROR(db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto known, connection.Prepare("SELECT " SEALIFT_REQUEST_COLUMNS
                                                              " FROM change_requests WHERE id = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, known.Text(record.request.id).Step());
      if (row) {
        SEALIFT_ASSIGN_OR_RETURN(stored, ReadRequest(known));
        if (stored->canonical == record.canonical) return OkStatus();
        return MakeError(Code::kAlreadyExists, Reason::kInvalidArgument,
                         fmt::format("make request {}: another request has this id", record.request.id));
      }
      stored = record;
      return Insert(connection, record);
    }));
    return std::move(*stored);
  }

  Result<RequestRecord> Get(const std::string& id) override {
    std::optional<RequestRecord> found;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      if (id.empty()) return NoSuchRequest(id);
      SEALIFT_ASSIGN_OR_RETURN(auto query,
                               connection.Prepare("SELECT " SEALIFT_REQUEST_COLUMNS
                                                  " FROM change_requests WHERE id >= $1 AND id < $2"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Text(id).Text(id + "~").Step());
      if (!row) return NoSuchRequest(id);
      SEALIFT_ASSIGN_OR_RETURN(found, ReadRequest(query));
      SEALIFT_ASSIGN_OR_RETURN(const bool another, query.Step());
      if (!another) return OkStatus();
      return MakeError(Code::kInvalidArgument, Reason::kRequestUnknown,
                       fmt::format("find request '{}': several start so", id));
    }));
    return std::move(*found);
  }

  Result<std::vector<RequestRecord>> List(const RequestQuery& wanted) override {
    std::vector<RequestRecord> records;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query, connection.Prepare("SELECT " SEALIFT_REQUEST_COLUMNS
                                         " FROM change_requests WHERE node_id >= $1 AND node_id < $2 AND "
                                         "state <= $3 ORDER BY sequence DESC LIMIT $4"));
      const std::string node = wanted.node ? wanted.node->text() : "";
      query.Text(node).Text(node + "~");
      query.Integer(
          static_cast<std::int64_t>(wanted.open_only ? RequestState::kDelivered : RequestState::kExpired));
      query.Integer(static_cast<std::int64_t>(wanted.limit));
      for (;;) {
        SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
        if (!row) return OkStatus();
        SEALIFT_ASSIGN_OR_RETURN(RequestRecord record, ReadRequest(query));
        records.push_back(std::move(record));
      }
    }));
    return records;
  }

  Status Move(const RequestRecord& record, RequestState from) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto state,
                               connection.Prepare("SELECT state FROM change_requests WHERE id = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, state.Text(record.request.id).Step());
      if (!row) return NoSuchRequest(record.request.id);
      if (const auto now = static_cast<RequestState>(state.IntegerAt(0)); now != from) {
        return MakeError(Code::kAborted, Reason::kRequestStateWrong,
                         fmt::format("change request {}: it became {} meanwhile", record.request.id,
                                     RequestStateName(now)));
      }
      SEALIFT_ASSIGN_OR_RETURN(
          auto update,
          connection.Prepare("UPDATE change_requests SET state = $1, approver_certificate = $2, "
                             "approver_signature = $3, approver_name = $4, approved_ms = $5, envelope = $6, "
                             "outcome = $7, deliverable = $8 WHERE id = $9"));
      update.Integer(static_cast<std::int64_t>(record.state)).Blob(record.approver.certificate);
      update.Blob(record.approver.signature).Text(record.approver_name).Time(record.approved);
      update.Text(record.envelope);
      if (record.outcome) {
        update.Text(EncodeOutcome(*record.outcome));
      } else {
        update.Null();
      }
      return update.Integer(IsDeliverable(record) ? 1 : 0).Text(record.request.id).Run().status();
    });
  }

  Result<std::optional<RequestRecord>> FindByDigest(const Sha256Digest& digest) override {
    std::optional<RequestRecord> found;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query, connection.Prepare("SELECT " SEALIFT_REQUEST_COLUMNS
                                                              " FROM change_requests WHERE digest = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Blob(digest.view()).Step());
      if (!row) return OkStatus();
      SEALIFT_ASSIGN_OR_RETURN(found, ReadRequest(query));
      return OkStatus();
    }));
    return found;
  }

 private:
  static Status Insert(SqliteConnection& connection, const RequestRecord& record) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto insert, connection.Prepare(
                         "INSERT INTO change_requests (id, node_id, canonical, digest, state, "
                         "requester_certificate, requester_signature, approver_certificate, "
                         "approver_signature, approver_name, approved_ms, envelope, deliverable, nonce, "
                         "expires_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '', 0, '', 0, $10, $11)"));
    insert.Text(record.request.id).Text(record.request.node.text()).Text(record.canonical);
    insert.Blob(record.digest.view()).Integer(static_cast<std::int64_t>(record.state));
    insert.Blob(record.requester.certificate).Blob(record.requester.signature).Blob({}).Blob({});
    return insert.Blob(record.request.nonce).Time(record.request.expires).Run().status();
  }

  SqliteDb& db_;
};

class SqliteEscrowStore final : public EscrowStore {
 public:
  explicit SqliteEscrowStore(SqliteDb& db) : db_(db) {}

  Status Put(const EscrowedKey& key) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto insert, connection.Prepare(
                           "INSERT INTO escrowed_keys (node_id, volume, luks_uuid, slot, blob, blob_digest, "
                           "stored_ms, released_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, 0) "
                           "ON CONFLICT (node_id, blob_digest) DO NOTHING"));
      insert.Text(key.node.text()).Text(key.volume).Text(key.luks_uuid).Integer(key.slot).Text(key.blob);
      SEALIFT_RETURN_IF_ERROR(insert.Blob(key.blob_digest.view()).Time(key.stored).Run().status());
      SEALIFT_ASSIGN_OR_RETURN(
          auto forget, connection.Prepare("DELETE FROM escrowed_keys WHERE node_id = $1 AND sequence NOT IN "
                                          "(SELECT sequence FROM escrowed_keys WHERE node_id = $2 "
                                          "ORDER BY sequence DESC LIMIT $3)"));
      return forget.Text(key.node.text())
          .Text(key.node.text())
          .Integer(static_cast<std::int64_t>(kMaxEscrowedKeys))
          .Run()
          .status();
    });
  }

  Result<std::vector<EscrowedKey>> List(const NodeId& node) override {
    std::vector<EscrowedKey> keys;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query,
          connection.Prepare("SELECT volume, luks_uuid, slot, blob, blob_digest, stored_ms, released_ms "
                             "FROM escrowed_keys WHERE node_id = $1 ORDER BY sequence DESC"));
      query.Text(node.text());
      for (;;) {
        SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
        if (!row) return OkStatus();
        EscrowedKey key{.node = node,
                        .volume = query.TextAt(0),
                        .luks_uuid = query.TextAt(1),
                        .slot = static_cast<std::uint32_t>(query.IntegerAt(2)),
                        .blob = query.TextAt(3)};
        SEALIFT_ASSIGN_OR_RETURN(key.blob_digest, Sha256Digest::FromBytes(query.BlobAt(4)));
        key.stored = query.TimeAt(5);
        key.released = query.TimeAt(6);
        keys.push_back(std::move(key));
      }
    }));
    return keys;
  }

  Status MarkReleased(const NodeId& node, UnixMillis at) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto update, connection.Prepare("UPDATE escrowed_keys SET released_ms = $1 WHERE node_id = $2"));
      return update.Time(at).Text(node.text()).Run().status();
    });
  }

 private:
  SqliteDb& db_;
};

}  // namespace

std::unique_ptr<RequestStore> MakeSqliteRequestStore(SqliteDb& db) {
  return std::make_unique<SqliteRequestStore>(db);
}
std::unique_ptr<EscrowStore> MakeSqliteEscrowStore(SqliteDb& db) {
  return std::make_unique<SqliteEscrowStore>(db);
}

}  // namespace sealift::controller
