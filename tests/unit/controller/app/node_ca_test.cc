#include <gtest/gtest.h>

#include "controller/app/online_keys.h"
#include "shared/crypto/key_reference.h"
#include "tests/support/status_matchers.h"

namespace sealift::controller {
namespace {

using std::chrono::hours;

class NodeCaTest : public ::testing::Test {
 protected:
  static std::shared_ptr<Signer> NewKey() {
    SEALIFT_CHECK(InstallKeyProvider().ok());
    return std::shared_ptr<Signer>(SoftwareSigner::Generate(KeyType::kEcP256).value());
  }

  const UnixMillis end_ = ParseRfc3339("2027-01-01T00:00:00Z").value();
  FakeClock clock_{end_ - hours(2)};
  const std::shared_ptr<Signer> key_ = NewKey();
  const Certificate certificate_ =
      IssueSelfSigned(
          {.common_name = "node ca", .ca = true, .not_before = end_ - hours(24 * 365), .not_after = end_},
          key_, "test node ca")
          .value();
  const NodeId id_ = NodeId::Parse(MakeUuidV7(end_, RandomBytes(10))).value();
};

TEST_F(NodeCaTest, IssuesNothingThatOutlivesIt) {
  const auto issued =
      NodeCa(key_, certificate_, hours(24), clock_).IssueNodeCertificate(id_, NewKey()->public_key());
  ASSERT_TRUE(issued.ok()) << Describe(issued.status());
  EXPECT_EQ(issued->not_after, end_);
}

TEST_F(NodeCaTest, IssuesNothingOnceItsCertificateHasEnded) {
  clock_.SetWall(end_);
  const PublicKey node = NewKey()->public_key();
  EXPECT_EQ(ReasonOf(NodeCa(key_, certificate_, hours(24), clock_).IssueNodeCertificate(id_, node).status()),
            Reason::kSignerCertificateExpired);
  EXPECT_EQ(ReasonOf(IssueServerCertificate({}, node, key_, certificate_, end_).status()),
            Reason::kSignerCertificateExpired);
}

}  // namespace
}  // namespace sealift::controller
