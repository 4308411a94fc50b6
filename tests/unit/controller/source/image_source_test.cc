#include <gtest/gtest.h>
#include <sys/stat.h>
#include <zstd.h>

#include "controller/source/source.h"
#include "tests/support/oci_maker.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tar_maker.h"

namespace sealift::build {
namespace {

using test::OciMaker;
using test::ReasonIdFrom;
using test::TarMaker;
using Json = nlohmann::json;

TarMaker Base() {
  TarMaker tar;
  tar.Folder("usr/").Folder("usr/lib/").File("usr/lib/a", "lower a").File("usr/lib/b", "lower b");
  return tar;
}

Result<SourceTree> Read(const std::vector<std::string>& layers, const SourceLimits& limits = {}) {
  OciMaker oci;
  oci.Index({oci.Image(layers)});
  return ReadSource(oci.source(), limits);
}

Result<SourceTree> ReadTwo(const TarMaker& upper) { return Read({Base().Text(), upper.Text()}); }

std::string Content(const SourceTree& source, const std::string& path) {
  const auto bytes = source.tree.ReadFile(path);
  return bytes.ok() ? ToText(*bytes) : "<none>";
}

TEST(ImageSourceTest, UpperLayersReplaceAddAndRemove) {
  const auto source = ReadTwo(TarMaker()
                                  .Folder("usr/")
                                  .File("usr/lib/a", "upper a")
                                  .File("usr/lib/.wh.b", "")
                                  .File("./usr/lib//c", "upper c")
                                  .File("usr/bin/made/deep", "x"));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(Content(*source, "usr/lib/a"), "upper a");
  EXPECT_EQ(source->tree.Find("usr/lib/b"), nullptr);
  EXPECT_EQ(source->tree.Find("usr/lib/.wh.b"), nullptr);
  EXPECT_EQ(Content(*source, "usr/lib/c"), "upper c");
  EXPECT_EQ(source->tree.Find("usr/bin/made")->mode, mode_t{S_IFDIR | 0755});
}

TEST(ImageSourceTest, OpaqueFoldersHideWhatIsBelowButNotTheirOwn) {
  // The marker comes after a file of the same layer.
  const auto source =
      ReadTwo(TarMaker().File("usr/lib/c", "c").File("usr/lib/.wh..wh..opq", "").File("usr/lib/.wh.c", ""));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->tree.Find("usr/lib/a"), nullptr);
  EXPECT_EQ(Content(*source, "usr/lib/c"), "c");
  EXPECT_EQ(ReasonIdFrom(ReadTwo(TarMaker().File(".wh..wh..opq", "").File("etc/x", ""))), "ROOTFS_UNUSABLE");
}

TEST(ImageSourceTest, TypesReplaceEachOther) {
  const auto source = ReadTwo(
      TarMaker()
          .File("usr/lib/a/file", "below what was a file")
          .Add({.name = "usr/lib/a", .type = '5', .mode = 01777, .uid = 7})
          .Link("usr/lib/b", "/etc/b")
          .Add({.name = "usr/lib/null", .type = '3', .mode = 0666, .device_major = 1, .device_minor = 3}));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->tree.Find("usr/lib/a")->mode, mode_t{S_IFDIR | 01777});
  EXPECT_EQ(source->tree.Find("usr/lib/a")->uid, 7u);
  EXPECT_EQ(source->tree.Find("usr/lib/b")->target, "/etc/b");
  EXPECT_TRUE(S_ISCHR(source->tree.Find("usr/lib/null")->mode));
  EXPECT_EQ(source->tree.Find("usr/lib/null")->device_major, 1u);
  EXPECT_EQ(source->tree.Find("usr/lib/null")->device_minor, 3u);
  const auto gone = Read({Base().Text(), TarMaker().File("usr/lib", "a file now").Text()});
  ASSERT_TRUE(gone.ok()) << gone.status();
  EXPECT_EQ(gone->tree.Find("usr/lib/a"), nullptr);
}

