#include "controller/fleet/node_counts.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "controller/store/sqlite_stores.h"
#include "shared/base/files.h"

namespace sealift::controller {
namespace {

TEST(SqliteNodeCounts, CountsByWhatNodesAreAsTheyChange) {
  const TempDir dir = TempDir::Create("counts").value();
  const auto stores = SqliteStores::Open(dir.path()).value();
  EXPECT_TRUE(stores->node_counts().CountNodes()->empty());
  std::vector<NodeId> ids;
  for (int i = 0; i < 7; ++i) {
    ids.push_back(NodeId::Parse(fmt::format("01890000-0000-7000-8000-{:012}", i)).value());
    Node node{.id = ids.back(), .ak_public = {1}};
    node.ek_digest.bytes[0] = static_cast<std::uint8_t>(i);
    node.admission = i == 6 ? Admission::kPending : Admission::kAdmitted;
    node.status.state = UpdateState::kIdle;
    ASSERT_TRUE(stores->nodes().Enrol(node).ok());
  }
  const auto count = [&] { return stores->node_counts().CountNodes().value(); };
  EXPECT_EQ(count(), (std::vector<NodeGroup>{
                         {.state = UpdateState::kIdle, .admission = Admission::kPending, .nodes = 1},
                         {.state = UpdateState::kIdle, .admission = Admission::kAdmitted, .nodes = 6}}));
  for (int i = 0; i < 2; ++i) {
    NodeStatus status{.state = UpdateState::kFetching};
    ASSERT_TRUE(
        stores->node_status().RecordStatus(ids[static_cast<std::size_t>(i)], status, FromUnixMs(1), {}).ok());
  }
  ASSERT_TRUE(stores->node_status().RecordVerdict(ids[0], {.trust = Trust::kTrusted}).ok());
  ASSERT_TRUE(stores->nodes().SetAdmission(ids[5], Admission::kRevoked).ok());
  EXPECT_EQ(count(), (std::vector<NodeGroup>{
                         {.state = UpdateState::kIdle, .admission = Admission::kPending, .nodes = 1},
                         {.state = UpdateState::kIdle, .admission = Admission::kAdmitted, .nodes = 3},
                         {.state = UpdateState::kIdle, .admission = Admission::kRevoked, .nodes = 1},
                         {.state = UpdateState::kFetching, .admission = Admission::kAdmitted, .nodes = 1},
                         {.state = UpdateState::kFetching,
                          .admission = Admission::kAdmitted,
                          .trust = Trust::kTrusted,
                          .nodes = 1}}));
  // Neither statuses nor verdicts are read: a damaged one is somebody else's trouble.
  ASSERT_TRUE(stores->db()
                  .Write([](SqliteConnection& connection) {
                    return connection.Script(
                        "UPDATE node_check_ins SET status = 'x'; UPDATE nodes SET verdict = 'x'");
                  })
                  .ok());
  EXPECT_EQ(count().size(), 5u);
}

}  // namespace
}  // namespace sealift::controller
