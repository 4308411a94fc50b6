// Secrets at rest, and who got which.
#include <fmt/format.h>

#include "controller/store/sqlite_stores.h"

namespace sealift::controller {

const char kSecretSchema[] = R"sql(
CREATE TABLE secrets (
  name TEXT PRIMARY KEY,
  id TEXT NOT NULL,
  selector TEXT NOT NULL,
  node_id TEXT,
  releases TEXT NOT NULL,
  boot_only BIGINT NOT NULL,
  note TEXT NOT NULL,
  created_by TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  revoked_ms BIGINT,
  sealed TEXT NOT NULL
);
CREATE TABLE secret_deliveries (
  sequence INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  id TEXT NOT NULL,
  node_id TEXT NOT NULL,
  release_id BYTEA NOT NULL,
  channel TEXT NOT NULL,
  version TEXT NOT NULL,
  quote BYTEA NOT NULL,
  at_ms BIGINT NOT NULL
);
CREATE INDEX secret_deliveries_by_name ON secret_deliveries (name, sequence);
CREATE TRIGGER secret_deliveries_keep BEFORE DELETE ON secret_deliveries
  BEGIN SELECT RAISE(ABORT, 'deliveries are append-only'); END;
CREATE TRIGGER secret_deliveries_stay BEFORE UPDATE ON secret_deliveries
  BEGIN SELECT RAISE(ABORT, 'deliveries are append-only'); END;
)sql";

namespace {

constexpr char kSelectAll[] =
    "SELECT name, id, selector, node_id, releases, boot_only, note, created_by, created_ms, revoked_ms, "
    "sealed "
    "FROM secrets ORDER BY name";
constexpr char kSelectOne[] =
    "SELECT name, id, selector, node_id, releases, boot_only, note, created_by, created_ms, revoked_ms, "
    "sealed "
    "FROM secrets WHERE name = $1";

Result<SecretRecord> ReadSecret(const SqliteStatement& row) {
  SecretRecord secret{.name = row.TextAt(0), .id = row.TextAt(1), .selector = row.TextAt(2)};
  if (!row.NullAt(3)) {
    SEALIFT_ASSIGN_OR_RETURN(secret.node, NodeId::Parse(row.TextAt(3)));
  }
  secret.releases = row.TextAt(4);
  secret.boot_only = row.IntegerAt(5) != 0;
  secret.note = row.TextAt(6);
  secret.created_by = row.TextAt(7);
  secret.created = row.TimeAt(8);
  if (!row.NullAt(9)) secret.revoked = row.TimeAt(9);
  secret.sealed = row.TextAt(10);
  return secret;
}

Result<SecretRecord> Find(SqliteConnection& connection, const std::string& name) {
  SEALIFT_ASSIGN_OR_RETURN(auto query, connection.Prepare(kSelectOne));
  SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Text(name).Step());
  if (row) return ReadSecret(query);
  return MakeError(Code::kNotFound, Reason::kSecretUnknown, fmt::format("find secret '{}'", name));
}

class SqliteSecretStore final : public SecretStore {
 public:
  explicit SqliteSecretStore(SqliteDb& db) : db_(db) {}

  Status Put(const SecretRecord& secret) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto write, connection.Prepare(
                          "INSERT INTO secrets (name, id, selector, node_id, releases, boot_only, note, "
                          "created_by, created_ms, revoked_ms, sealed) "
                          "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) "
                          "ON CONFLICT (name) DO UPDATE SET id = excluded.id, selector = excluded.selector, "
                          "node_id = excluded.node_id, releases = excluded.releases, "
                          "boot_only = excluded.boot_only, note = excluded.note, "
                          "created_by = excluded.created_by, created_ms = excluded.created_ms, "
                          "revoked_ms = excluded.revoked_ms, sealed = excluded.sealed"));
      write.Text(secret.name).Text(secret.id).Text(secret.selector);
      secret.node ? write.Text(secret.node->text()) : write.Null();
      write.Text(secret.releases).Integer(secret.boot_only ? 1 : 0).Text(secret.note);
      write.Text(secret.created_by).Time(secret.created);
      secret.revoked ? write.Time(*secret.revoked) : write.Null();
      return write.Text(secret.sealed).Run().status();
    });
  }

  Result<SecretRecord> Get(const std::string& name) override {
    Result<SecretRecord> found = SecretRecord();
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      found = Find(connection, name);
      return found.status();
    }));
    return found;
  }

  Result<std::vector<SecretRecord>> List() override {
    std::vector<SecretRecord> secrets;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query, connection.Prepare(kSelectAll));
      for (;;) {
        SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
        if (!row) return OkStatus();
        SEALIFT_ASSIGN_OR_RETURN(SecretRecord secret, ReadSecret(query));
        secrets.push_back(std::move(secret));
      }
    }));
    return secrets;
  }

  Result<SecretRecord> Revoke(const std::string& name, UnixMillis at) override {
    Result<SecretRecord> revoked = SecretRecord();
    const Status written = db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto update,
                               connection.Prepare("UPDATE secrets SET revoked_ms = COALESCE(revoked_ms, $1), "
                                                  "sealed = '' WHERE name = $2"));
      SEALIFT_RETURN_IF_ERROR(update.Time(at).Text(name).Run().status());
      revoked = Find(connection, name);
      return revoked.status();
    });
    if (!written.ok()) return written;
    return revoked;
  }

  Status RecordDelivery(const SecretDelivery& delivery) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto insert, connection.Prepare("INSERT INTO secret_deliveries (name, id, node_id, release_id, "
                                          "channel, version, quote, at_ms) "
                                          "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"));
      insert.Text(delivery.name).Text(delivery.id).Text(delivery.node.text());
      insert.Blob(delivery.release.digest.view()).Text(delivery.channel).Text(delivery.version);
      return insert.Blob(delivery.quote.view()).Time(delivery.at).Run().status();
    });
  }

  Result<std::vector<SecretDelivery>> Deliveries(const std::string& name, std::size_t limit) override {
    std::vector<SecretDelivery> deliveries;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query,
          connection.Prepare("SELECT id, node_id, release_id, channel, version, quote, at_ms "
                             "FROM secret_deliveries WHERE name = $1 ORDER BY sequence DESC LIMIT $2"));
      query.Text(name).Integer(static_cast<std::int64_t>(limit));
      for (;;) {
        SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
        if (!row) return OkStatus();
        SEALIFT_ASSIGN_OR_RETURN(NodeId node, NodeId::Parse(query.TextAt(1)));
        SecretDelivery delivery{.name = name, .id = query.TextAt(0), .node = std::move(node)};
        SEALIFT_ASSIGN_OR_RETURN(delivery.release.digest, Sha256Digest::FromBytes(query.BlobAt(2)));
        delivery.channel = query.TextAt(3);
        delivery.version = query.TextAt(4);
        SEALIFT_ASSIGN_OR_RETURN(delivery.quote, Sha256Digest::FromBytes(query.BlobAt(5)));
        delivery.at = query.TimeAt(6);
        deliveries.push_back(std::move(delivery));
      }
    }));
    return deliveries;
  }

 private:
  SqliteDb& db_;
};

}  // namespace

std::unique_ptr<SecretStore> MakeSqliteSecretStore(SqliteDb& db) {
  return std::make_unique<SqliteSecretStore>(db);
}

}  // namespace sealift::controller
