// Mirrors: nginx, with a cache before it, and servers that lie, stall, stop, never end and lead in circles.
#include "node-agent/mirror/mirror_source.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "node-agent/update/content_fetcher.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "tests/support/nginx.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tools.h"

namespace sealift::agent {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using test::FreePort;
using test::Nginx;

Bytes SomeBytes(std::size_t size, std::uint32_t seed) {
  Bytes bytes(size);
  for (std::uint8_t& byte : bytes)
    byte = static_cast<std::uint8_t>((seed = seed * 1664525 + 1013904223) >> 24);
  return bytes;
}

// Listens on loopback; `serve` has each connection to itself.
class Server {
 public:
  explicit Server(std::function<void(int)> serve) : serve_(std::move(serve)) {
    fd_ = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    SEALIFT_CHECK(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
    SEALIFT_CHECK(::listen(fd_.get(), 16) == 0);
    SEALIFT_CHECK(::getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        pollfd ready{.fd = fd_.get(), .events = POLLIN, .revents = 0};
        if (::poll(&ready, 1, 50) <= 0) continue;
        const UniqueFd connection(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!connection.valid()) continue;
        ++connections;
        char request[4096];
        static_cast<void>(::recv(connection.get(), request, sizeof request, 0));
        serve_(connection.get());
      }
    });
  }
  HttpUrl url() const { return ParseHttpUrl("http://127.0.0.1:" + std::to_string(port_)).value(); }
  std::atomic<int> connections{0};

 private:
  std::function<void(int)> serve_;
  UniqueFd fd_;
  std::uint16_t port_ = 0;
  std::jthread thread_;
};

bool Say(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}
// Until the other side hangs up, at most ten seconds.
void WaitForEnd(int fd) {
  pollfd gone{.fd = fd, .events = POLLRDHUP, .revents = 0};
  ::poll(&gone, 1, 10000);
}
std::string HeadOf(std::size_t size) {
  return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(size) + "\r\n\r\n";
}

class Controller final : public content::ContentSource {
 public:
  Status Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) override {
    const auto found = objects.find(digest);
    if (found == objects.end()) return MakeError(Code::kNotFound, Reason::kContentUnknown, "no such object");
    ++asked;
    moved += found->second.size() - offset;
    return sink(ByteView(found->second).subspan(offset));
  }
  std::map<Sha256Digest, Bytes> objects;
  int asked = 0;
  std::uint64_t moved = 0;
};

class MirrorTest : public ::testing::Test {
 protected:
  MirrorTest() { controller_.objects[digest_] = object_; }

  std::string Text() const { return ToText(object_); }

  MirrorSource Source(std::vector<HttpUrl> mirrors) {
    MirrorOptions options{.mirrors = std::move(mirrors)};
    options.rate_window = 300ms;
    options.minimum_rate = 10000;
    options.connect_timeout = 2s;
    options.first_pause = 1h;
    return MirrorSource(options, controller_, [] { return 0.5; });
  }

  // As the agent fetches: wrong bytes have their sender passed over.
  Result<Bytes> FetchBy(MirrorSource& source) {
    fs::remove_all(temp_.path() / "content");
    ContentFetcher fetcher(source, temp_.path() / "content",
                           {.reserve_bytes = 0,
                            .blame = [&source](const Sha256Digest& digest) { return source.Blame(digest); }});
    for (int i = 0; i < 20; ++i) {
      SEALIFT_ASSIGN_OR_RETURN(const FetchProgress progress, fetcher.FetchSome(digest_, object_.size()));
      SEALIFT_RETURN_IF_ERROR(progress.source);
      if (progress.complete) return ReadFile(progress.file);
    }
    return MakeError(Code::kUnavailable, Reason::kContentIncomplete, "it never ends");
  }

  TempDir temp_ = TempDir::Create("sealift-mirror").value();
  const Bytes object_ = SomeBytes(300000, 1);
  const Sha256Digest digest_ = Sha256(object_);
  Controller controller_;
};

TEST_F(MirrorTest, WhateverAMirrorDoesTheObjectComes) {
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
    MirrorSource source = Source({bad.url()});
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

class NginxTest : public MirrorTest {
 protected:
  NginxTest() {
    const fs::path place = temp_.path() / "store/objects" / digest_.hex().substr(0, 2);
    fs::create_directories(place);
    SEALIFT_CHECK(WriteFileAtomically(place / digest_.hex(), object_).ok());
    // nginx's workers are another user when it is root's.
    fs::permissions(temp_.path(), fs::perms(0755));
  }
  std::string Port() const { return std::to_string(port_); }
  HttpUrl Url(std::uint16_t port, const std::string& scheme = "http") const {
    return ParseHttpUrl(scheme + "://127.0.0.1:" + std::to_string(port)).value();
  }
  const std::uint16_t port_ = FreePort();
};

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
