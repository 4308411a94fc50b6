// What firmware measures, by hardware model; and what the policy about attestation asks of the other tables.
#include <fmt/format.h>

#include <algorithm>

#include "controller/attest/firmware.h"
#include "controller/store/codec.h"
#include "controller/store/sqlite_stores.h"

namespace sealift::controller {

// baseline_counts holds how many rows of baseline_nodes there are of each kind: counting them would cost what
// the fleet has machines.
const char kBaselineSchema[] = R"sql(
CREATE TABLE baselines (
  id BYTEA PRIMARY KEY,
  id_hex TEXT NOT NULL UNIQUE,
  vendor TEXT NOT NULL,
  product TEXT NOT NULL,
  content TEXT NOT NULL,
  first_seen_ms BIGINT NOT NULL,
  approved_by TEXT NOT NULL,
  approved_ms BIGINT NOT NULL
);
CREATE INDEX baselines_by_model ON baselines (vendor, product);
CREATE TABLE baseline_nodes (
  node_id TEXT PRIMARY KEY REFERENCES nodes (id),
  vendor TEXT NOT NULL,
  product TEXT NOT NULL,
  firmware TEXT NOT NULL,
  baseline_id BYTEA NOT NULL
);
CREATE INDEX baseline_nodes_by_baseline ON baseline_nodes (baseline_id, node_id);
CREATE TABLE baseline_counts (
  vendor TEXT NOT NULL,
  product TEXT NOT NULL,
  firmware TEXT NOT NULL,
  baseline_id BYTEA NOT NULL,
  nodes BIGINT NOT NULL,
  PRIMARY KEY (vendor, product, firmware, baseline_id)
);
CREATE INDEX baseline_counts_by_baseline ON baseline_counts (baseline_id);
CREATE TABLE revocation_lists (
  event BYTEA PRIMARY KEY,
  nodes BIGINT NOT NULL,
  first_seen_ms BIGINT NOT NULL,
  approved_by TEXT NOT NULL,
  approved_ms BIGINT NOT NULL
);
CREATE TABLE revocation_nodes (
  node_id TEXT PRIMARY KEY REFERENCES nodes (id),
  event BYTEA NOT NULL
);
CREATE INDEX revocation_nodes_by_event ON revocation_nodes (event, node_id);
CREATE INDEX nodes_by_admission ON nodes (admission);
ALTER TABLE nodes ADD COLUMN verdict_degraded BIGINT NOT NULL DEFAULT 0;
ALTER TABLE evidence ADD COLUMN baseline BYTEA;
CREATE INDEX evidence_by_baseline ON evidence (baseline);
)sql";

namespace {

Status NoSuchBaseline(std::string_view id) {
  return MakeError(Code::kNotFound, Reason::kBaselineUnknown, fmt::format("find baseline {}", id));
}

#define SEALIFT_BASELINE_COLUMNS "id, content, first_seen_ms, approved_by, approved_ms"

// Text that sorts just after every id that starts so.
std::string AfterPrefix(const std::string& prefix) { return prefix + "~"; }

Result<Baseline> ReadBaseline(const std::string& content) {
  auto baseline = DecodeBaseline(content);
  if (baseline.ok()) return baseline;
  return MakeError(Code::kDataLoss, Reason::kStoreFailed, MessageOf(baseline.status()));
}

class SqliteBaselineStore final : public BaselineStore {
 public:
  explicit SqliteBaselineStore(SqliteDb& db) : db_(db) {}

  Result<std::optional<NodeHardware>> HardwareOf(const NodeId& node) override {
    std::optional<NodeHardware> found;
    SEALIFT_RETURN_IF_ERROR(db_.Read(
        [&](SqliteConnection& connection) -> Status { return ReadHardware(connection, node, found); }));
    return found;
  }

