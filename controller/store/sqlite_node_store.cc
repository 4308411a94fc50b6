#include <fmt/format.h>

#include "controller/store/codec.h"
#include "controller/store/sqlite_stores.h"

namespace sealift::controller {
namespace {

Status NoSuchNode(const NodeId& id) {
  return MakeError(Code::kNotFound, Reason::kNodeUnknown, fmt::format("find node {}", id.text()));
}

#define SEALIFT_NODE_COLUMNS                                                                  \
  "id, ek_digest, ak_public, admission, labels, status, enrolled_ms, last_seen_ms, verdict, " \
  "desired_channel, "                                                                         \
  "desired_version, desired_release, certificate_not_after_ms, epoch_lowest, epoch_base, epoch_ms, install"

// Three columns from `first`: channel, version, release id.
Result<std::optional<Desired>> ReadDesired(const SqliteStatement& row, int first) {
  if (row.NullAt(first)) return std::optional<Desired>();
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest release, Sha256Digest::FromBytes(row.BlobAt(first + 2)));
  return std::optional<Desired>(Desired{row.TextAt(first), row.TextAt(first + 1), ReleaseId{release}});
}

Result<Node> ReadNode(const SqliteStatement& row) {
  SEALIFT_ASSIGN_OR_RETURN(NodeId id, NodeId::Parse(row.TextAt(0)));
  Node node{.id = std::move(id)};
  SEALIFT_ASSIGN_OR_RETURN(node.ek_digest, Sha256Digest::FromBytes(row.BlobAt(1)));
  node.ak_public = row.BlobAt(2);
  node.admission = static_cast<Admission>(row.IntegerAt(3));
  SEALIFT_ASSIGN_OR_RETURN(node.labels, DecodeLabels(row.TextAt(4)));
  SEALIFT_ASSIGN_OR_RETURN(node.status, DecodeStatus(row.TextAt(5)));
  node.enrolled = row.TimeAt(6);
  node.last_seen = row.TimeAt(7);
  if (!row.NullAt(8)) {
    SEALIFT_ASSIGN_OR_RETURN(node.last_verdict, DecodeVerdict(row.TextAt(8)));
  }
  SEALIFT_ASSIGN_OR_RETURN(node.desired, ReadDesired(row, 9));
  node.certificate_not_after = row.TimeAt(12);
  if (!row.NullAt(13)) {
    node.certified_epoch = CertifiedEpoch{.lowest = static_cast<std::uint64_t>(row.IntegerAt(13)),
                                          .base = static_cast<std::uint64_t>(row.IntegerAt(14)),
                                          .at = row.TimeAt(15)};
  }
  if (!row.NullAt(16)) {
    SEALIFT_ASSIGN_OR_RETURN(node.install, DecodeInstall(row.TextAt(16)));
  }
  return node;
}

// Text that sorts just after every id that starts with `prefix`; ids are lower-case hex and dashes.
std::string AfterPrefix(const std::string& prefix) { return prefix + "~"; }

class SqliteNodeStore final : public NodeStore {
 public:
  explicit SqliteNodeStore(SqliteDb& db) : db_(db) {}