TEST(ImageSourceTest, HardLinksReachLowerLayersAndEachOther) {
  const auto source = ReadTwo(TarMaker()
                                  .HardLink("usr/lib/0-again", "usr/lib/1-again")
                                  .HardLink("usr/lib/1-again", "./usr/lib/a")
                                  .HardLink("usr/lib/z", "usr/lib/b"));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(Content(*source, "usr/lib/0-again"), "lower a");
  const auto group = source->tree.Find("usr/lib/a")->link_group;
  ASSERT_TRUE(group.has_value());
  EXPECT_EQ(source->tree.Find("usr/lib/0-again")->link_group, group);
  EXPECT_EQ(source->tree.Find("usr/lib/1-again")->link_group, group);
  EXPECT_NE(source->tree.Find("usr/lib/z")->link_group, group);
  EXPECT_EQ(ReasonIdFrom(ReadTwo(TarMaker().HardLink("usr/x", "usr/absent"))), "SOURCE_UNUSABLE");
  EXPECT_EQ(ReasonIdFrom(ReadTwo(TarMaker().HardLink("usr/x", "usr/y").HardLink("usr/y", "usr/x"))),
            "SOURCE_UNUSABLE");
}

TEST(ImageSourceTest, RefusesNamesAndLinksThatLeadOut) {
  const std::pair<const char*, TarMaker> cases[] = {
      {"upwards", TarMaker().File("../etc/passwd", "x")},
      {"upwards inside", TarMaker().File("usr/lib/../../x", "x")},
      {"absolute", TarMaker().File("/etc/passwd", "x")},
      {"absolute folder", TarMaker().Folder("/")},
      {"hard link upwards", TarMaker().HardLink("usr/x", "../../etc/shadow")},
      {"hard link absolute", TarMaker().HardLink("usr/x", "/etc/shadow")},
      {"link upwards", TarMaker().Link("usr/x", "../../etc/shadow")},
      {"link upwards later", TarMaker().Link("usr/x", "lib/../../../etc")},
      {"absolute link upwards", TarMaker().Link("usr/x", "/../etc")},
      {"whiteout of the parent", TarMaker().File("usr/.wh...", "")},
      {"whiteout of nothing", TarMaker().File("usr/.wh.", "")},
      {"below a link", TarMaker().Link("usr/out", "/etc").File("usr/out/passwd", "x")},
  };
  for (const auto& [name, tar] : cases) {
    EXPECT_EQ(ReasonIdFrom(ReadTwo(tar)), "SOURCE_UNSAFE") << name;
  }
  const std::string links = TarMaker().Folder("usr").Link("usr/out", "/etc").Text();
  for (const char* name : {"usr/out/passwd", "usr/out/.wh.passwd", "usr/out/.wh..wh..opq"})
    EXPECT_EQ(ReasonIdFrom(Read({links, TarMaker().File(name, "").Text()})), "SOURCE_UNSAFE") << name;
  // As harmless as in any distribution.
  EXPECT_TRUE(ReadTwo(TarMaker().Link("usr/x", "../etc/shadow").Link("usr/y", "/proc/mounts")).ok());
}

TEST(ImageSourceTest, RefusesWhatIsNoUsableLayer) {
  EXPECT_EQ(ReasonIdFrom(ReadTwo(TarMaker().File("usr/lib/a\n", "x"))), "SOURCE_UNUSABLE");
  EXPECT_EQ(ReasonIdFrom(ReadTwo(TarMaker().File("usr/lib/a/b", "x"))), "SOURCE_UNUSABLE");
  EXPECT_EQ(ReasonIdFrom(Read({"no tar archive at all"})), "SOURCE_UNUSABLE");
  EXPECT_EQ(ReasonIdFrom(Read({Base().Text().substr(0, 1600)})), "SOURCE_UNUSABLE");
  EXPECT_EQ(ReasonIdFrom(Read({TarMaker().File("etc/x", "y").Text()})), "ROOTFS_UNUSABLE");
}

