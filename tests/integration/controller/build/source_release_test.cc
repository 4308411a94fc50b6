// Releases from images: the same tree gives the same release, wherever it comes from.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "controller/build/release_builder.h"
#include "shared/content/frame_index.h"
#include "tests/support/oci_maker.h"
#include "tests/support/os_tree.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tools.h"

namespace sealift::build {
namespace {

namespace fs = std::filesystem;
using test::ReasonIdFrom;
using test::RunTool;

class SourceReleaseTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* tool : {"tar", "python3"}) SEALIFT_NEED_TOOL(tool);
    os_.Write("var/lib/dpkg/status",
              "Package: tool\nStatus: install ok installed\nVersion: 1.5\nArchitecture: amd64\n");
    os_.Write("var/lib/dpkg/info/tool.list", "/usr/bin/tool\n");
    os_.Write("usr/bin/tool", "tool", 0755);
    fs::create_hard_link(os_.path() / "usr/bin/tool", os_.path() / "usr/bin/same-tool");
    const CommandOutput tar = RunTool({"tar", "--create", "--owner=0", "--group=0", "--numeric-owner",
                                       "--file", Path("layer.tar"), "--directory", os_.path().string(), "."});
    ASSERT_EQ(tar.exit_code, 0) << tar.err;
    oci_.Index({oci_.Image({ReadTextFile(Path("layer.tar")).value()})});
  }
  std::string Path(const std::string& name) const { return (work_.path() / name).string(); }
  Result<BuiltRelease> Build(const std::string& source, const std::string& out) {
    return BuildRelease({.source = source, .out = Path(out), .command_line = "quiet", .zstd_level = 1},
                        keys_.Keys(), {});
  }

  test::OsTree os_;
  test::OciMaker oci_;
  test::ReleaseKeySet keys_;
  TempDir work_ = TempDir::Create("sealift-release").value();
};

TEST_F(SourceReleaseTest, AnImageGivesTheReleaseOfItsFolder) {
  const auto folder = Build("dir:" + os_.path().string(), "folder");
  ASSERT_TRUE(folder.ok()) << folder.status();
  const auto image = Build(oci_.source(), "image");
  ASSERT_TRUE(image.ok()) << image.status();
  for (const char* name : {"release.json", "frames.json", "sbom.spdx.json", "EFI/kairos/norole.efi"}) {
    EXPECT_EQ(ReadFile(fs::path(Path("folder")) / name).value(),
              ReadFile(fs::path(Path("image")) / name).value())
        << name;
  }
}

TEST_F(SourceReleaseTest, IndexAndBillOfMaterialsTravelWithTheRelease) {
  const auto built = Build("dir:" + os_.path().string(), "out");
  ASSERT_TRUE(built.ok()) << built.status();
  EXPECT_EQ(built->packages, 1u);
  const ReleaseFile index_file = built->manifest.OnlyFile(FileRole::kFrameIndex).value();
  const ReleaseFile sbom_file = built->manifest.OnlyFile(FileRole::kSbom).value();
  for (const ReleaseFile& file : {index_file, sbom_file}) {
    EXPECT_EQ(Sha256(ReadFile(fs::path(Path("out")) / file.path).value()), file.digest);
    EXPECT_EQ(RunTool({"python3", "-m", "json.tool", (fs::path(Path("out")) / file.path).string()}).exit_code,
              0);
  }
  const auto index =
      content::ParseFrameIndex(ReadTextFile(fs::path(Path("out")) / index_file.path).value()).value();
  // The .initrd section of the image is what the index describes.
  EXPECT_EQ(built->manifest.sections.at(".initrd"), index.digest);
  EXPECT_EQ(index.frames.back().group, "tool");
  EXPECT_EQ(index.frames.back().files.size(), 2u);
  const auto sbom = nlohmann::json::parse(ReadTextFile(fs::path(Path("out")) / sbom_file.path).value());
  EXPECT_EQ(sbom["packages"][1]["name"], "tool");
  EXPECT_EQ(sbom["packages"][0]["checksums"][0]["checksumValue"], index.digest.hex());
}

TEST_F(SourceReleaseTest, ADamagedImageLeavesNothing) {
  for (const auto& item : fs::directory_iterator(oci_.path() / "blobs/sha256")) {
    if (item.file_size() < 10'000) continue;
    std::string text = ReadTextFile(item.path()).value();
    text[2000] ^= 1;
    oci_.Write("blobs/sha256/" + item.path().filename().string(), text);
  }
  EXPECT_EQ(ReasonIdFrom(Build(oci_.source(), "image")), "SOURCE_UNUSABLE");
  EXPECT_FALSE(fs::exists(Path("image")));
}

}  // namespace
}  // namespace sealift::build