  Status Enrol(const Node& node) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto owner, connection.Prepare("SELECT id FROM nodes WHERE ek_digest = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool known, owner.Blob(node.ek_digest.view()).Step());
      if (known && owner.TextAt(0) != node.id.text()) {
        return MakeError(Code::kAlreadyExists, Reason::kInvalidArgument,
                         fmt::format("enrol node {}: its endorsement key belongs to node {}", node.id.text(),
                                     owner.TextAt(0)));
      }
      SEALIFT_RETURN_IF_ERROR(known ? Renew(connection, node) : Insert(connection, node));
      return node.install ? KeepInstall(connection, node) : OkStatus();
    });
  }

  Result<Node> Get(const NodeId& id) override {
    std::optional<Node> found;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query, connection.Prepare("SELECT " SEALIFT_NODE_COLUMNS
                                         " FROM nodes JOIN node_check_ins ON node_id = id WHERE id = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Text(id.text()).Step());
      if (!row) return NoSuchNode(id);
      SEALIFT_ASSIGN_OR_RETURN(found, ReadNode(query));
      return OkStatus();
    }));
    return std::move(*found);
  }

  Result<std::optional<Node>> FindByEk(const Sha256Digest& ek_digest) override {
    std::optional<Node> found;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query,
          connection.Prepare("SELECT " SEALIFT_NODE_COLUMNS
                             " FROM nodes JOIN node_check_ins ON node_id = id WHERE ek_digest = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Blob(ek_digest.view()).Step());
      if (!row) return OkStatus();
      SEALIFT_ASSIGN_OR_RETURN(found, ReadNode(query));
      return OkStatus();
    }));
    return found;
  }

  Result<std::vector<Node>> List(const NodeQuery& wanted) override {
    std::vector<Node> nodes;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query,
                               connection.Prepare("SELECT " SEALIFT_NODE_COLUMNS
                                                  " FROM nodes JOIN node_check_ins ON node_id = id WHERE id "
                                                  "> $1 AND id >= $2 AND id < $3 ORDER BY id"));
      query.Text(wanted.after_id).Text(wanted.id_prefix).Text(AfterPrefix(wanted.id_prefix));
      while (nodes.size() < wanted.limit) {
        SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
        if (!row) break;
        SEALIFT_ASSIGN_OR_RETURN(Node node, ReadNode(query));
        if (wanted.selector.Matches(node.labels)) nodes.push_back(std::move(node));
      }
      return OkStatus();
    }));
    return nodes;
  }

  Status SetLabels(const NodeId& id, const std::map<std::string, std::string>& labels) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto update, connection.Prepare("UPDATE nodes SET labels = $1 WHERE id = $2"));
      SEALIFT_ASSIGN_OR_RETURN(const int changed, update.Text(EncodeLabels(labels)).Text(id.text()).Run());
      return changed == 1 ? OkStatus() : NoSuchNode(id);
    });
  }

  Result<std::vector<std::string>> AdoptLabels(const NodeId& id,
                                               const std::map<std::string, std::string>& offered) override {
    std::vector<std::string> left_out;
    const Status written = db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query,
                               connection.Prepare("SELECT labels, last_seen_ms FROM nodes "
                                                  "JOIN node_check_ins ON node_id = id WHERE id = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Text(id.text()).Step());
      if (!row) return NoSuchNode(id);
      if (query.TimeAt(1) != UnixMillis()) return OkStatus();
      SEALIFT_ASSIGN_OR_RETURN(auto labels, DecodeLabels(query.TextAt(0)));
      left_out = AddLabels(labels, offered);
      SEALIFT_ASSIGN_OR_RETURN(auto update, connection.Prepare("UPDATE nodes SET labels = $1 WHERE id = $2"));
      return update.Text(EncodeLabels(labels)).Text(id.text()).Run().status();
    });
    if (!written.ok()) return written;
    return left_out;
  }

  Status RecordEpoch(const NodeId& id, const CertifiedEpoch& epoch) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto update,
                               connection.Prepare("UPDATE nodes SET epoch_lowest = $1, epoch_base = $2, "
                                                  "epoch_ms = $3 WHERE id = $4"));
      update.Integer(static_cast<std::int64_t>(epoch.lowest)).Integer(static_cast<std::int64_t>(epoch.base));
      SEALIFT_ASSIGN_OR_RETURN(const int changed, update.Time(epoch.at).Text(id.text()).Run());
      return changed == 1 ? OkStatus() : NoSuchNode(id);
    });
  }

  Status SetAdmission(const NodeId& id, Admission admission) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto update,
                               connection.Prepare("UPDATE nodes SET admission = $1 WHERE id = $2"));
      SEALIFT_ASSIGN_OR_RETURN(const int changed,
                               update.Integer(static_cast<std::int64_t>(admission)).Text(id.text()).Run());
      return changed == 1 ? OkStatus() : NoSuchNode(id);
    });
  }

  Result<Admission> AdmitPending(const NodeId& id,
                                 const std::map<std::string, std::string>& labels) override {
    Admission in_force = Admission::kPending;
    const Status written = db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto admit, connection.Prepare("UPDATE nodes SET admission = $1, labels = $2 "
                                                              "WHERE id = $3 AND admission = $4"));
      admit.Integer(static_cast<std::int64_t>(Admission::kAdmitted))
          .Text(EncodeLabels(labels))
          .Text(id.text());
      SEALIFT_RETURN_IF_ERROR(admit.Integer(static_cast<std::int64_t>(Admission::kPending)).Run().status());
      SEALIFT_ASSIGN_OR_RETURN(auto now, connection.Prepare("SELECT admission FROM nodes WHERE id = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, now.Text(id.text()).Step());
      if (!row) return NoSuchNode(id);
      in_force = static_cast<Admission>(now.IntegerAt(0));
      return OkStatus();
    });
    if (!written.ok()) return written;
    return in_force;
  }

 private:
  static Status Renew(SqliteConnection& connection, const Node& node) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto update,
        connection.Prepare("UPDATE nodes SET ak_public = $1, certificate_not_after_ms = $2 WHERE id = $3"));
    return update.Blob(node.ak_public).Time(node.certificate_not_after).Text(node.id.text()).Run().status();
  }

  static Status KeepInstall(SqliteConnection& connection, const Node& node) {
    SEALIFT_ASSIGN_OR_RETURN(auto update, connection.Prepare("UPDATE nodes SET install = $1 WHERE id = $2"));
    return update.Text(EncodeInstall(*node.install)).Text(node.id.text()).Run().status();
  }

  static Status Insert(SqliteConnection& connection, const Node& node) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto insert,
        connection.Prepare("INSERT INTO nodes (id, ek_digest, ak_public, admission, labels, enrolled_ms, "
                           "verdict_trust, verdict_decided_ms, verdict_boot, certificate_not_after_ms) "
                           "VALUES ($1, $2, $3, $4, $5, $6, 0, 0, '', $7)"));
    insert.Text(node.id.text()).Blob(node.ek_digest.view()).Blob(node.ak_public);
    insert.Integer(static_cast<std::int64_t>(node.admission)).Text(EncodeLabels(node.labels));
    SEALIFT_RETURN_IF_ERROR(insert.Time(node.enrolled).Time(node.certificate_not_after).Run().status());
    SEALIFT_ASSIGN_OR_RETURN(auto status,
                             connection.Prepare("INSERT INTO node_check_ins (node_id, status, last_seen_ms, "
                                                "quote_nonce_expires_ms, state) VALUES ($1, $2, 0, 0, $3)"));
    status.Text(node.id.text()).Text(EncodeStatus(node.status));
    return status.Integer(static_cast<std::int64_t>(node.status.state)).Run().status();
  }

  SqliteDb& db_;
};

