// Mirrors: nginx, with a cache before it, and servers that lie, stall, stop, never end and lead in circles.
#include "tests/integration/node-agent/mirror/mirror_fixture.h"

namespace sealift::agent {
namespace {

class AnyConnectionsTest : public MirrorTest, public ::testing::WithParamInterface<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Connections, AnyConnectionsTest, ::testing::Values(1u, 4u));

TEST_P(AnyConnectionsTest, WhateverAMirrorDoesTheObjectComes) {
  const std::string text = Text();
  std::string wrong = text;
  wrong[150000] ^= 1;
  const std::map<std::string, std::function<void(int)>> servers = {
      {"stalls", [&](int fd) { Say(fd, HeadOf(text.size()) + text.substr(0, 1000)), WaitForEnd(fd); }},
      {"stalls before it answers", [](int fd) { WaitForEnd(fd); }},
      {"stops", [&](int fd) { Say(fd, HeadOf(text.size()) + text.substr(0, 100000)); }},
      {"lies", [&](int fd) { Say(fd, HeadOf(wrong.size()) + wrong); }},
      {"sends too much", [&](int fd) { Say(fd, HeadOf(text.size() + 1) + text + "x"); }},
      {"never ends",
       [&](int fd) {
         if (!Say(fd, HeadOf(std::size_t{1} << 60))) return;
         while (Say(fd, text)) continue;
       }},
      {"never ends its head",
       [](int fd) {
         if (!Say(fd, "HTTP/1.1 200 OK\r\n")) return;
         while (Say(fd, "X-More: and more\r\n")) continue;
       }},
      {"drips",
       [&](int fd) {
         if (!Say(fd, HeadOf(text.size()))) return;
         for (const char c : text) {
           if (!Say(fd, std::string_view(&c, 1))) return;
           pollfd gone{.fd = fd, .events = POLLRDHUP, .revents = 0};
           if (::poll(&gone, 1, 5) > 0) return;
         }
       }},
      {"has no length", [&](int fd) { Say(fd, "HTTP/1.1 200 OK\r\n\r\n" + text); }},
      {"fails", [](int fd) { Say(fd, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"); }},
      {"lacks it", [](int fd) { Say(fd, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"); }},
      {"hangs up", [](int) {}},
      {"sends another range",
       [&](int fd) {
         Say(fd,
             "HTTP/1.1 206 Partial\r\nContent-Length: 10\r\nContent-Range: bytes "
             "7-16/300000\r\n\r\n0123456789");
       }},
  };
  for (const auto& [what, serve] : servers) {
    Server bad(serve);
    MirrorSource source = Source({bad.url()}, GetParam());
    const auto began = std::chrono::steady_clock::now();
    const auto fetched = FetchBy(source);
    ASSERT_TRUE(fetched.ok()) << what << ": " << fetched.status();
    EXPECT_EQ(*fetched, object_) << what;
    EXPECT_LT(std::chrono::steady_clock::now() - began, 20s) << what;
    // Passed over from then on, unless it only lacks the object.
    const int before = bad.connections;
    EXPECT_TRUE(FetchBy(source).ok());
    EXPECT_EQ(bad.connections - before, what == "lacks it" ? 1 : 0) << what;
  }
}

TEST_F(MirrorTest, GoesOnAtTheNextMirrorWhereTheLastOneStopped) {
  const std::string text = Text();
  Server stops([&](int fd) { Say(fd, HeadOf(text.size()) + text.substr(0, 100000)); });
  std::atomic<bool> ranged{false};
  Server second([&](int fd) {
    ranged = true;
    Say(fd,
        "HTTP/1.1 206 Partial\r\nContent-Length: 200000\r\nContent-Range: bytes "
        "100000-299999/300000\r\n\r\n" +
            text.substr(100000));
  });
  MirrorSource source = Source({stops.url(), second.url()});
  EXPECT_EQ(FetchBy(source).value(), object_);
  EXPECT_TRUE(ranged);
  EXPECT_EQ(controller_.asked, 0);
}

TEST_F(MirrorTest, RedirectsAreFollowedButNotInCircles) {
  const std::string text = Text();
  Server good([&](int fd) { Say(fd, HeadOf(text.size()) + text); });
  Server leads([&](int fd) {
    Say(fd, "HTTP/1.1 302 Found\r\nLocation: " + good.url().Text() + "\r\nContent-Length: 0\r\n\r\n");
  });
  MirrorSource source = Source({leads.url()});
  EXPECT_EQ(FetchBy(source).value(), object_);
  EXPECT_EQ(controller_.asked, 0);
  Server circle(
      [](int fd) { Say(fd, "HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"); });
  MirrorSource round = Source({circle.url()});
  EXPECT_EQ(FetchBy(round).value(), object_);
  EXPECT_EQ(controller_.asked, 1);
  EXPECT_LE(circle.connections, 6);
}

TEST_F(MirrorTest, TakesNoMoreThanItMay) {
  const std::string text = Text();
  Server good([&](int fd) { Say(fd, HeadOf(text.size()) + text); });
  MirrorOptions options{.mirrors = {good.url()}};
  options.maximum_rate = 300000;
  MirrorSource source(options, controller_, [] { return 0.5; });
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(FetchBy(source).value(), object_);
  EXPECT_GE(std::chrono::steady_clock::now() - began, 700ms);
}

TEST_F(NginxTest, ServesTheStoreAsItLiesAndResumes) {
  SEALIFT_NEED_TOOL("nginx");
  const Nginx nginx(temp_.path() / "nginx", "server { listen 127.0.0.1:" + Port() + "; root " +
                                                (temp_.path() / "store").string() + "; }\n");
  ASSERT_TRUE(nginx.WaitUntilItListens(port_));
  MirrorSource source = Source({Url(port_)});
  EXPECT_EQ(FetchBy(source).value(), object_);
  Bytes rest;
  ASSERT_TRUE(source
                  .Fetch(digest_, 200000,
                         [&rest](ByteView piece) {
                           Append(rest, piece);
                           return OkStatus();
                         })
                  .ok());
  EXPECT_EQ(rest, ToBytes(ByteView(object_).subspan(200000)));
  EXPECT_EQ(nginx.Count(digest_, "200"), 1);
  EXPECT_EQ(nginx.Count(digest_, "206"), 1);
  EXPECT_EQ(controller_.asked, 0);
}

TEST_F(NginxTest, ACacheAsksTheMirrorOnceForMany) {
  SEALIFT_NEED_TOOL("nginx");
  const Nginx origin(temp_.path() / "origin", "server { listen 127.0.0.1:" + Port() + "; root " +
                                                  (temp_.path() / "store").string() + "; }\n");
  ASSERT_TRUE(origin.WaitUntilItListens(port_));
  const std::uint16_t port = FreePort();
  const Nginx cache(temp_.path() / "cache",
                    "proxy_cache_path " + (temp_.path() / "cached").string() +
                        " keys_zone=objects:1m;\nserver { listen 127.0.0.1:" + std::to_string(port) +
                        "; location / { proxy_pass http://127.0.0.1:" + Port() +
                        "; proxy_cache objects; proxy_cache_valid 200 1d; proxy_cache_lock on; } }\n");
  ASSERT_TRUE(cache.WaitUntilItListens(port));
  std::atomic<int> good{0};
  {
    std::vector<std::jthread> nodes;
    for (int i = 0; i < 8; ++i) {
      nodes.emplace_back([&, i] {
        MirrorSource source = Source({Url(port)});
        ContentFetcher fetcher(source, temp_.path() / ("node" + std::to_string(i)), {.reserve_bytes = 0});
        const auto progress = fetcher.FetchSome(digest_, object_.size());
        if (progress.ok() && progress->complete) ++good;
      });
    }
  }
  EXPECT_EQ(good, 8);
  EXPECT_EQ(origin.Count(digest_, "200"), 1);
  EXPECT_EQ(cache.Count(digest_, "200"), 8);
  EXPECT_EQ(controller_.asked, 0);
}

TEST_F(NginxTest, TlsIsCheckedAgainstTheCa) {
  SEALIFT_NEED_TOOL("nginx");
  SEALIFT_NEED_TOOL("openssl");
  const std::string key = (temp_.path() / "key.pem").string();
  const std::string certificate = (temp_.path() / "certificate.pem").string();
  const auto made =
      test::RunTool({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                     "-nodes", "-subj", "/CN=mirror", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2",
                     "-keyout", key, "-out", certificate});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const Nginx nginx(temp_.path() / "nginx", "server { listen 127.0.0.1:" + Port() + " ssl; ssl_certificate " +
                                                certificate + "; ssl_certificate_key " + key + "; root " +
                                                (temp_.path() / "store").string() + "; }\n");
  ASSERT_TRUE(nginx.WaitUntilItListens(port_));
  MirrorOptions options{.mirrors = {Url(port_, "https")}, .ca_file = certificate};
  MirrorSource source(options, controller_, [] { return 0.5; });
  EXPECT_EQ(FetchBy(source).value(), object_);
  EXPECT_EQ(controller_.asked, 0);
  options.ca_file.clear();
  MirrorSource unknown(options, controller_, [] { return 0.5; });
  EXPECT_EQ(FetchBy(unknown).value(), object_);
  EXPECT_EQ(controller_.asked, 1) << "a certificate of nobody's is no mirror";
}

}  // namespace
}  // namespace sealift::agent
