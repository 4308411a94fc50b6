#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "controller/store/sqlite_stores.h"

namespace sealift::controller {
namespace {

#define SEALIFT_ROLLOUT_COLUMNS                                                                            \
  "id, channel, version, release_id, selector, state, current_wave, created_ms, created_by, request_key, " \
  "halted_reason, revision"

Result<Rollout> ReadRollout(const SqliteStatement& row) {
  Rollout rollout;
  rollout.id = row.TextAt(0);
  rollout.channel = row.TextAt(1);
  rollout.version = row.TextAt(2);
  SEALIFT_ASSIGN_OR_RETURN(rollout.release_id.digest, Sha256Digest::FromBytes(row.BlobAt(3)));
  rollout.selector = row.TextAt(4);
  rollout.state = static_cast<RolloutState>(row.IntegerAt(5));
  rollout.current_wave = static_cast<std::uint32_t>(row.IntegerAt(6));
  rollout.created = row.TimeAt(7);
  rollout.created_by = row.TextAt(8);
  rollout.request_key = row.TextAt(9);
  rollout.halted_reason = row.TextAt(10);
  rollout.revision = static_cast<std::uint64_t>(row.IntegerAt(11));
  return rollout;
}

Status NoSuchWave(const Rollout& rollout, std::size_t wave) {
  return MakeError(Code::kDataLoss, Reason::kStoreFailed,
                   fmt::format("read rollout {}: no wave {}", rollout.id, wave));
}

Status ReadWaveSizes(SqliteConnection& connection, Rollout& rollout) {
  SEALIFT_ASSIGN_OR_RETURN(
      auto waves, connection.Prepare("SELECT size FROM rollout_waves WHERE rollout_id = $1 ORDER BY wave"));
  waves.Text(rollout.id);
  for (;;) {
    SEALIFT_ASSIGN_OR_RETURN(const bool row, waves.Step());
    if (!row) return OkStatus();
    rollout.waves.push_back(Wave{.size = waves.TextAt(0)});
  }
}

Status ReadWaves(SqliteConnection& connection, Rollout& rollout) {
  SEALIFT_RETURN_IF_ERROR(ReadWaveSizes(connection, rollout));
  SEALIFT_ASSIGN_OR_RETURN(
      auto nodes,
      connection.Prepare("SELECT wave, node_id, progress, reason, message, acknowledged, started_ms "
                         "FROM rollout_nodes WHERE rollout_id = $1 ORDER BY wave, node_id"));
  nodes.Text(rollout.id);
  for (;;) {
    SEALIFT_ASSIGN_OR_RETURN(const bool row, nodes.Step());
    if (!row) return OkStatus();
    const auto wave = static_cast<std::size_t>(nodes.IntegerAt(0));
    if (wave >= rollout.waves.size()) return NoSuchWave(rollout, wave);
    SEALIFT_ASSIGN_OR_RETURN(NodeId id, NodeId::Parse(nodes.TextAt(1)));
    rollout.waves[wave].nodes.push_back(RolloutNode{.node_id = std::move(id),
                                                    .progress = static_cast<Progress>(nodes.IntegerAt(2)),
                                                    .reason = nodes.TextAt(3),
                                                    .message = nodes.TextAt(4),
                                                    .acknowledged = nodes.IntegerAt(5) != 0,
                                                    .started = nodes.TimeAt(6)});
  }
}

// The waves are counted by the database: a rollout may hold tens of thousands of nodes.
Result<RolloutSummary> ReadSummary(SqliteConnection& connection, Rollout rollout) {
  SEALIFT_RETURN_IF_ERROR(ReadWaveSizes(connection, rollout));
  RolloutSummary summary{.rollout = std::move(rollout), .counts = {}};
  summary.counts.resize(summary.rollout.waves.size());
  SEALIFT_ASSIGN_OR_RETURN(auto rows, connection.Prepare("SELECT wave, progress, COUNT(*) FROM rollout_nodes "
                                                         "WHERE rollout_id = $1 GROUP BY wave, progress"));
  rows.Text(summary.rollout.id);
  for (;;) {
    SEALIFT_ASSIGN_OR_RETURN(const bool row, rows.Step());
    if (!row) return summary;
    const auto wave = static_cast<std::size_t>(rows.IntegerAt(0));
    if (wave >= summary.counts.size()) return NoSuchWave(summary.rollout, wave);
    summary.counts[wave].Add(static_cast<Progress>(rows.IntegerAt(1)),
                             static_cast<std::uint32_t>(rows.IntegerAt(2)));
  }
}

// Rows of `query` as rollouts without waves.
Result<std::vector<Rollout>> ReadRows(SqliteStatement query) {
  std::vector<Rollout> rollouts;
  for (;;) {
    SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
    if (!row) return rollouts;
    SEALIFT_ASSIGN_OR_RETURN(Rollout rollout, ReadRollout(query));
    rollouts.push_back(std::move(rollout));
  }
}

// Rows of `query` as rollouts with their waves.
Result<std::vector<Rollout>> ReadAll(SqliteConnection& connection, SqliteStatement query) {
  SEALIFT_ASSIGN_OR_RETURN(auto rollouts, ReadRows(std::move(query)));
  for (Rollout& rollout : rollouts) SEALIFT_RETURN_IF_ERROR(ReadWaves(connection, rollout));
  return rollouts;
}

// Whether both ask for the same. Their nodes may differ: the fleet may have grown between two tries.
bool SameRequest(const Rollout& a, const Rollout& b) {
  return a.channel == b.channel && a.version == b.version && a.release_id == b.release_id &&
         a.selector == b.selector &&
         std::equal(a.waves.begin(), a.waves.end(), b.waves.begin(), b.waves.end(),
                    [](const Wave& x, const Wave& y) { return x.size == y.size; });
}

Status RefuseOverlap(SqliteConnection& connection, const Rollout& rollout) {
  for (const Wave& wave : rollout.waves) {
    for (const RolloutNode& node : wave.nodes) {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query,
          connection.Prepare("SELECT r.id FROM rollout_nodes n JOIN rollouts r ON r.id = n.rollout_id "
                             "WHERE n.node_id = $1 AND r.state IN (1, 2, 3)"));
      SEALIFT_ASSIGN_OR_RETURN(const bool taken, query.Text(node.node_id.text()).Step());
      if (!taken) continue;
      return MakeError(Code::kFailedPrecondition, Reason::kRolloutOverlaps,
                       fmt::format("create rollout: node {} is in rollout {}, which has not ended",
                                   node.node_id.text(), query.TextAt(0)));
    }
  }
  return OkStatus();
}

// Those that differ from `stored`, which is what the database holds: one node of tens of thousands moved,
// often.
Status WriteNodes(SqliteConnection& connection, const Rollout& rollout, const Rollout& stored) {
  for (std::size_t wave = 0; wave < rollout.waves.size(); ++wave) {
    const auto& nodes = rollout.waves[wave].nodes;
    const bool known = wave < stored.waves.size() && stored.waves[wave].nodes.size() == nodes.size();
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      const RolloutNode& node = nodes[i];
      if (known && stored.waves[wave].nodes[i] == node) continue;
      SEALIFT_ASSIGN_OR_RETURN(
          auto write, connection.Prepare(
                          "INSERT INTO rollout_nodes (rollout_id, node_id, wave, progress, reason, message, "
                          "acknowledged, started_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) "
                          "ON CONFLICT (rollout_id, node_id) DO UPDATE SET progress = excluded.progress, "
                          "reason = excluded.reason, message = excluded.message, "
                          "acknowledged = excluded.acknowledged, started_ms = excluded.started_ms"));
      write.Text(rollout.id).Text(node.node_id.text()).Integer(static_cast<std::int64_t>(wave));
      write.Integer(static_cast<std::int64_t>(node.progress)).Text(node.reason).Text(node.message);
      SEALIFT_RETURN_IF_ERROR(write.Integer(node.acknowledged ? 1 : 0).Time(node.started).Run().status());
    }
  }
  return OkStatus();
}