class SqliteNodeStatusStore final : public NodeStatusStore {
 public:
  explicit SqliteNodeStatusStore(SqliteDb& db) : db_(db) {}

  Result<CheckInView> ViewForCheckIn(const NodeId& id) override {
    CheckInView view;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query,
          connection.Prepare(
              "SELECT admission, last_seen_ms, verdict_trust, verdict_decided_ms, "
              "verdict_boot, desired_channel, desired_version, desired_release, "
              "verdict_degraded, epoch_lowest FROM nodes JOIN node_check_ins ON node_id = id WHERE id = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Text(id.text()).Step());
      if (!row) return NoSuchNode(id);
      view.admission = static_cast<Admission>(query.IntegerAt(0));
      view.last_seen = query.TimeAt(1);
      view.last_trust = static_cast<Trust>(query.IntegerAt(2));
      view.last_decided = query.TimeAt(3);
      view.last_verdict_boot_id = query.TextAt(4);
      SEALIFT_ASSIGN_OR_RETURN(view.desired, ReadDesired(query, 5));
      view.last_degraded = query.IntegerAt(8) != 0;
      if (!query.NullAt(9)) view.certified_epoch = static_cast<std::uint64_t>(query.IntegerAt(9));
      return ReadOrders(connection, id, view.orders);
    }));
    return view;
  }

  Result<bool> RecordStatus(const NodeId& id, const NodeStatus& status, UnixMillis now,
                            const std::optional<QuoteNonce>& nonce) override {
    bool differs = false;
    const Written now_known{.encoded = EncodeStatus(status), .state = status.state};
    const Status written = db_.Write(
        [&](SqliteConnection& connection) { return Record(connection, id, now_known, now, nonce, differs); });
    if (!written.ok()) return written;
    return differs;
  }

  void RecordStatusLater(const NodeId& id, const NodeStatus& status, UnixMillis now,
                         const std::optional<QuoteNonce>& nonce,
                         std::function<void(const Result<bool>&)> done) override {
    const auto differs = std::make_shared<bool>(false);
    db_.WriteLater(
        [=, now_known = Written{.encoded = EncodeStatus(status), .state = status.state}](
            SqliteConnection& connection) { return Record(connection, id, now_known, now, nonce, *differs); },
        [differs, done = std::move(done)](const Status& written) {
          done(written.ok() ? Result<bool>(*differs) : Result<bool>(written));
        });
  }

  Result<std::optional<Bytes>> TakeQuoteNonce(const NodeId& id, UnixMillis now) override {
    std::optional<Bytes> taken;
    SEALIFT_RETURN_IF_ERROR(db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query,
          connection.Prepare(
              "SELECT quote_nonce, quote_nonce_expires_ms FROM node_check_ins WHERE node_id = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Text(id.text()).Step());
      if (!row) return NoSuchNode(id);
      if (query.NullAt(0)) return OkStatus();
      if (query.TimeAt(1) > now) taken = query.BlobAt(0);
      SEALIFT_ASSIGN_OR_RETURN(
          auto clear, connection.Prepare("UPDATE node_check_ins SET quote_nonce = NULL WHERE node_id = $1"));
      return clear.Text(id.text()).Run().status();
    }));
    return taken;
  }

  Status RecordVerdict(const NodeId& id, const Verdict& verdict) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto update,
                               connection.Prepare("UPDATE nodes SET verdict = $1, verdict_trust = $2, "
                                                  "verdict_decided_ms = $3, verdict_boot = $4, "
                                                  "verdict_degraded = $5 WHERE id = $6"));
      update.Text(EncodeVerdict(verdict)).Integer(static_cast<std::int64_t>(verdict.trust));
      update.Time(verdict.decided).Text(verdict.boot_id).Integer(verdict.degraded_boot ? 1 : 0);
      SEALIFT_ASSIGN_OR_RETURN(const int changed, update.Text(id.text()).Run());
      return changed == 1 ? OkStatus() : NoSuchNode(id);
    });
  }

 private:
  // One look into an index for nearly all nodes.
  static Status ReadOrders(SqliteConnection& connection, const NodeId& id,
                           std::vector<PendingOrder>& orders) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto query, connection.Prepare("SELECT id, state, nonce, expires_ms, envelope FROM change_requests "
                                       "WHERE node_id = $1 AND deliverable = 1 ORDER BY sequence"));
    query.Text(id.text());
    for (;;) {
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
      if (!row) return OkStatus();
      orders.push_back({.request_id = query.TextAt(0),
                        .state = static_cast<RequestState>(query.IntegerAt(1)),
                        .nonce = query.BlobAt(2),
                        .expires = query.TimeAt(3),
                        .envelope = query.TextAt(4)});
    }
  }

  // A status as it is stored; the state has a column of its own, which is counted by.
  struct Written {
    std::string encoded;
    UpdateState state;
  };
  static Status Record(SqliteConnection& connection, const NodeId& id, const Written& status, UnixMillis now,
                       const std::optional<QuoteNonce>& nonce, bool& differs) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto before, connection.Prepare("SELECT status, state FROM node_check_ins WHERE node_id = $1"));
    SEALIFT_ASSIGN_OR_RETURN(const bool known, before.Text(id.text()).Step());
    if (!known) return NoSuchNode(id);
    differs = before.TextAt(0) != status.encoded;
    const auto state = static_cast<std::int64_t>(status.state);
    if (before.IntegerAt(1) != state) {
      // Apart, since it moves an entry of an index, and nearly no check-in has another state.
      SEALIFT_ASSIGN_OR_RETURN(auto move,
                               connection.Prepare("UPDATE node_check_ins SET state = $1 WHERE node_id = $2"));
      SEALIFT_RETURN_IF_ERROR(move.Integer(state).Text(id.text()).Run().status());
    }
    SEALIFT_ASSIGN_OR_RETURN(
        auto update,
        connection.Prepare("UPDATE node_check_ins SET status = $1, last_seen_ms = $2 WHERE node_id = $3"));
    SEALIFT_RETURN_IF_ERROR(update.Text(status.encoded).Time(now).Text(id.text()).Run().status());
    return nonce ? KeepNonce(connection, id, *nonce) : OkStatus();
  }

  static Status KeepNonce(SqliteConnection& connection, const NodeId& id, const QuoteNonce& nonce) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto keep,
        connection.Prepare("UPDATE node_check_ins SET quote_nonce = $1, quote_nonce_expires_ms = $2 "
                           "WHERE node_id = $3"));
    return keep.Blob(nonce.nonce).Time(nonce.expires).Text(id.text()).Run().status();
  }

  SqliteDb& db_;
};

}  // namespace

std::unique_ptr<NodeStore> MakeSqliteNodeStore(SqliteDb& db) { return std::make_unique<SqliteNodeStore>(db); }
std::unique_ptr<NodeStatusStore> MakeSqliteNodeStatusStore(SqliteDb& db) {
  return std::make_unique<SqliteNodeStatusStore>(db);
}

}  // namespace sealift::controller
