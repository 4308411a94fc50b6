// What tests of mirrors share: servers of a test's own making, nginx, a controller behind them.
#pragma once

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

#include "node-agent/mirror/mirror_source.h"
#include "node-agent/update/content_fetcher.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "tests/support/nginx.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tools.h"

namespace sealift::agent {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using test::FreePort;
using test::Nginx;

inline Bytes SomeBytes(std::size_t size, std::uint32_t seed) {
  Bytes bytes(size);
  for (std::uint8_t& byte : bytes)
    byte = static_cast<std::uint8_t>((seed = seed * 1664525 + 1013904223) >> 24);
  return bytes;
}

// Listens on loopback; `serve` has each connection, with the request that came over it, to itself.
class Server {
 public:
  explicit Server(std::function<void(int)> serve)
      : Server([serve = std::move(serve)](int fd, const std::string&) { serve(fd); }) {}
  explicit Server(std::function<void(int, const std::string&)> serve) : serve_(std::move(serve)) {
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
        UniqueFd connection(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!connection.valid()) continue;
        ++connections;
        serving_.emplace_back([this, connection = std::move(connection)] {
          char request[4096];
          const ssize_t got = ::recv(connection.get(), request, sizeof request, 0);
          serve_(connection.get(), std::string(request, got > 0 ? static_cast<std::size_t>(got) : 0));
        });
      }
    });
  }
  HttpUrl url() const { return ParseHttpUrl("http://127.0.0.1:" + std::to_string(port_)).value(); }
  std::atomic<int> connections{0};

 private:
  std::function<void(int, const std::string&)> serve_;
  UniqueFd fd_;
  std::uint16_t port_ = 0;
  // Of the listening thread, which ends before them.
  std::vector<std::jthread> serving_;
  std::jthread thread_;
};

inline bool Say(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}
// Until the other side hangs up, at most ten seconds.
inline void WaitForEnd(int fd) {
  pollfd gone{.fd = fd, .events = POLLRDHUP, .revents = 0};
  ::poll(&gone, 1, 10000);
}
inline std::string HeadOf(std::size_t size) {
  return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(size) + "\r\n\r\n";
}

class Controller final : public content::ContentSource {
 public:
  Status Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) override {
    const auto found = objects.find(digest);
    if (found == objects.end()) return MakeError(Code::kNotFound, Reason::kContentUnknown, "no such object");
    ++asked;
    moved += found->second.size() - offset;
    for (ByteView rest = ByteView(found->second).subspan(offset); !rest.empty();) {
      const ByteView piece = rest.first(std::min(rest.size(), piece_bytes));
      SEALIFT_RETURN_IF_ERROR(sink(piece));
      rest = rest.subspan(piece.size());
    }
    return OkStatus();
  }
  std::size_t piece_bytes = 1u << 30;
  std::map<Sha256Digest, Bytes> objects;
  int asked = 0;
  std::uint64_t moved = 0;
};

class MirrorTest : public ::testing::Test {
 protected:
  MirrorTest() { controller_.objects[digest_] = object_; }

  std::string Text() const { return ToText(object_); }

  MirrorSource Source(std::vector<HttpUrl> mirrors, std::uint32_t connections = 1) {
    MirrorOptions options{.mirrors = std::move(mirrors), .connections = connections};
    options.stripe_bytes = 32u << 10;
    options.rate_window = 300ms;
    options.minimum_rate = 10000;
    options.connect_timeout = 2s;
    options.first_pause = 1h;
    return MirrorSource(options, controller_, [] { return 0.5; });
  }

  // As the agent fetches: wrong bytes have their sender passed over.
  Result<Bytes> FetchBy(MirrorSource& source, std::uint64_t slice_bytes = 32u << 20) {
    fs::remove_all(temp_.path() / "content");
    ContentFetcher fetcher(source, temp_.path() / "content",
                           {.slice_bytes = slice_bytes,
                            .reserve_bytes = 0,
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

}  // namespace sealift::agent