Status Insert(SqliteConnection& connection, const Rollout& rollout) {
  SEALIFT_ASSIGN_OR_RETURN(auto insert,
                           connection.Prepare("INSERT INTO rollouts (" SEALIFT_ROLLOUT_COLUMNS
                                              ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0)"));
  insert.Text(rollout.id).Text(rollout.channel).Text(rollout.version).Blob(rollout.release_id.digest.view());
  insert.Text(rollout.selector)
      .Integer(static_cast<std::int64_t>(rollout.state))
      .Integer(rollout.current_wave);
  insert.Time(rollout.created).Text(rollout.created_by);
  // Null is never a duplicate of another null.
  if (rollout.request_key.empty()) {
    insert.Null();
  } else {
    insert.Text(rollout.request_key);
  }
  SEALIFT_RETURN_IF_ERROR(insert.Text(rollout.halted_reason).Run().status());
  for (std::size_t wave = 0; wave < rollout.waves.size(); ++wave) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto write,
        connection.Prepare("INSERT INTO rollout_waves (rollout_id, wave, size) VALUES ($1, $2, $3)"));
    write.Text(rollout.id).Integer(static_cast<std::int64_t>(wave)).Text(rollout.waves[wave].size);
    SEALIFT_RETURN_IF_ERROR(write.Run().status());
  }
  return WriteNodes(connection, rollout, Rollout());
}

