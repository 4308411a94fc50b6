#include "node-agent/mirror/http_message.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace sealift::agent {
namespace {

using test::ReasonIdFrom;

TEST(HttpUrlTest, ReadsWhatMirrorsAreNamedBy) {
  const HttpUrl plain = ParseHttpUrl("http://mirror.example/base?x=1#part").value();
  EXPECT_EQ(plain, (HttpUrl{.tls = false, .host = "mirror.example", .port = "80", .path = "/base?x=1"}));
  const HttpUrl six = ParseHttpUrl("https://[fe80::1]:8443").value();
  EXPECT_EQ(six, (HttpUrl{.tls = true, .host = "fe80::1", .port = "8443", .path = "/"}));
  EXPECT_EQ(six.Text(), "https://[fe80::1]:8443/");
  for (const char* bad : {"", "ftp://x/", "http://", "http://a@b/", "http://x:0/", "http://x:65536/",
                          "http://x:/", "http://[::1/", "http://x/ y", "http://x/\r\nHost: y"})
    EXPECT_EQ(ReasonIdFrom(ParseHttpUrl(bad)), "INVALID_ARGUMENT") << bad;
}

TEST(HttpUrlTest, FollowsPathsAndUrls) {
  const HttpUrl from = ParseHttpUrl("https://a.example:444/x/y").value();
  EXPECT_EQ(Follow(from, "/z")->Text(), "https://a.example:444/z");
  EXPECT_EQ(Follow(from, "http://b.example/")->Text(), "http://b.example:80/");
  EXPECT_FALSE(Follow(from, "//c.example/").ok());
  EXPECT_FALSE(Follow(from, "").ok());
}

TEST(HttpHeadTest, ReadsWhatStaticFilesAnswer) {
  const auto head = ParseHttpHead(
      "HTTP/1.1 206 Partial Content\r\nServer: x\r\ncontent-LENGTH: 12 \r\nContent-Range: bytes "
      "5-16/17\r\n\r\n");
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_EQ(*head,
            (HttpHead{.status = 206, .length = 12, .range_start = 5, .range_total = 17, .location = ""}));
  EXPECT_FALSE(
      ParseHttpHead("HTTP/1.1 206 Partial\r\nContent-Range: bytes 5-16/*\r\n\r\n")->range_total.has_value());
  EXPECT_EQ(ParseHttpHead("HTTP/1.0 302 Found\r\nLocation: /x\r\n\r\n")->location, "/x");
  EXPECT_FALSE(ParseHttpHead("HTTP/1.1 200 OK\r\n\r\n")->length.has_value());
}

TEST(HttpHeadTest, SaysWhetherTheConnectionGoesOn) {
  EXPECT_FALSE(ParseHttpHead("HTTP/1.1 200 OK\r\n\r\n")->closes);
  EXPECT_FALSE(ParseHttpHead("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n")->closes);
  EXPECT_TRUE(ParseHttpHead("HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n")->closes);
  EXPECT_TRUE(ParseHttpHead("HTTP/1.0 200 OK\r\n\r\n")->closes);
}

TEST(HttpHeadTest, RefusesTheRest) {
  for (const char* bad :
       {"", "\r\n\r\n", "HTTP/1.1 200 OK", "HTTP/1.1 200 OK\r\n", "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 99 x\r\n\r\n", "HTTP/1.1 abc x\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: empty\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 206 OK\r\nContent-Range: items 1-2/3\r\n\r\n"})
    EXPECT_EQ(ReasonIdFrom(ParseHttpHead(bad)), "MIRROR_FAILED") << bad;
}

}  // namespace
}  // namespace sealift::agent
