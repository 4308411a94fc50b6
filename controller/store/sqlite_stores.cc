#include "controller/store/sqlite_stores.h"

#include "shared/base/files.h"

namespace sealift::controller {
namespace {

// Append a migration; never change one that was released. What each check-in writes has a table of its own: a
// row is rewritten whole, and a node's record with its verdict is kilobytes.
constexpr char kFirst[] = R"sql(
CREATE TABLE nodes (
  id TEXT PRIMARY KEY,
  ek_digest BYTEA NOT NULL UNIQUE,
  ak_public BYTEA NOT NULL,
  admission BIGINT NOT NULL,
  labels TEXT NOT NULL,
  enrolled_ms BIGINT NOT NULL,
  verdict TEXT,
  verdict_trust BIGINT NOT NULL,
  verdict_decided_ms BIGINT NOT NULL,
  verdict_boot TEXT NOT NULL,
  desired_channel TEXT,
  desired_version TEXT,
  desired_release BYTEA,
  certificate_not_after_ms BIGINT NOT NULL
);
CREATE TABLE node_check_ins (
  node_id TEXT PRIMARY KEY REFERENCES nodes (id),
  status TEXT NOT NULL,
  last_seen_ms BIGINT NOT NULL,
  quote_nonce BYTEA,
  quote_nonce_expires_ms BIGINT NOT NULL
);
CREATE TABLE rollouts (
  id TEXT PRIMARY KEY,
  channel TEXT NOT NULL,
  version TEXT NOT NULL,
  release_id BYTEA NOT NULL,
  selector TEXT NOT NULL,
  state BIGINT NOT NULL,
  current_wave BIGINT NOT NULL,
  created_ms BIGINT NOT NULL,
  created_by TEXT NOT NULL,
  request_key TEXT UNIQUE,
  halted_reason TEXT NOT NULL,
  revision BIGINT NOT NULL
);
CREATE TABLE rollout_waves (
  rollout_id TEXT NOT NULL REFERENCES rollouts (id),
  wave BIGINT NOT NULL,
  size TEXT NOT NULL,
  PRIMARY KEY (rollout_id, wave)
);
CREATE TABLE rollout_nodes (
  rollout_id TEXT NOT NULL REFERENCES rollouts (id),
  node_id TEXT NOT NULL,
  wave BIGINT NOT NULL,
  progress BIGINT NOT NULL,
  reason TEXT NOT NULL,
  message TEXT NOT NULL,
  acknowledged BIGINT NOT NULL,
  started_ms BIGINT NOT NULL,
  PRIMARY KEY (rollout_id, node_id)
);
CREATE INDEX rollout_nodes_by_node ON rollout_nodes (node_id);
CREATE TABLE releases (
  channel TEXT NOT NULL,
  version TEXT NOT NULL,
  release_id BYTEA NOT NULL,
  published_ms BIGINT NOT NULL,
  total_bytes BIGINT NOT NULL,
  manifest TEXT NOT NULL,
  PRIMARY KEY (channel, version)
);
CREATE TABLE admitted_eks (
  ek_digest BYTEA PRIMARY KEY,
  labels TEXT NOT NULL,
  note TEXT NOT NULL,
  admitted_by TEXT NOT NULL,
  at_ms BIGINT NOT NULL
);
CREATE TABLE evidence (
  sequence INTEGER PRIMARY KEY,
  node_id TEXT NOT NULL,
  verdict TEXT NOT NULL,
  attest BYTEA NOT NULL,
  signature BYTEA NOT NULL,
  event_log BYTEA NOT NULL
);
CREATE INDEX evidence_by_node ON evidence (node_id, sequence);
CREATE TABLE audit (
  sequence INTEGER PRIMARY KEY,
  at_ms BIGINT NOT NULL,
  operator_name TEXT NOT NULL,
  role TEXT NOT NULL,
  rpc TEXT NOT NULL,
  request TEXT NOT NULL,
  outcome TEXT NOT NULL
);
CREATE TRIGGER audit_keeps BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER evidence_keeps BEFORE DELETE ON evidence BEGIN SELECT RAISE(ABORT, 'evidence is append-only'); END;
CREATE TRIGGER evidence_stays BEFORE UPDATE ON evidence BEGIN SELECT RAISE(ABORT, 'evidence is append-only'); END;
CREATE TABLE certificates (
  sha256 BYTEA PRIMARY KEY,
  subject TEXT NOT NULL,
  issued_ms BIGINT NOT NULL,
  not_after_ms BIGINT NOT NULL
);
CREATE TABLE revocations (
  sha256 BYTEA PRIMARY KEY,
  reason TEXT NOT NULL,
  at_ms BIGINT NOT NULL
);
)sql";

constexpr char kOrders[] = R"sql(
ALTER TABLE nodes ADD COLUMN epoch_lowest BIGINT;
ALTER TABLE nodes ADD COLUMN epoch_base BIGINT;
ALTER TABLE nodes ADD COLUMN epoch_ms BIGINT;
ALTER TABLE nodes ADD COLUMN install TEXT;
CREATE TABLE change_requests (
  sequence INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  node_id TEXT NOT NULL,
  canonical TEXT NOT NULL,
  digest BYTEA NOT NULL UNIQUE,
  state BIGINT NOT NULL,
  requester_certificate BYTEA NOT NULL,
  requester_signature BYTEA NOT NULL,
  approver_certificate BYTEA NOT NULL,
  approver_signature BYTEA NOT NULL,
  approver_name TEXT NOT NULL,
  approved_ms BIGINT NOT NULL,
  envelope TEXT NOT NULL,
  outcome TEXT,
  deliverable BIGINT NOT NULL,
  nonce BYTEA NOT NULL,
  expires_ms BIGINT NOT NULL
);
CREATE INDEX change_requests_by_node ON change_requests (node_id, deliverable);
CREATE TABLE escrowed_keys (
  sequence INTEGER PRIMARY KEY,
  node_id TEXT NOT NULL,
  volume TEXT NOT NULL,
  luks_uuid TEXT NOT NULL,
  slot BIGINT NOT NULL,
  blob TEXT NOT NULL,
  blob_digest BYTEA NOT NULL,
  stored_ms BIGINT NOT NULL,
  released_ms BIGINT NOT NULL,
  UNIQUE (node_id, blob_digest)
);
)sql";