  Status Record(const NodeId& node, const Hardware& hardware, const Baseline& baseline,
                UnixMillis now) override {
    const NodeHardware shown{.hardware = hardware, .baseline = baseline.id};
    return db_.Write([&](SqliteConnection& connection) -> Status {
      std::optional<NodeHardware> before;
      SEALIFT_RETURN_IF_ERROR(ReadHardware(connection, node, before));
      if (before == shown) return OkStatus();
      SEALIFT_RETURN_IF_ERROR(Propose(connection, baseline, now));
      SEALIFT_ASSIGN_OR_RETURN(
          auto keep,
          connection.Prepare("INSERT INTO baseline_nodes (node_id, vendor, product, firmware, baseline_id) "
                             "VALUES ($1, $2, $3, $4, $5) ON CONFLICT (node_id) DO UPDATE SET "
                             "vendor = excluded.vendor, product = excluded.product, "
                             "firmware = excluded.firmware, baseline_id = excluded.baseline_id"));
      keep.Text(node.text()).Text(hardware.model.vendor).Text(hardware.model.product);
      SEALIFT_RETURN_IF_ERROR(keep.Text(hardware.firmware_version).Blob(baseline.id.view()).Run().status());
      SEALIFT_RETURN_IF_ERROR(Count(connection, shown));
      if (!before) return OkStatus();
      SEALIFT_RETURN_IF_ERROR(CountNoMore(connection, *before));
      return ForgetIfUnshown(connection, before->baseline);
    });
  }

