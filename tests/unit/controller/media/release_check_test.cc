#include "controller/media/release_check.h"

#include <gtest/gtest.h>

#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "tests/support/status_matchers.h"

namespace sealift::media {
namespace {

using std::chrono::steady_clock;

TEST(ReleaseCheckTest, EndsAtItsDeadline) {
  const TempDir folder = TempDir::Create("sealift-check").value();
  const std::string text = "timeout 5\n";
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "loader.conf", AsBytes(text)).ok());
  const std::string manifest = SerializeManifest({.version = "1.2",
                                                  .hardware_class = "generic-x86_64",
                                                  .files = {{.path = "loader.conf",
                                                             .role = FileRole::kLoaderConf,
                                                             .digest = Sha256(AsBytes(text)),
                                                             .size = text.size()}},
                                                  .stub_version = "252.1"});
  const auto at = [&](const std::string& path) -> Result<std::filesystem::path> {
    return folder.path() / path;
  };
  const auto checked = CheckReleaseFiles(manifest, at, {}, steady_clock::time_point::max());
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_TRUE(checked->good());
  EXPECT_EQ(test::ReasonIdFrom(CheckReleaseFiles(manifest, at, {}, steady_clock::now())), "TIMEOUT");
}

}  // namespace
}  // namespace sealift::media
