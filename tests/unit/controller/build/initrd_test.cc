#include "controller/build/initrd.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <map>
#include <set>

#include "shared/crypto/hash.h"
#include "tests/support/frames.h"
#include "tests/support/os_tree.h"
#include "tests/support/status_matchers.h"

namespace sealift::build {
namespace {

using test::OsTree;
using test::ReasonIdFrom;
using test::UnpackFrames;

struct Packed {
  Bytes bytes;
  Initrd initrd;
};

Packed Pack(const Tree& tree, unsigned threads = 0) {
  Packed packed;
  packed.initrd = PackInitrd(tree, ReadPackages(tree).value(), {.zstd_level = 3, .threads = threads},
                             [&](ByteView piece) {
                               Append(packed.bytes, piece);
                               return OkStatus();
                             })
                      .value();
  return packed;
}

std::vector<Frame> Plan(const Tree& tree) { return PlanFrames(tree, ReadPackages(tree).value()).value(); }

std::vector<std::string> Groups(const std::vector<Frame>& frames) {
  std::vector<std::string> groups;
  for (const Frame& frame : frames) groups.push_back(frame.group);
  return groups;
}

// Two packages and a file of none.
void AddDpkg(OsTree& os) {
  os.Write("var/lib/dpkg/status",
           "Package: zeta\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n\n"
           "Package: alpha\nStatus: install ok installed\nVersion: 2\nArchitecture: amd64\n");
  os.Write("var/lib/dpkg/info/zeta.list", "/.\n/usr\n/usr/bin/a-of-zeta\n/lib/z-of-zeta\n");
  os.Write("var/lib/dpkg/info/alpha:amd64.list", "/usr/bin/b-of-alpha\n");
  os.Write("usr/bin/a-of-zeta", "a");
  os.Write("usr/lib/z-of-zeta", "z");
  os.Write("usr/bin/b-of-alpha", "b");
}

TEST(InitrdTest, SameTreeSameBytesWhateverTheThreads) {
  OsTree os;
  AddDpkg(os);
  os.Write("usr/share/large", std::string(9'000'000, 'l'));
  os.Write("usr/share/middle", std::string(2'000'000, 'm'));
  const Tree tree = Tree::Read(os.path()).value();
  const Bytes one = Pack(tree, 1).bytes;
  EXPECT_EQ(one, Pack(tree, 4).bytes);
  EXPECT_EQ(one.size() % 4, 0u);
}

TEST(InitrdTest, TimesAndInodesOfTheFolderDoNotMatter) {
  const OsTree os;
  const OsTree again;
  EXPECT_EQ(Pack(Tree::Read(os.path()).value()).bytes, Pack(Tree::Read(again.path()).value()).bytes);
}

TEST(InitrdTest, SkeletonComesFirstAndNamesOfAFileStayTogether) {
  OsTree os;
  AddDpkg(os);
  for (int i = 0; i < 6; ++i)
    os.Write("usr/share/data" + std::to_string(i), std::string(700'000, 'a' + char(i)));
  // Its first name belongs to a package, its second to none.
  std::filesystem::create_hard_link(os.path() / "usr/bin/b-of-alpha", os.path() / "usr/share/zlast");
  const Tree tree = Tree::Read(os.path()).value();
  const std::vector<Frame> frames = Plan(tree);
  EXPECT_GT(frames.size(), 2u);
  for (const ArchiveEntry& item : frames[0].entries) EXPECT_FALSE(S_ISREG(item.entry->mode)) << item.path;
  const ArchiveEntry* first = nullptr;
  const ArchiveEntry* last = nullptr;
  for (std::size_t i = 1; i < frames.size(); ++i) {
    for (const ArchiveEntry& item : frames[i].entries) {
      EXPECT_TRUE(S_ISREG(item.entry->mode)) << item.path;
      if (item.path == "usr/bin/b-of-alpha") first = &item;
      if (item.path == "usr/share/zlast") last = &item;
    }
  }
  ASSERT_TRUE(first != nullptr && last != nullptr);
  EXPECT_EQ(last, first + 1);
  EXPECT_EQ(first->links, 2u);
  EXPECT_EQ(first->inode, last->inode);
  EXPECT_NE(first->inode, 0u);
  EXPECT_FALSE(first->carries_data);
  EXPECT_TRUE(last->carries_data);
}

TEST(InitrdTest, FramesDoNotMixPackages) {
  OsTree os;
  AddDpkg(os);
  const Tree tree = Tree::Read(os.path()).value();
  const std::vector<Frame> frames = Plan(tree);
  EXPECT_EQ(Groups(frames), (std::vector<std::string>{"", "", "alpha", "zeta"}));
  std::vector<std::string_view> of_zeta;
  for (const ArchiveEntry& item : frames.back().entries) of_zeta.push_back(item.path);
  // The database's /lib/z-of-zeta lies in usr/lib, where the link leads.
  EXPECT_EQ(of_zeta, (std::vector<std::string_view>{"usr/bin/a-of-zeta", "usr/lib/z-of-zeta"}));
  EXPECT_TRUE(frames.back().last);
}

TEST(InitrdTest, LargeFilesAreAloneAndBucketsAreBounded) {
  OsTree os;
  os.Write("usr/share/b-large", std::string(1 << 20, 'l'));
  for (int i = 0; i < 40; ++i) os.Write("usr/share/c" + std::to_string(i), std::string(300'000, 'c'));
  const Tree tree = Tree::Read(os.path()).value();
  bool found = false;
  for (const Frame& frame : Plan(tree)) {
    EXPECT_LE(frame.raw_size, 3'500'000u);
    for (const ArchiveEntry& item : frame.entries) {
      if (item.path != "usr/share/b-large") continue;
      EXPECT_EQ(frame.entries.size(), 1u);
      found = true;
    }
  }
  EXPECT_TRUE(found);
}

// The raw bytes of each frame.
std::vector<Bytes> RawFrames(const OsTree& os) {
  const Tree tree = Tree::Read(os.path()).value();
  std::vector<Bytes> raw;
  for (const Frame& frame : Plan(tree)) {
    raw.emplace_back();
    EXPECT_TRUE(WriteFrame(frame, [&](ByteView piece) {
                  Append(raw.back(), piece);
                  return OkStatus();
                }).ok());
    EXPECT_EQ(raw.back().size(), frame.raw_size);
  }
  return raw;
}

std::size_t CommonFrames(const std::vector<Bytes>& a, const std::vector<Bytes>& b) {
  const std::set<Bytes> known(a.begin(), a.end());
  return static_cast<std::size_t>(
      std::count_if(b.begin(), b.end(), [&](const Bytes& frame) { return known.contains(frame); }));
}

TEST(InitrdTest, AChangedFileChangesOneFrame) {
  OsTree os;
  for (int i = 0; i < 60; ++i)
    os.Write("usr/share/f" + std::string(1, char('a' + i / 8)) + std::string(1, char('a' + i % 8)),
             std::string(200'000, char(i)));
  const std::vector<Bytes> before = RawFrames(os);
  os.Write("usr/share/fda", std::string(200'000, 'x'));
  const std::vector<Bytes> after = RawFrames(os);
  ASSERT_GT(before.size(), 5u);
  ASSERT_EQ(before.size(), after.size());
  EXPECT_EQ(CommonFrames(before, after), after.size() - 1);
}

TEST(InitrdTest, AnAddedFileMovesNoOtherCuts) {
  OsTree os;
  for (int i = 0; i < 60; ++i)
    os.Write("usr/share/f" + std::string(1, char('a' + i / 8)) + std::string(1, char('a' + i % 8)),
             std::string(200'000, char(i)));
  const std::vector<Bytes> before = RawFrames(os);
  os.Write("usr/share/fdaa", "small");
  const std::vector<Bytes> after = RawFrames(os);
  EXPECT_GE(CommonFrames(before, after) + 2, after.size()) << "more than one frame changed";
}

TEST(InitrdTest, NumbersInPathsDoNotMoveCuts) {
  const auto shape = [](const std::string& release) {
    OsTree os;
    for (int i = 0; i < 60; ++i)
      os.Write("usr/lib/kernel-" + release + "/" + std::string(1, char('a' + i / 8)) +
                   std::string(1, char('a' + i % 8)),
               std::string(200'000, char(i)));
    std::vector<std::size_t> sizes;
    const Tree tree = Tree::Read(os.path()).value();
    for (const Frame& frame : Plan(tree)) sizes.push_back(frame.entries.size());
    return sizes;
  };
  EXPECT_EQ(shape("6.1.0-50"), shape("6.1.0-56"));
}

TEST(InitrdTest, TwoFilesWithSeveralNamesNeverShareANumber) {
  OsTree os;
  for (int i = 0; i < 50; ++i) {
    const std::string name = "usr/share/h" + std::to_string(i);
    os.Write(name, std::to_string(i));
    std::filesystem::create_hard_link(os.path() / name, os.path() / (name + "-again"));
  }
  const Tree tree = Tree::Read(os.path()).value();
  std::map<std::uint32_t, std::set<std::string_view>> names;
  for (const Frame& frame : Plan(tree))
    for (const ArchiveEntry& item : frame.entries)
      if (item.inode != 0) names[item.inode].insert(item.path);
  EXPECT_EQ(names.size(), 50u);
  for (const auto& [inode, paths] : names) EXPECT_EQ(paths.size(), 2u);
}

TEST(InitrdTest, ArchiveHoldsExactHeaders) {
  Tree tree;
  tree.PutFile("a", AsBytes("hello"), 0640);
  const std::string archive = UnpackFrames(Pack(tree).bytes);
  EXPECT_EQ(archive.substr(0, 112 + 8),
            "070701"
            "00000000"
            "000081A0"
            "00000000"
            "00000000"
            "00000001"
            "00000000"
            "00000005"
            "00000000"
            "00000000"
            "00000000"
            "00000000"
            "00000002"
            "00000000"
            "a" +
                std::string(1, '\0') + "hello" + std::string(3, '\0'));
  EXPECT_NE(archive.find("TRAILER!!!"), std::string::npos);
  EXPECT_EQ(archive.size() % 4, 0u);
}

TEST(InitrdTest, IndexSaysWhereEverythingIs) {
  OsTree os;
  AddDpkg(os);
  os.Write("usr/share/large", std::string(5'000'000, 'l'));
  std::filesystem::create_hard_link(os.path() / "usr/bin/b-of-alpha", os.path() / "usr/share/zlast");
  const Tree tree = Tree::Read(os.path()).value();
  const Packed packed = Pack(tree);
  const content::FrameIndex& index = packed.initrd.index;
  EXPECT_EQ(index.size, packed.bytes.size());
  EXPECT_EQ(index.digest, Sha256(packed.bytes));
  EXPECT_EQ(index.zstd_level, 3);
  EXPECT_EQ(content::ParseFrameIndex(content::SerializeFrameIndex(index)).value(), index);
  std::map<std::string, Sha256Digest> files;
  for (const content::FrameRecord& frame : index.frames) {
    const ByteView bytes = ByteView(packed.bytes).subspan(frame.offset, frame.size);
    EXPECT_EQ(Sha256(bytes), frame.digest);
    const std::string raw = UnpackFrames(bytes);
    EXPECT_EQ(raw.size(), frame.raw_size);
    EXPECT_EQ(Sha256(AsBytes(raw)), frame.raw_digest);
    for (const content::FrameFile& file : frame.files) files.emplace(file.path, file.digest);
  }
  std::size_t regular = 0;
  for (const auto& [path, entry] : tree.entries()) {
    if (!S_ISREG(entry.mode)) continue;
    ++regular;
    EXPECT_EQ(files.at(path), Sha256(Tree::Contents(entry).value())) << path;
  }
  EXPECT_EQ(files.size(), regular);
}

TEST(InitrdTest, ErrorsOfTheSinkEndTheWork) {
  const OsTree os;
  const Tree tree = Tree::Read(os.path()).value();
  int calls = 0;
  const auto full = [&](ByteView) {
    ++calls;
    return MakeError(Code::kFailedPrecondition, Reason::kDiskFull, "write: no space");
  };
  EXPECT_EQ(ReasonIdFrom(PackInitrd(tree, {}, {.zstd_level = 1, .threads = 4}, full)), "DISK_FULL");
  EXPECT_EQ(calls, 1);
}

TEST(InitrdTest, FilesThatChangeMeanwhileAreNoticed) {
  OsTree os;
  os.Write("usr/share/growing", "abc");
  const Tree tree = Tree::Read(os.path()).value();
  os.Write("usr/share/growing", "abcd");
  const auto ignore = [](ByteView) { return OkStatus(); };
  EXPECT_EQ(ReasonIdFrom(PackInitrd(tree, {}, {.zstd_level = 1}, ignore)), "FILE_UNREADABLE");
  os.Write("usr/share/growing", "ab");
  EXPECT_EQ(ReasonIdFrom(PackInitrd(tree, {}, {.zstd_level = 1}, ignore)), "FILE_UNREADABLE");
}

TEST(InitrdTest, RefusesALevelThatKernelsDoNotUnpack) {
  const auto ignore = [](ByteView) { return OkStatus(); };
  EXPECT_EQ(ReasonIdFrom(PackInitrd(Tree(), {}, {.zstd_level = 22}, ignore)), "INVALID_ARGUMENT");
}

}  // namespace
}  // namespace sealift::build
