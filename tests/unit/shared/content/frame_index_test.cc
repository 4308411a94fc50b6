#include "shared/content/frame_index.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace sealift::content {
namespace {

using test::ReasonIdFrom;

FrameIndex Example() {
  Sha256Digest digest;
  digest.bytes.fill(0xab);
  return {.zstd_version = "1.5.4",
          .zstd_level = 9,
          .size = 32,
          .digest = digest,
          .frames = {{.offset = 0, .size = 10, .digest = digest, .raw_size = 100, .raw_digest = digest},
                     {.offset = 10,
                      .size = 20,
                      .digest = digest,
                      .raw_size = 50,
                      .raw_digest = digest,
                      .group = "pack",
                      .files = {{.path = "usr/bin/a b", .size = 3, .digest = digest},
                                {.path = "etc/100%\"\\\xff\n", .size = 0, .digest = digest}}}}};
}

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(FrameIndexTest, IsOneFormOfText) {
  const std::string text = SerializeFrameIndex(Example());
  const std::string digest = Example().digest.hex();
  EXPECT_EQ(text, R"({"format":1,"zstd":{"version":"1.5.4","level":9},"size":32,"digest":")" + digest +
                      R"(","frames":[{"offset":0,"size":10,"digest":")" + digest +
                      R"(","raw_size":100,"raw_digest":")" + digest +
                      R"(","group":"","files":[]},{"offset":10,"size":20,"digest":")" + digest +
                      R"(","raw_size":50,"raw_digest":")" + digest +
                      R"(","group":"pack","files":[{"path":"usr/bin/a b","size":3,"digest":")" + digest +
                      R"("},{"path":"etc/100%25%22%5C%FF%0A","size":0,"digest":")" + digest + "\"}]}]}\n");
  EXPECT_EQ(ParseFrameIndex(text).value(), Example());
}

TEST(FrameIndexTest, RefusesWhatDoesNotAddUp) {
  const std::string good = SerializeFrameIndex(Example());
  const std::pair<const char*, const char*> changes[] = {
      {"\"format\":1", "\"format\":2"},
      {"\"size\":32", "\"size\":29"},
      {"\"size\":32", "\"size\":34"},
      {"\"size\":32", "\"size\":-32"},
      {"\"offset\":10", "\"offset\":11"},
      {"\"size\":20", "\"size\":18446744073709551606"},
      {"\"raw_size\":50,", ""},
      {"usr/bin/a b", "/usr/bin/a"},
      {"usr/bin/a b", "usr/../bin"},
      {"usr/bin/a b", "usr//bin"},
      {"usr/bin/a b", "usr/bin%00"},
      {"usr/bin/a b", "usr/bin%0"},
      {"usr/bin/a b", "usr/bin%zz"},
      {"usr/bin/a b", "etc/100%25%22%5C%FF%0A"},
      {"usr/bin/a b", ""},
      {"\"digest\":\"abab", "\"digest\":\"abax"},
  };
  for (const auto& [from, to] : changes)
    EXPECT_EQ(ReasonIdFrom(ParseFrameIndex(Replaced(good, from, to))), "MALFORMED") << from << " " << to;
  EXPECT_EQ(ReasonIdFrom(ParseFrameIndex("")), "MALFORMED");
  EXPECT_EQ(ReasonIdFrom(ParseFrameIndex("[]")), "MALFORMED");
  EXPECT_TRUE(ParseFrameIndex(Replaced(good, "\"format\":1", "\"format\":1,\"later\":{}")).ok());
}

}  // namespace
}  // namespace sealift::content