  Result<std::vector<Baseline>> Approved(const HardwareModel& model) override {
    std::vector<Baseline> approved;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query, connection.Prepare("SELECT content FROM baselines WHERE vendor = $1 AND product = $2 "
                                         "AND approved_by <> '' ORDER BY approved_ms DESC, id"));
      query.Text(model.vendor).Text(model.product);
      for (;;) {
        SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
        if (!row) return OkStatus();
        SEALIFT_ASSIGN_OR_RETURN(Baseline baseline, ReadBaseline(query.TextAt(0)));
        approved.push_back(std::move(baseline));
      }
    }));
    return approved;
  }

  Result<bool> Confirmed(const Sha256Digest& id, std::uint32_t machines) override {
    bool confirmed = false;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      return ReadConfirmed(connection, id, machines, confirmed);
    }));
    return confirmed;
  }

  Result<std::vector<BaselineRecord>> List(const std::optional<HardwareModel>& model, std::uint32_t machines,
                                           std::size_t limit) override {
    std::vector<BaselineRecord> records;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      // A vendor that no machine has stands for all.
      SEALIFT_ASSIGN_OR_RETURN(
          auto query, connection.Prepare("SELECT " SEALIFT_BASELINE_COLUMNS
                                         " FROM baselines WHERE $1 = 1 OR (vendor = $2 AND product = $3) "
                                         "ORDER BY vendor, product, approved_by = '', first_seen_ms, id "
                                         "LIMIT $4"));
      query.Integer(model ? 0 : 1).Text(model ? model->vendor : "").Text(model ? model->product : "");
      query.Integer(static_cast<std::int64_t>(limit));
      return ReadRecords(connection, query, machines, records);
    }));
    std::ranges::stable_sort(records, [](const BaselineRecord& a, const BaselineRecord& b) {
      if (a.baseline.model != b.baseline.model) return a.baseline.model < b.baseline.model;
      if (a.approved_now() != b.approved_now()) return a.approved_now();
      return a.nodes > b.nodes;
    });
    return records;
  }

  Result<BaselineRecord> Find(const std::string& prefix, std::uint32_t machines) override {
    std::vector<BaselineRecord> records;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query, connection.Prepare("SELECT " SEALIFT_BASELINE_COLUMNS
                                         " FROM baselines WHERE id_hex >= $1 AND id_hex < $2 LIMIT 2"));
      query.Text(prefix).Text(AfterPrefix(prefix));
      return ReadRecords(connection, query, machines, records);
    }));
    if (prefix.empty() || records.size() != 1) {
      return MakeError(
          Code::kNotFound, Reason::kBaselineUnknown,
          fmt::format("find baseline {}: {}", prefix, records.size() > 1 ? "several start so" : "none"));
    }
    return std::move(records.front());
  }

  Result<std::vector<NodeId>> NodesOf(const Sha256Digest& id, std::size_t limit) override {
    std::vector<NodeId> nodes;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query,
                               connection.Prepare("SELECT node_id FROM baseline_nodes "
                                                  "WHERE baseline_id = $1 ORDER BY node_id LIMIT $2"));
      query.Blob(id.view()).Integer(static_cast<std::int64_t>(limit));
      return ReadNodeIds(query, nodes);
    }));
    return nodes;
  }

  Status Approve(const Sha256Digest& id, const std::string& by, UnixMillis now) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query,
                               connection.Prepare("SELECT approved_by FROM baselines WHERE id = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Blob(id.view()).Step());
      if (!row) return NoSuchBaseline(id.hex());
      if (!query.TextAt(0).empty()) return OkStatus();
      SEALIFT_ASSIGN_OR_RETURN(
          auto update,
          connection.Prepare("UPDATE baselines SET approved_by = $1, approved_ms = $2 WHERE id = $3"));
      return update.Text(by).Time(now).Blob(id.view()).Run().status();
    });
  }

  Status Withdraw(const Sha256Digest& id) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto update,
          connection.Prepare("UPDATE baselines SET approved_by = '', approved_ms = 0 WHERE id = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const int changed, update.Blob(id.view()).Run());
      if (changed == 0) return NoSuchBaseline(id.hex());
      return ForgetIfUnshown(connection, id);
    });
  }

 private:
  static Status ReadHardware(SqliteConnection& connection, const NodeId& node,
                             std::optional<NodeHardware>& found) {
    SEALIFT_ASSIGN_OR_RETURN(auto query, connection.Prepare("SELECT vendor, product, firmware, baseline_id "
                                                            "FROM baseline_nodes WHERE node_id = $1"));
    SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Text(node.text()).Step());
    if (!row) return OkStatus();
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest id, Sha256Digest::FromBytes(query.BlobAt(3)));
    found = NodeHardware{.hardware = {.model = {.vendor = query.TextAt(0), .product = query.TextAt(1)},
                                      .firmware_version = query.TextAt(2)},
                         .baseline = id};
    return OkStatus();
  }

  static Status Propose(SqliteConnection& connection, const Baseline& baseline, UnixMillis now) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto insert,
        connection.Prepare("INSERT INTO baselines (id, id_hex, vendor, product, content, first_seen_ms, "
                           "approved_by, approved_ms) VALUES ($1, $2, $3, $4, $5, $6, '', 0) "
                           "ON CONFLICT (id) DO NOTHING"));
    insert.Blob(baseline.id.view()).Text(baseline.id.hex());
    insert.Text(baseline.model.vendor).Text(baseline.model.product);
    return insert.Text(EncodeBaseline(baseline)).Time(now).Run().status();
  }

  static Status Count(SqliteConnection& connection, const NodeHardware& shown) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto add,
        connection.Prepare("INSERT INTO baseline_counts (vendor, product, firmware, baseline_id, nodes) "
                           "VALUES ($1, $2, $3, $4, 1) ON CONFLICT (vendor, product, firmware, baseline_id) "
                           "DO UPDATE SET nodes = baseline_counts.nodes + 1"));
    return Bind(add, shown).Run().status();
  }

  static Status CountNoMore(SqliteConnection& connection, const NodeHardware& shown) {
    SEALIFT_ASSIGN_OR_RETURN(auto less,
                             connection.Prepare("UPDATE baseline_counts SET nodes = nodes - 1 WHERE "
                                                "vendor = $1 AND product = $2 AND firmware = $3 "
                                                "AND baseline_id = $4"));
    SEALIFT_RETURN_IF_ERROR(Bind(less, shown).Run().status());
    SEALIFT_ASSIGN_OR_RETURN(auto none,
                             connection.Prepare("DELETE FROM baseline_counts WHERE vendor = $1 AND "
                                                "product = $2 AND firmware = $3 AND baseline_id = $4 "
                                                "AND nodes <= 0"));
    return Bind(none, shown).Run().status();
  }

  static SqliteStatement& Bind(SqliteStatement& statement, const NodeHardware& shown) {
    const Hardware& hardware = shown.hardware;
    return statement.Text(hardware.model.vendor)
        .Text(hardware.model.product)
        .Text(hardware.firmware_version)
        .Blob(shown.baseline.view());
  }

  static Status ForgetIfUnshown(SqliteConnection& connection, const Sha256Digest& id) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto forget,
        connection.Prepare("DELETE FROM baselines WHERE id = $1 AND approved_by = '' AND NOT EXISTS "
                           "(SELECT 1 FROM baseline_counts WHERE baseline_id = baselines.id)"));
    return forget.Blob(id.view()).Run().status();
  }

  static Status ReadConfirmed(SqliteConnection& connection, const Sha256Digest& id, std::uint32_t machines,
                              bool& confirmed) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto query, connection.Prepare("SELECT mine.nodes, SUM(every.nodes) FROM baseline_counts AS mine "
                                       "JOIN baseline_counts AS every ON every.vendor = mine.vendor "
                                       "AND every.product = mine.product AND every.firmware = mine.firmware "
                                       "WHERE mine.baseline_id = $1 GROUP BY mine.firmware, mine.nodes"));
    query.Blob(id.view());
    while (!confirmed) {
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
      if (!row) return OkStatus();
      const std::int64_t mine = query.IntegerAt(0);
      confirmed = mine >= static_cast<std::int64_t>(machines) && mine * 2 > query.IntegerAt(1);
    }
    return OkStatus();
  }

  static Status ReadRecords(SqliteConnection& connection, SqliteStatement& query, std::uint32_t machines,
                            std::vector<BaselineRecord>& records) {
    for (;;) {
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
      if (!row) break;
      BaselineRecord record;
      SEALIFT_ASSIGN_OR_RETURN(record.baseline, ReadBaseline(query.TextAt(1)));
      record.first_seen = query.TimeAt(2);
      record.approved_by = query.TextAt(3);
      record.approved = query.TimeAt(4);
      records.push_back(std::move(record));
    }
    for (BaselineRecord& record : records) {
      SEALIFT_RETURN_IF_ERROR(ReadConfirmed(connection, record.baseline.id, machines, record.confirmed));
      SEALIFT_ASSIGN_OR_RETURN(
          auto count,
          connection.Prepare("SELECT COALESCE(SUM(nodes), 0) FROM baseline_counts WHERE baseline_id = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, count.Blob(record.baseline.id.view()).Step());
      if (row) record.nodes = static_cast<std::uint64_t>(count.IntegerAt(0));
    }
    return OkStatus();
  }

  SqliteDb& db_;
};

class SqlitePolicyStore final : public PolicyStore {
 public:
  explicit SqlitePolicyStore(SqliteDb& db) : db_(db) {}

  Result<Quarantine> QuarantineWithin(const NodeId& id, std::uint32_t percent) override {
    Quarantine done = Quarantine::kNotAdmitted;
    const Status written = db_.Write([&](SqliteConnection& connection) -> Status {
      std::int64_t admitted = 0;
      std::int64_t quarantined = 0;
      SEALIFT_RETURN_IF_ERROR(CountNodes(connection, Admission::kAdmitted, admitted));
      SEALIFT_RETURN_IF_ERROR(CountNodes(connection, Admission::kQuarantined, quarantined));
      if ((quarantined + 1) * 100 > static_cast<std::int64_t>(percent) * (admitted + quarantined)) {
        done = Quarantine::kLimit;
        return OkStatus();
      }
      SEALIFT_ASSIGN_OR_RETURN(
          auto update,
          connection.Prepare("UPDATE nodes SET admission = $1 WHERE id = $2 AND admission = $3"));
      update.Integer(static_cast<std::int64_t>(Admission::kQuarantined)).Text(id.text());
      SEALIFT_ASSIGN_OR_RETURN(const int changed,
                               update.Integer(static_cast<std::int64_t>(Admission::kAdmitted)).Run());
      done = changed == 1 ? Quarantine::kDone : Quarantine::kNotAdmitted;
      return OkStatus();
    });
    if (!written.ok()) return written;
    return done;
  }

  Result<std::vector<std::string>> RunningRolloutsOf(const NodeId& id) override {
    std::vector<std::string> rollouts;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query, connection.Prepare("SELECT id FROM rollout_nodes JOIN rollouts ON rollout_id = id "
                                         "WHERE node_id = $1 AND state = $2"));
      query.Text(id.text()).Integer(static_cast<std::int64_t>(RolloutState::kRunning));
      for (;;) {
        SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
        if (!row) return OkStatus();
        rollouts.push_back(query.TextAt(0));
      }
    }));
    return rollouts;
  }

 private:
  static Status CountNodes(SqliteConnection& connection, Admission admission, std::int64_t& count) {
    SEALIFT_ASSIGN_OR_RETURN(auto query,
                             connection.Prepare("SELECT COUNT(*) FROM nodes WHERE admission = $1"));
    SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Integer(static_cast<std::int64_t>(admission)).Step());
    if (row) count = query.IntegerAt(0);
    return OkStatus();
  }

  SqliteDb& db_;
};

}  // namespace

std::unique_ptr<BaselineStore> MakeSqliteBaselineStore(SqliteDb& db) {
  return std::make_unique<SqliteBaselineStore>(db);
}
std::unique_ptr<PolicyStore> MakeSqlitePolicyStore(SqliteDb& db) {
  return std::make_unique<SqlitePolicyStore>(db);
}

}  // namespace sealift::controller