Status GiveOrder(SqliteConnection& connection, const NodeId& node, const Desired& desired) {
  SEALIFT_ASSIGN_OR_RETURN(auto update,
                           connection.Prepare("UPDATE nodes SET desired_channel = $1, desired_version = $2, "
                                              "desired_release = $3 WHERE id = $4"));
  update.Text(desired.channel).Text(desired.version).Blob(desired.release_id.digest.view());
  return update.Text(node.text()).Run().status();
}

// A node that was told something else since keeps that.
Status TakeOrderBack(SqliteConnection& connection, const NodeId& node, const Rollout& rollout) {
  SEALIFT_ASSIGN_OR_RETURN(
      auto update, connection.Prepare("UPDATE nodes SET desired_channel = NULL, desired_version = NULL, "
                                      "desired_release = NULL WHERE id = $1 AND desired_channel = $2 "
                                      "AND desired_version = $3 AND desired_release = $4"));
  update.Text(node.text()).Text(rollout.channel).Text(rollout.version);
  return update.Blob(rollout.release_id.digest.view()).Run().status();
}

Status WriteDesired(SqliteConnection& connection, const Rollout& rollout, const DesiredChange& change) {
  return change.desired ? GiveOrder(connection, change.node_id, *change.desired)
                        : TakeOrderBack(connection, change.node_id, rollout);
}

class SqliteRolloutStore final : public RolloutStore {
 public:
  explicit SqliteRolloutStore(SqliteDb& db) : db_(db) {}

