// `sealift release diff` on folders as build-uki leaves them, small enough for a test.
#include "controller/cli/release_diff.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "shared/base/files.h"
#include "shared/content/frame_index.h"
#include "shared/crypto/hash.h"
#include "shared/release/manifest.h"

namespace sealift::cli {
namespace {

namespace fs = std::filesystem;

struct Content {
  std::string version;
  std::map<std::string, std::string> packages;
  std::map<std::string, std::string> system_files;
  std::string kernel;
  std::string command_line;
  std::uint64_t epoch = 0;
};

class ReleaseDiffTest : public testing::Test {
 protected:
  fs::path Build(const Content& content) {
    const fs::path out = folder_.path() / content.version;
    Manifest manifest;
    manifest.version = content.version;
    manifest.hardware_class = "generic-x86_64";
    manifest.security_epoch = content.epoch;
    manifest.pcr11 = {{"sysinit", Sha256(AsBytes(content.kernel + content.command_line))}};
    manifest.sections = {{".linux", Sha256(AsBytes(content.kernel))},
                         {".cmdline", Sha256(AsBytes(content.command_line))}};
    const auto add = [&](const std::string& path, FileRole role, const std::string& text) {
      SEALIFT_CHECK(MakeDirectories((out / path).parent_path()).ok());
      SEALIFT_CHECK(WriteFileAtomically(out / path, AsBytes(text)).ok());
      manifest.files.push_back({path, role, Sha256(AsBytes(text)), text.size(), std::nullopt});
    };
    add("EFI/kairos/norole.efi", FileRole::kUki, "image " + content.version);
    nlohmann::json sbom = {{"spdxVersion", "SPDX-2.3"}, {"packages", nlohmann::json::array()}};
    sbom["packages"].push_back({{"name", "the system"},
                                {"versionInfo", content.version},
                                {"primaryPackagePurpose", "OPERATING-SYSTEM"}});
    for (const auto& [name, version] : content.packages) {
      sbom["packages"].push_back({{"name", name}, {"versionInfo", version}});
    }
    add("sbom.spdx.json", FileRole::kSbom, sbom.dump());
    content::FrameRecord frame{.size = 4, .raw_size = 4};
    for (const auto& [path, text] : content.system_files) {
      frame.files.push_back({.path = path, .size = text.size(), .digest = Sha256(AsBytes(text))});
    }
    add("frames.json", FileRole::kFrameIndex,
        content::SerializeFrameIndex(
            {.zstd_version = "1.5.4", .zstd_level = 9, .size = 4, .frames = {frame}}));
    SEALIFT_CHECK(WriteFileAtomically(out / "release.json", AsBytes(SerializeManifest(manifest))).ok());
    return out;
  }
  static std::string Text(const std::vector<Change>& changes) {
    std::string text;
    for (const Change& change : changes) {
      text += (text.empty() ? "" : "; ") + change.name + ": " + change.before + " > " + change.after;
    }
    return text;
  }
  TempDir folder_ = TempDir::Create("release-diff").value();
};

TEST_F(ReleaseDiffTest, TellsWhatWasAddedRemovedAndChanged) {
  const fs::path a = Build({.version = "1.0",
                            .packages = {{"bash", "5.1"}, {"gone", "1"}, {"same", "2"}},
                            .system_files = {{"etc/a", "1"}, {"etc/old", "x"}, {"etc/same", "y"}},
                            .kernel = "linux 6.1.1",
                            .command_line = "quiet"});
  const fs::path b = Build({.version = "1.1",
                            .packages = {{"bash", "5.2"}, {"new", "3"}, {"same", "2"}},
                            .system_files = {{"etc/a", "2"}, {"etc/new", "z"}, {"etc/same", "y"}},
                            .kernel = "linux 6.1.2",
                            .command_line = "quiet",
                            .epoch = 2});
  const auto diff = DiffReleases(a, b);
  ASSERT_TRUE(diff.ok()) << Describe(diff.status());
  EXPECT_EQ(Text(diff->packages), "bash: 5.1 > 5.2; gone: 1 > ; new:  > 3");
  EXPECT_EQ(diff->system_files.size(), 3u) << Text(diff->system_files);
  EXPECT_EQ(diff->system_files.back().name, "etc/new");
  ASSERT_EQ(diff->sections.size(), 1u) << Text(diff->sections);
  EXPECT_EQ(diff->sections[0].name, ".linux");
  ASSERT_EQ(diff->measurements.size(), 1u);
  EXPECT_EQ(diff->measurements[0].name, "pcr11 sysinit");
  EXPECT_EQ(Text(diff->settings), "security_epoch: 0 > 2; version: 1.0 > 1.1");
  EXPECT_EQ(diff->files.size(), 3u) << Text(diff->files);
}

TEST_F(ReleaseDiffTest, OneReleaseDiffersInNothing) {
  const fs::path a =
      Build({.version = "1.0", .packages = {{"bash", "5.1"}}, .system_files = {{"etc/a", "1"}}});
  const auto diff = DiffReleases(a, a);
  ASSERT_TRUE(diff.ok()) << Describe(diff.status());
  EXPECT_TRUE(diff->packages.empty() && diff->files.empty() && diff->system_files.empty() &&
              diff->sections.empty() && diff->measurements.empty() && diff->settings.empty());
}

TEST_F(ReleaseDiffTest, RefusesWhatIsNoRelease) {
  const fs::path a = Build({.version = "1.0", .packages = {{"bash", "5.1"}}});
  EXPECT_EQ(ReasonOf(DiffReleases(a, folder_.path()).status()), Reason::kFileUnreadable);
  ASSERT_TRUE(WriteFileAtomically(a / "sbom.spdx.json", AsBytes("{}")).ok());
  EXPECT_EQ(ReasonOf(DiffReleases(a, a).status()), Reason::kReleaseChanged);
}

}  // namespace
}  // namespace sealift::cli