// Rows of before have neither.
constexpr char kEvidenceContext[] = R"sql(
ALTER TABLE evidence ADD COLUMN context TEXT NOT NULL DEFAULT '';
ALTER TABLE evidence ADD COLUMN expected BYTEA;
)sql";

}  // namespace

const std::vector<Migration>& Migrations() {
  static const std::vector<Migration> all = {{1, "first schema", kFirst},
                                             {2, "orders, escrow, epochs", kOrders},
                                             {3, "inventory, join tokens", kAdmissionSchema},
                                             {4, "evidence to judge again", kEvidenceContext},
                                             {5, "secrets", kSecretSchema},
                                             {6, "nodes counted by kind", kNodeCountsSchema},
                                             {7, "bounded evidence", kEvidenceLimitsSchema},
                                             {8, "one clock of quotes", kQuoteClockSchema},
                                             {9, "baselines of firmware", kBaselineSchema}};
  return all;
}

Result<std::unique_ptr<SqliteStores>> SqliteStores::Open(const std::filesystem::path& folder,
                                                         EvidenceLimits evidence) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(folder / "evidence", 0700));
  std::unique_ptr<SqliteStores> stores(new SqliteStores);
  SEALIFT_ASSIGN_OR_RETURN(stores->db_, SqliteDb::Open(folder / "controller.db", Migrations()));
  SqliteDb& db = *stores->db_;
  stores->nodes_ = MakeSqliteNodeStore(db);
  stores->node_status_ = MakeSqliteNodeStatusStore(db);
  stores->rollouts_ = MakeSqliteRolloutStore(db);
  stores->releases_ = MakeSqliteReleaseStore(db);
  stores->admission_ = MakeSqliteAdmissionStore(db);
  stores->evidence_ = MakeSqliteEvidenceStore(db, folder / "evidence", evidence);
  stores->audit_ = MakeSqliteAuditStore(db);
  stores->certificates_ = MakeSqliteCertificateStore(db);
  stores->requests_ = MakeSqliteRequestStore(db);
  stores->escrow_ = MakeSqliteEscrowStore(db);
  stores->inventory_ = MakeSqliteInventoryStore(db);
  stores->join_tokens_ = MakeSqliteJoinTokenStore(db);
  stores->refusals_ = MakeSqliteRefusalStore(db);
  stores->quote_clocks_ = MakeSqliteQuoteClockStore(db);
  stores->secrets_ = MakeSqliteSecretStore(db);
  stores->node_counts_ = MakeSqliteNodeCounts(db);
  stores->baselines_ = MakeSqliteBaselineStore(db);
  stores->revocations_ = MakeSqliteRevocationsStore(db);
  stores->policy_ = MakeSqlitePolicyStore(db);
  return stores;
}

}  // namespace sealift::controller