TEST(ImageSourceTest, BombsAreBounded) {
  SourceLimits limits{.max_unpacked_bytes = 100'000, .max_entries = 6, .max_layers = 2};
  EXPECT_TRUE(Read({Base().Text()}, limits).ok());
  // The header alone says it.
  EXPECT_EQ(ReasonIdFrom(Read({TarMaker().Add({.name = "x", .size = 1u << 30}).Text()}, limits)),
            "SOURCE_TOO_LARGE");
  TarMaker many = Base();
  for (int i = 0; i < 3; ++i) many.File("usr/" + std::to_string(i), "");
  EXPECT_EQ(ReasonIdFrom(Read({many.Text()}, limits)), "SOURCE_TOO_LARGE");
  EXPECT_EQ(ReasonIdFrom(Read({Base().Text(), "", ""}, limits)), "SOURCE_TOO_LARGE");
  // Folders that nothing names but a path: each counts, and so do their names.
  const std::string deep = "usr/a/b/c/d/e/f/g";
  EXPECT_EQ(ReasonIdFrom(Read({Base().File(deep, "").Text()}, limits)), "SOURCE_TOO_LARGE");
  SourceLimits names = limits;
  names.max_entries = 1000;
  EXPECT_TRUE(Read({Base().File(deep, "").Text()}, names).ok());
  names.max_name_bytes = 60;
  EXPECT_EQ(ReasonIdFrom(Read({Base().File(deep, "").Text()}, names)), "SOURCE_TOO_LARGE");
  EXPECT_EQ(ReasonIdFrom(Read({Base().Link("usr/x", std::string(60, 'y')).Text()}, names)),
            "SOURCE_TOO_LARGE");
  // A sparse file: 90 KB of hole, twice.
  TarMaker sparse = Base();
  for (const char* name : {"usr/s1", "usr/s2"}) {
    sparse
        .Pax({{"GNU.sparse.size", "90000"},
              {"GNU.sparse.numblocks", "1"},
              {"GNU.sparse.map", "89999,1"},
              {"GNU.sparse.name", name}})
        .Add({.name = "usr/sparse", .content = "x"});
  }
  limits.max_entries = 100;
  EXPECT_EQ(ReasonIdFrom(Read({sparse.Text()}, limits)), "SOURCE_TOO_LARGE");
  // What is no file's content counts too: zeros after the archive's end.
  EXPECT_EQ(ReasonIdFrom(Read({Base().Text() + std::string(300'000, '\0')}, limits)), "SOURCE_TOO_LARGE");
}

TEST(ImageSourceTest, SparseFilesHaveTheirHoles) {
  TarMaker tar = Base();
  tar.Pax({{"GNU.sparse.major", "1"},
           {"GNU.sparse.minor", "0"},
           {"GNU.sparse.name", "usr/hole"},
           {"GNU.sparse.realsize", "200000"}});
  std::string content = "1\n100000\n3\n";
  content.resize(512, '\0');
  tar.Add({.name = "usr/GNUSparseFile.0/hole", .content = content + "mid"});
  const auto source = Read({tar.Text()});
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(Content(*source, "usr/hole"),
            std::string(100'000, '\0') + "mid" + std::string(200'000 - 100'003, '\0'));
}

TEST(ImageSourceTest, NamesOutsideOfAsciiAreKept) {
  TarMaker tar = Base();
  tar.Pax({{"path", "usr/f\xc5\x91"}}).File("usr/placeholder", "utf-8");
  tar.File("usr/latin\xe9", "bytes");
  const auto source = Read({tar.Text()});
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(Content(*source, "usr/f\xc5\x91"), "utf-8");
  EXPECT_EQ(Content(*source, "usr/latin\xe9"), "bytes");
}

TEST(ImageSourceTest, SaysWhichFilesLoseCapabilities) {
  TarMaker tar = Base();
  tar.Pax(
      {{"SCHILY.xattr.security.capability", std::string("\1\0\0\2\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20)}});
  tar.File("usr/bin/ping", "x");
  const auto source = Read({tar.Text()});
  ASSERT_TRUE(source.ok()) << source.status();
  const std::string lost = LostCapabilities(source->tree);
  EXPECT_NE(lost.find(": /usr/bin/ping lose"), std::string::npos) << lost;
  EXPECT_EQ(LostCapabilities(Read({tar.Text(), TarMaker().File("usr/bin/.wh.ping", "").Text()})->tree), "");
}

TEST(ImageSourceTest, LinkGroupsOfLayersAreNoFoldersOwn) {
  TarMaker tar = Base();
  tar.File("usr/a", "x").HardLink("usr/b", "usr/a");
  const auto source = Read({tar.Text()});
  ASSERT_TRUE(source.ok()) << source.status();
  // Device numbers of Linux have 32 bits.
  EXPECT_GT(source->tree.Find("usr/a")->link_group.value().first, UINT32_MAX);
  EXPECT_EQ(source->tree.Find("usr/a")->link_group, source->tree.Find("usr/b")->link_group);
}

TEST(ImageSourceTest, WhatARunningSystemFillsIsEmptied) {
  const auto source = ReadTwo(TarMaker().File("run/x", "").File("tmp/x", "").File("dev/x", ""));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_NE(source->tree.Find("run"), nullptr);
  for (const char* path : {"run/x", "tmp/x", "dev/x"}) EXPECT_EQ(source->tree.Find(path), nullptr) << path;
}

TEST(OciLayoutTest, EveryDigestIsChecked) {
  OciMaker oci;
  const std::string layer = Base().Text();
  oci.Index({oci.Image({layer})});
  ASSERT_TRUE(ReadSource(oci.source()).ok());
  // One byte of each blob, its length kept.
  for (const auto& item : std::filesystem::directory_iterator(oci.path() / "blobs/sha256")) {
    const std::string name = "blobs/sha256/" + item.path().filename().string();
    const std::string good = ReadTextFile(item.path()).value();
    std::string bad = good;
    bad[bad.size() / 2] ^= 1;
    oci.Write(name, bad);
    EXPECT_EQ(ReasonIdFrom(ReadSource(oci.source())), "SOURCE_UNUSABLE") << name;
    std::filesystem::remove(item.path());
    EXPECT_EQ(ReasonIdFrom(ReadSource(oci.source())), "SOURCE_UNUSABLE") << name;
    oci.Write(name, good);
  }
  EXPECT_TRUE(ReadSource(oci.source()).ok());
}

TEST(OciLayoutTest, LayersAreThoseOfTheConfiguration) {
  OciMaker oci;
  const std::string layer = Base().Text();
  Json config = {{"os", "linux"}, {"architecture", "amd64"}, {"rootfs", {{"type", "layers"}}}};
  config["rootfs"]["diff_ids"] = {"sha256:" + std::string(64, '0')};
  const auto image = [&](const Json& configuration, const std::string& type) {
    const Json manifest = {
        {"schemaVersion", 2},
        {"config", oci.Blob(configuration.dump(), "application/vnd.oci.image.config.v1+json")},
        {"layers", {oci.Blob(layer, type)}}};
    oci.Index({oci.Blob(manifest.dump(), OciMaker::kManifest)});
    return ReasonIdFrom(ReadSource(oci.source()));
  };
  const std::string plain = "application/vnd.oci.image.layer.v1.tar";
  EXPECT_EQ(image(config, plain), "SOURCE_UNUSABLE");
  config["rootfs"]["diff_ids"] = {"sha256:" + Sha256(AsBytes(layer)).hex()};
  EXPECT_EQ(image(config, plain), "NONE");
  EXPECT_EQ(image(config, plain + "+encrypted"), "SOURCE_UNUSABLE");
  config["architecture"] = "arm64";
  EXPECT_EQ(image(config, plain), "SOURCE_UNUSABLE");
  config["architecture"] = "amd64";
  config["rootfs"]["diff_ids"].push_back(config["rootfs"]["diff_ids"][0]);
  EXPECT_EQ(image(config, plain), "SOURCE_UNUSABLE");
}

TEST(OciLayoutTest, LayersMayBeCompressedOnce) {
  OciMaker oci;
  const std::string layer = Base().Text();
  const auto zstd = [](const std::string& text) {
    std::string out(ZSTD_compressBound(text.size()), '\0');
    out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
    return out;
  };
  const auto image = [&](const std::string& blob) {
    Json config = {{"os", "linux"}, {"architecture", "amd64"}, {"rootfs", {{"type", "layers"}}}};
    config["rootfs"]["diff_ids"] = {"sha256:" + Sha256(AsBytes(layer)).hex()};
    const Json manifest = {{"schemaVersion", 2},
                           {"config", oci.Blob(config.dump(), "application/vnd.oci.image.config.v1+json")},
                           {"layers", {oci.Blob(blob, "application/vnd.oci.image.layer.v1.tar+zstd")}}};
    oci.Index({oci.Blob(manifest.dump(), OciMaker::kManifest)});
    return ReasonIdFrom(ReadSource(oci.source()));
  };
  EXPECT_EQ(image(zstd(layer)), "NONE");
  EXPECT_EQ(image(zstd(zstd(layer))), "SOURCE_UNUSABLE");
  EXPECT_EQ(image(zstd(layer).substr(0, 60)), "SOURCE_UNUSABLE");
}

TEST(OciLayoutTest, TheNamedImageOrTheOneForThisPlatformIsTaken) {
  OciMaker oci;
  const auto tagged = [](Json descriptor, const std::string& tag) {
    descriptor["annotations"] = {{"org.opencontainers.image.ref.name", tag}};
    return descriptor;
  };
  const auto platform = [](Json descriptor, const std::string& architecture) {
    descriptor["platform"] = {{"os", "linux"}, {"architecture", architecture}};
    return descriptor;
  };
  const Json one = oci.Image({TarMaker().File("usr/one", "1").Text()});
  const Json two = oci.Image({TarMaker().File("usr/two", "2").Text()});
  oci.Index({tagged(one, "one"), tagged(two, "two")});
  EXPECT_NE(ReadSource(oci.source() + ":two")->tree.Find("usr/two"), nullptr);
  EXPECT_EQ(ReasonIdFrom(ReadSource(oci.source() + ":three")), "SOURCE_UNUSABLE");
  EXPECT_EQ(ReasonIdFrom(ReadSource(oci.source())), "SOURCE_UNUSABLE") << "either could be meant";
  const Json index = {{"schemaVersion", 2}, {"manifests", {platform(one, "arm64"), platform(two, "amd64")}}};
  oci.Index({tagged(oci.Blob(index.dump(), OciMaker::kIndex), "several")});
  EXPECT_NE(ReadSource(oci.source() + ":several")->tree.Find("usr/two"), nullptr);
  oci.Write("oci-layout", R"({"imageLayoutVersion":"2.0.0"})");
  EXPECT_EQ(ReasonIdFrom(ReadSource(oci.source())), "SOURCE_UNUSABLE");
}

TEST(OciLayoutTest, BlobsAreNotReadThroughLinks) {
  OciMaker oci;
  const std::string layer = Base().Text();
  const std::string hex = Sha256(AsBytes(layer)).hex();
  oci.Index({oci.Image({layer})});
  const TempDir elsewhere = TempDir::Create("sealift-oci").value();
  std::filesystem::rename(oci.path() / "blobs/sha256" / hex, elsewhere.path() / hex);
  std::filesystem::create_symlink(elsewhere.path() / hex, oci.path() / "blobs/sha256" / hex);
  EXPECT_EQ(ReasonIdFrom(ReadSource(oci.source())), "SOURCE_UNUSABLE");
}

TEST(SourceTest, PrefixSaysWhatItIs) {
  EXPECT_EQ(ReasonIdFrom(ReadSource("/some/folder")), "INVALID_ARGUMENT");
  EXPECT_EQ(ReasonIdFrom(ReadSource("tar:x")), "INVALID_ARGUMENT");
  EXPECT_EQ(ReasonIdFrom(ReadSource("dir:")), "INVALID_ARGUMENT");
  EXPECT_EQ(ReasonIdFrom(ReadSource("dir:/nonexistent")), "FILE_UNREADABLE");
  EXPECT_EQ(ReasonIdFrom(ReadSource("oci:/nonexistent:tag")), "FILE_UNREADABLE");
  EXPECT_EQ(ReasonIdFrom(ReadSource("docker-archive:/dev/null")), "FILE_UNREADABLE");
}

}  // namespace
}  // namespace sealift::build