  Result<Rollout> Create(const Rollout& rollout) override {
    Rollout stored = rollout;
    stored.revision = 0;
    const Status written = db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(const bool known, FindByKey(connection, stored));
      if (known) return OkStatus();
      SEALIFT_RETURN_IF_ERROR(RefuseOverlap(connection, stored));
      return Insert(connection, stored);
    });
    if (!written.ok()) return written;
    return stored;
  }

  Result<Rollout> Get(const std::string& id) override {
    std::vector<Rollout> found;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query, connection.Prepare("SELECT " SEALIFT_ROLLOUT_COLUMNS
                                         " FROM rollouts WHERE id >= $1 AND id < $2 ORDER BY id LIMIT 2"));
      query.Text(id).Text(id + "~");
      SEALIFT_ASSIGN_OR_RETURN(found, ReadAll(connection, std::move(query)));
      return OkStatus();
    }));
    if (found.size() != 1 || id.empty()) {
      return MakeError(
          Code::kNotFound, Reason::kRolloutUnknown,
          fmt::format("find rollout '{}': {}", id, found.size() > 1 ? "several start so" : "none"));
    }
    return std::move(found.front());
  }

  Result<std::vector<Rollout>> ListActive() override {
    std::vector<Rollout> found;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query, connection.Prepare("SELECT " SEALIFT_ROLLOUT_COLUMNS
                                         " FROM rollouts WHERE state <= $1 ORDER BY created_ms DESC, id"));
      query.Integer(static_cast<std::int64_t>(RolloutState::kHalted));
      SEALIFT_ASSIGN_OR_RETURN(found, ReadAll(connection, std::move(query)));
      return OkStatus();
    }));
    return found;
  }

  Result<std::size_t> CountActive() override {
    std::size_t count = 0;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query,
                               connection.Prepare("SELECT COUNT(*) FROM rollouts WHERE state <= $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row,
                               query.Integer(static_cast<std::int64_t>(RolloutState::kHalted)).Step());
      if (!row) return OkStatus();
      count = static_cast<std::size_t>(query.IntegerAt(0));
      return OkStatus();
    }));
    return count;
  }

  Result<std::uint64_t> Revision(const std::string& id) override {
    std::optional<std::uint64_t> revision;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query, connection.Prepare("SELECT revision FROM rollouts WHERE id = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Text(id).Step());
      if (row) revision = static_cast<std::uint64_t>(query.IntegerAt(0));
      return OkStatus();
    }));
    if (revision) return *revision;
    return MakeError(Code::kNotFound, Reason::kRolloutUnknown, fmt::format("find rollout '{}': none", id));
  }

  Result<std::vector<RolloutSummary>> ListNewest(std::size_t limit) override {
    std::vector<RolloutSummary> found;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query,
                               connection.Prepare("SELECT " SEALIFT_ROLLOUT_COLUMNS
                                                  " FROM rollouts ORDER BY created_ms DESC, id LIMIT $1"));
      query.Integer(static_cast<std::int64_t>(limit));
      SEALIFT_ASSIGN_OR_RETURN(auto rows, ReadRows(std::move(query)));
      for (Rollout& rollout : rows) {
        SEALIFT_ASSIGN_OR_RETURN(RolloutSummary summary, ReadSummary(connection, std::move(rollout)));
        found.push_back(std::move(summary));
      }
      return OkStatus();
    }));
    return found;
  }

  Status Save(const Rollout& rollout, const std::vector<DesiredChange>& desired) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto update,
          connection.Prepare("UPDATE rollouts SET state = $1, current_wave = $2, halted_reason = $3, "
                             "revision = revision + 1 WHERE id = $4 AND revision = $5"));
      update.Integer(static_cast<std::int64_t>(rollout.state)).Integer(rollout.current_wave);
      update.Text(rollout.halted_reason)
          .Text(rollout.id)
          .Integer(static_cast<std::int64_t>(rollout.revision));
      SEALIFT_ASSIGN_OR_RETURN(const int changed, update.Run());
      if (changed != 1) {
        return MakeError(
            Code::kAborted, Reason::kRolloutStateWrong,
            fmt::format("save rollout {}: it changed since revision {}", rollout.id, rollout.revision));
      }
      Rollout stored{.id = rollout.id};
      SEALIFT_RETURN_IF_ERROR(ReadWaves(connection, stored));
      SEALIFT_RETURN_IF_ERROR(WriteNodes(connection, rollout, stored));
      for (const DesiredChange& change : desired) {
        SEALIFT_RETURN_IF_ERROR(WriteDesired(connection, rollout, change));
      }
      return OkStatus();
    });
  }

 private:
  static Result<bool> FindByKey(SqliteConnection& connection, Rollout& rollout) {
    if (rollout.request_key.empty()) return false;
    SEALIFT_ASSIGN_OR_RETURN(auto query, connection.Prepare("SELECT " SEALIFT_ROLLOUT_COLUMNS
                                                            " FROM rollouts WHERE request_key = $1"));
    query.Text(rollout.request_key);
    SEALIFT_ASSIGN_OR_RETURN(auto found, ReadAll(connection, std::move(query)));
    if (found.empty()) return false;
    if (!SameRequest(found.front(), rollout)) {
      return MakeError(Code::kAlreadyExists, Reason::kInvalidArgument,
                       fmt::format("create rollout: its request key began rollout {}, which is another",
                                   found.front().id));
    }
    rollout = std::move(found.front());
    return true;
  }

  SqliteDb& db_;
};

}  // namespace

std::unique_ptr<RolloutStore> MakeSqliteRolloutStore(SqliteDb& db) {
  return std::make_unique<SqliteRolloutStore>(db);
}

}  // namespace sealift::controller
