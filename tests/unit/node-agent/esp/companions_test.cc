// Extensions beside an image on the ESP: staged with it, found again, in nobody's way, gone with it.
#include <gtest/gtest.h>

#include "node-agent/esp/esp_stager.h"
#include "tests/unit/node-agent/esp/esp_fixture.h"

namespace sealift::agent {
namespace {

const std::map<std::string, std::string> kBeside = {{"tools.raw", "the tools"}, {"debug.raw", "a debugger"}};

std::string FolderOf(const std::string& version) {
  return std::string(RelativePath(ImagePath(version))) + std::string(kCompanionSuffix);
}

// Images in tests are not signed, so only what lies beside them is looked for.
Status FindBeside(EspNode& node, const std::string& version,
                  const std::map<std::string, std::string>& beside) {
  ImageExpectations expected{.version = version, .digest = Sha256(ImageBytes(version))};
  for (const auto& [name, text] : beside)
    expected.companions.push_back({.name = name, .digest = Sha256(AsBytes(text)), .size = text.size()});
  EspStager stager = node.Stager();
  return stager.FindBeside(std::string(RelativePath(ImagePath(version))), expected);
}

std::vector<std::string> Names(EspNode& node, const std::string& folder) {
  std::vector<std::string> names;
  const auto files = node.fs.List(folder);
  for (std::size_t i = 0; files.ok() && i < files->size(); ++i) names.push_back((*files)[i].name);
  return names;
}

TEST(Companions, AreStagedBesideTheImageBeforeIt) {
  EspNode node;
  EspStager stager = node.Stager();
  auto staged = stager.Stage(node.Fetched("2.0", kBeside));
  ASSERT_TRUE(staged.ok()) << staged.status();
  EXPECT_EQ(Names(node, FolderOf("2.0")), (std::vector<std::string>{"debug.raw", "tools.raw"}));
  EXPECT_EQ(ToText(*node.fs.Read(FolderOf("2.0") + "/tools.raw", 100)), "the tools");
  EXPECT_TRUE(FindBeside(node, "2.0", kBeside).ok());
  ASSERT_TRUE(stager.Activate(*staged, 3).ok());
  // Durable, folder and all.
  node.fs.PowerOn(CutMode::kDropUnsynced);
  EXPECT_TRUE(FindBeside(node, "2.0", kBeside).ok());
}

TEST(Companions, AreFoundOnlyWholeAndAlone) {
  const std::string tools = FolderOf("2.0") + "/tools.raw";
  const auto after = [&](const std::function<void(EspNode&)>& change) {
    EspNode node;
    EspStager stager = node.Stager();
    EXPECT_TRUE(stager.Stage(node.Fetched("2.0", kBeside)).ok());
    change(node);
    const Status found = FindBeside(node, "2.0", kBeside);
    // Whatever was wrong, staging again mends it.
    EXPECT_TRUE(stager.Stage(node.Fetched("2.0", kBeside)).ok());
    EXPECT_TRUE(FindBeside(node, "2.0", kBeside).ok());
    return ReasonIdOf(found);
  };
  EXPECT_EQ(after([](EspNode&) {}), "NONE");
  EXPECT_EQ(after([&](EspNode& node) { EXPECT_TRUE(node.fs.Remove(tools).ok()); }), "IMAGE_NOT_STAGED");
  EXPECT_EQ(after([&](EspNode& node) { node.PutFile(tools, AsBytes("no tools!")); }), "IMAGE_NOT_STAGED");
  EXPECT_EQ(after([&](EspNode& node) { node.PutFile(FolderOf("2.0") + "/planted.raw", AsBytes("x")); }),
            "IMAGE_NOT_STAGED");
  EXPECT_EQ(after([&](EspNode& node) { node.PutFile(FolderOf("2.0") + "/planted.cred", AsBytes("x")); }),
            "IMAGE_NOT_STAGED");
  // The two names of a cut rename.
  EXPECT_EQ(after([&](EspNode& node) {
              node.PutFile(tools + std::string(kTemporarySuffix), AsBytes("the tools"));
            }),
            "IMAGE_NOT_STAGED");
}

TEST(Companions, OfAnImageWithoutAnyNothingLiesThere) {
  EspNode node;
  ASSERT_TRUE(node.fs.MakeDurableDirectory(FolderOf("2.0")).ok());
  node.PutFile(FolderOf("2.0") + "/planted.raw", AsBytes("x"));
  EXPECT_EQ(ReasonIdOf(FindBeside(node, "2.0", {})), "IMAGE_NOT_STAGED");
  EspStager stager = node.Stager();
  ASSERT_TRUE(stager.Stage(node.Fetched("2.0")).ok());
  EXPECT_TRUE(FindBeside(node, "2.0", {}).ok());
}

TEST(Companions, GoWithTheirImageAndStayWithOneThatIsNamed) {
  EspNode node;
  EspStager stager = node.Stager();
  ASSERT_TRUE(stager.Activate(*stager.Stage(node.Fetched("2.0", kBeside)), 3).ok());
  node.PutImage("1.7");
  ASSERT_TRUE(node.fs.MakeDurableDirectory(FolderOf("1.7")).ok());
  node.PutFile(FolderOf("1.7") + "/old.raw", AsBytes("four"));
  ASSERT_TRUE(node.fs.MakeDurableDirectory(FolderOf("1.6")).ok());
  node.PutFile(FolderOf("1.6") + "/orphan.raw", AsBytes("sixsix"));
  ASSERT_TRUE(node.fs.MakeDurableDirectory("EFI/kairos/norole.efi.extra.d").ok());
  node.PutFile("EFI/kairos/norole.efi.extra.d/theirs.raw", AsBytes("x"));
  const auto freed = stager.CollectGarbage();
  ASSERT_TRUE(freed.ok()) << freed.status();
  EXPECT_EQ(*freed, ImageBytes("1.7").size() + 4 + 6);
  EXPECT_FALSE(node.fs.Exists(FolderOf("1.7")));
  EXPECT_FALSE(node.fs.Exists(FolderOf("1.6")));
  EXPECT_TRUE(node.fs.Exists("EFI/kairos/norole.efi.extra.d/theirs.raw"));
  EXPECT_TRUE(FindBeside(node, "2.0", kBeside).ok());
}

TEST(Companions, CountWhereSpaceIsCounted) {
  EspNode node;
  const std::string large(300'000, 'x');
  const std::uint64_t used = 2 * ImageBytes("1.0").size() + 3 * 200;
  node.fs.SetCapacity(used + ImageBytes("2.0").size() + (1u << 20) + 200'000);
  EspStager stager = node.Stager();
  EXPECT_EQ(ReasonIdOf(stager.Stage(node.Fetched("2.0", {{"large.raw", large}})).status()), "ESP_FULL");
  EXPECT_FALSE(node.fs.Exists(FolderOf("2.0")));
  // What lies there is not written again, so it needs no room.
  node.fs.SetCapacity(1ull << 30);
  ASSERT_TRUE(stager.Stage(node.Fetched("2.0", {{"large.raw", large}})).ok());
  node.fs.SetCapacity(0);
  EXPECT_TRUE(stager.Stage(node.Fetched("2.0", {{"large.raw", large}})).ok());
}

}  // namespace
}  // namespace sealift::agent
