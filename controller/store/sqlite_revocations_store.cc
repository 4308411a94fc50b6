// Which dbx the fleet's firmware holds.
#include <fmt/format.h>

#include "controller/store/codec.h"
#include "controller/store/sqlite_stores.h"

namespace sealift::controller {
namespace {

Status NoSuchList(const Sha256Digest& event) {
  return MakeError(Code::kNotFound, Reason::kBaselineUnknown,
                   fmt::format("find revocations {}", event.hex()));
}

class SqliteRevocationsStore final : public RevocationsStore {
 public:
  explicit SqliteRevocationsStore(SqliteDb& db) : db_(db) {}

  Result<std::optional<Sha256Digest>> ShownBy(const NodeId& node) override {
    std::optional<Sha256Digest> shown;
    SEALIFT_RETURN_IF_ERROR(
        db_.Read([&](SqliteConnection& connection) { return ReadShown(connection, node, shown); }));
    return shown;
  }

  Status Record(const NodeId& node, const Sha256Digest& event, UnixMillis now) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      std::optional<Sha256Digest> before;
      SEALIFT_RETURN_IF_ERROR(ReadShown(connection, node, before));
      if (before == event) return OkStatus();
      SEALIFT_ASSIGN_OR_RETURN(
          auto propose,
          connection.Prepare("INSERT INTO revocation_lists (event, nodes, first_seen_ms, approved_by, "
                             "approved_ms) VALUES ($1, 1, $2, '', 0) ON CONFLICT (event) DO UPDATE SET "
                             "nodes = revocation_lists.nodes + 1"));
      SEALIFT_RETURN_IF_ERROR(propose.Blob(event.view()).Time(now).Run().status());
      SEALIFT_ASSIGN_OR_RETURN(
          auto keep, connection.Prepare("INSERT INTO revocation_nodes (node_id, event) VALUES ($1, $2) "
                                        "ON CONFLICT (node_id) DO UPDATE SET event = excluded.event"));
      SEALIFT_RETURN_IF_ERROR(keep.Text(node.text()).Blob(event.view()).Run().status());
      if (!before) return OkStatus();
      return CountNoMore(connection, *before);
    });
  }

  Status Forget(const NodeId& node) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      std::optional<Sha256Digest> before;
      SEALIFT_RETURN_IF_ERROR(ReadShown(connection, node, before));
      if (!before) return OkStatus();
      SEALIFT_ASSIGN_OR_RETURN(auto forget,
                               connection.Prepare("DELETE FROM revocation_nodes WHERE node_id = $1"));
      SEALIFT_RETURN_IF_ERROR(forget.Text(node.text()).Run().status());
      return CountNoMore(connection, *before);
    });
  }

  Result<std::vector<Sha256Digest>> Accepted(std::uint32_t machines) override {
    std::vector<RevocationsRecord> all;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query, connection.Prepare(kAll));
      return ReadAll(query, machines, all);
    }));
    std::vector<Sha256Digest> accepted;
    for (const RevocationsRecord& one : all) {
      if (one.approved_now() || one.confirmed) accepted.push_back(one.event);
    }
    return accepted;
  }

  Result<std::vector<RevocationsRecord>> List(std::uint32_t machines, std::size_t limit) override {
    std::vector<RevocationsRecord> records;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query,
          connection.Prepare(
              "SELECT event, nodes, first_seen_ms, approved_by, approved_ms, "
              "(SELECT SUM(nodes) FROM revocation_lists WHERE approved_by = '') FROM revocation_lists "
              "ORDER BY approved_by = '', nodes DESC, event LIMIT $1"));
      query.Integer(static_cast<std::int64_t>(limit));
      return ReadAll(query, machines, records);
    }));
    return records;
  }

  Result<std::vector<NodeId>> NodesOf(const Sha256Digest& event, std::size_t limit) override {
    std::vector<NodeId> nodes;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query,
                               connection.Prepare("SELECT node_id FROM revocation_nodes WHERE event = $1 "
                                                  "ORDER BY node_id LIMIT $2"));
      query.Blob(event.view()).Integer(static_cast<std::int64_t>(limit));
      return ReadNodeIds(query, nodes);
    }));
    return nodes;
  }

  Status Approve(const Sha256Digest& event, const std::string& by, UnixMillis now) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query, connection.Prepare("SELECT approved_by FROM revocation_lists WHERE event = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Blob(event.view()).Step());
      if (!row) return NoSuchList(event);
      if (!query.TextAt(0).empty()) return OkStatus();
      SEALIFT_ASSIGN_OR_RETURN(auto update,
                               connection.Prepare("UPDATE revocation_lists SET approved_by = $1, "
                                                  "approved_ms = $2 WHERE event = $3"));
      return update.Text(by).Time(now).Blob(event.view()).Run().status();
    });
  }

  Status Withdraw(const Sha256Digest& event) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto update,
                               connection.Prepare("UPDATE revocation_lists SET approved_by = '', "
                                                  "approved_ms = 0 WHERE event = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const int changed, update.Blob(event.view()).Run());
      return changed == 0 ? NoSuchList(event) : ForgetIfUnshown(connection, event);
    });
  }

 private:
  static constexpr char kAll[] =
      "SELECT event, nodes, first_seen_ms, approved_by, approved_ms, "
      "(SELECT SUM(nodes) FROM revocation_lists WHERE approved_by = '') FROM revocation_lists ORDER BY event";

  static Status ReadShown(SqliteConnection& connection, const NodeId& node,
                          std::optional<Sha256Digest>& shown) {
    SEALIFT_ASSIGN_OR_RETURN(auto query,
                             connection.Prepare("SELECT event FROM revocation_nodes WHERE node_id = $1"));
    SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Text(node.text()).Step());
    if (!row) return OkStatus();
    SEALIFT_ASSIGN_OR_RETURN(shown, Sha256Digest::FromBytes(query.BlobAt(0)));
    return OkStatus();
  }

  static Status CountNoMore(SqliteConnection& connection, const Sha256Digest& event) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto less, connection.Prepare("UPDATE revocation_lists SET nodes = nodes - 1 WHERE event = $1"));
    SEALIFT_RETURN_IF_ERROR(less.Blob(event.view()).Run().status());
    return ForgetIfUnshown(connection, event);
  }

  static Status ForgetIfUnshown(SqliteConnection& connection, const Sha256Digest& event) {
    SEALIFT_ASSIGN_OR_RETURN(auto forget, connection.Prepare("DELETE FROM revocation_lists WHERE event = $1 "
                                                             "AND nodes <= 0 AND approved_by = ''"));
    return forget.Blob(event.view()).Run().status();
  }

  static Status ReadAll(SqliteStatement& query, std::uint32_t machines,
                        std::vector<RevocationsRecord>& records) {
    for (;;) {
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
      if (!row) return OkStatus();
      RevocationsRecord& record = records.emplace_back();
      SEALIFT_ASSIGN_OR_RETURN(record.event, Sha256Digest::FromBytes(query.BlobAt(0)));
      const std::int64_t nodes = query.IntegerAt(1);
      record.nodes = static_cast<std::uint64_t>(nodes);
      record.first_seen = query.TimeAt(2);
      record.approved_by = query.TextAt(3);
      record.approved = query.TimeAt(4);
      record.confirmed = nodes >= static_cast<std::int64_t>(machines) && nodes * 2 > query.IntegerAt(5);
    }
  }

  SqliteDb& db_;
};

}  // namespace

std::unique_ptr<RevocationsStore> MakeSqliteRevocationsStore(SqliteDb& db) {
  return std::make_unique<SqliteRevocationsStore>(db);
}

}  // namespace sealift::controller
