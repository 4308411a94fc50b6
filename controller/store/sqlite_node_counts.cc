// Counts from columns that an index covers: neither a status nor a verdict is read.
#include "controller/store/sqlite_stores.h"

namespace sealift::controller {

// Rows of before are given their state at the next check-in.
const char kNodeCountsSchema[] = R"sql(
ALTER TABLE node_check_ins ADD COLUMN state BIGINT NOT NULL DEFAULT 0;
CREATE INDEX node_check_ins_by_state ON node_check_ins (node_id, state);
CREATE INDEX nodes_by_kind ON nodes (id, admission, verdict_trust);
)sql";

namespace {

class SqliteNodeCounts final : public NodeCounts {
 public:
  explicit SqliteNodeCounts(SqliteDb& db) : db_(db) {}

  Result<std::vector<NodeGroup>> CountNodes() override {
    std::vector<NodeGroup> groups;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query,
                               connection.Prepare("SELECT c.state, n.admission, n.verdict_trust, COUNT(*) "
                                                  "FROM nodes n JOIN node_check_ins c ON c.node_id = n.id "
                                                  "GROUP BY c.state, n.admission, n.verdict_trust "
                                                  "ORDER BY c.state, n.admission, n.verdict_trust"));
      for (;;) {
        SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
        if (!row) return OkStatus();
        groups.push_back({.state = static_cast<UpdateState>(query.IntegerAt(0)),
                          .admission = static_cast<Admission>(query.IntegerAt(1)),
                          .trust = static_cast<Trust>(query.IntegerAt(2)),
                          .nodes = static_cast<std::size_t>(query.IntegerAt(3))});
      }
    }));
    return groups;
  }

 private:
  SqliteDb& db_;
};

}  // namespace

std::unique_ptr<NodeCounts> MakeSqliteNodeCounts(SqliteDb& db) {
  return std::make_unique<SqliteNodeCounts>(db);
}

}  // namespace sealift::controller
