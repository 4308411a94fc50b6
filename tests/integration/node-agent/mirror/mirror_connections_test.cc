// One object over several connections: nginx, and mirrors that break a stretch of it.
#include <algorithm>
#include <set>
#include <sstream>

#include "tests/integration/node-agent/mirror/mirror_fixture.h"

namespace sealift::agent {
namespace {

// What was asked for, behind its end exclusive; all of it without a range.
std::pair<std::size_t, std::size_t> RangeOf(const std::string& request, std::size_t size) {
  const std::size_t at = request.find("bytes=");
  if (at == std::string::npos) return {0, size};
  char* end = nullptr;
  const std::size_t first = std::strtoull(request.c_str() + at + 6, &end, 10);
  const std::size_t last = *end == '-' && end[1] >= '0' ? std::strtoull(end + 1, nullptr, 10) : size - 1;
  return {first, std::min(last + 1, size)};
}

std::string RangedHead(std::size_t first, std::size_t behind, std::size_t size) {
  return "HTTP/1.1 206 Partial Content\r\nContent-Length: " + std::to_string(behind - first) +
         "\r\nContent-Range: bytes " + std::to_string(first) + "-" + std::to_string(behind - 1) + "/" +
         std::to_string(size) + "\r\n\r\n";
}

// Serves ranges of `text`, a connection each.
void ServeRange(int fd, const std::string& request, const std::string& text) {
  const auto [first, behind] = RangeOf(request, text.size());
  Say(fd, RangedHead(first, behind, text.size()) + text.substr(first, behind - first));
}

class ConnectionsTest : public MirrorTest {
 protected:
  static constexpr std::size_t kStripe = 32u << 10;
};

TEST_F(ConnectionsTest, AStripeThatIsWrongLeadsToTheNextSource) {
  const std::string text = Text();
  std::string wrong = text;
  wrong[2 * kStripe + 100] ^= 1;
  using Serve = std::function<void(int, const std::string&, std::size_t, std::size_t)>;
  // Each does so from the third stripe on.
  const std::map<std::string, Serve> faults = {
      {"lies", [&](int fd, const std::string& request, auto, auto) { ServeRange(fd, request, wrong); }},
      {"stalls",
       [&](int fd, const std::string&, std::size_t first, std::size_t behind) {
         Say(fd, RangedHead(first, behind, text.size()) + text.substr(first, 10)), WaitForEnd(fd);
       }},
      {"stops",
       [&](int fd, const std::string&, std::size_t first, std::size_t behind) {
         Say(fd, RangedHead(first, behind, text.size()) + text.substr(first, 10));
       }},
      {"sends more",
       [&](int fd, const std::string&, std::size_t first, std::size_t behind) {
         Say(fd, RangedHead(first, behind + 1, text.size()) + text.substr(first, behind + 1 - first));
       }},
      {"sends another range",
       [&](int fd, const std::string&, std::size_t first, std::size_t behind) {
         Say(fd, RangedHead(first + 1, behind, text.size()) + text.substr(first + 1, behind - first - 1));
       }},
      {"has another size",
       [&](int fd, const std::string&, std::size_t first, std::size_t behind) {
         Say(fd, RangedHead(first, behind, text.size() + 1) + text.substr(first, behind - first));
       }},
      {"sends nothing",
       [&](int fd, const std::string&, std::size_t first, std::size_t) {
         Say(fd, "HTTP/1.1 206 Partial Content\r\nContent-Length: 0\r\nContent-Range: bytes " +
                     std::to_string(first) + "-0/300000\r\n\r\n");
       }},
      {"knows no ranges any more",
       [&](int fd, const std::string&, auto, auto) { Say(fd, HeadOf(text.size()) + text); }},
      {"lacks it", [](int fd, const std::string&, auto,
                      auto) { Say(fd, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"); }},
  };
  for (const auto& [what, serve] : faults) {
    controller_.asked = 0;
    Server bad([&, fault = serve](int fd, const std::string& request) {
      const auto [first, behind] = RangeOf(request, text.size());
      if (first >= 2 * kStripe) return fault(fd, request, first, behind);
      ServeRange(fd, request, text);
    });
    MirrorSource source = Source({bad.url()}, 4);
    const auto began = std::chrono::steady_clock::now();
    const auto fetched = FetchBy(source);
    ASSERT_TRUE(fetched.ok()) << what << ": " << fetched.status();
    EXPECT_EQ(*fetched, object_) << what;
    EXPECT_EQ(controller_.asked, 1) << what;
    EXPECT_LT(std::chrono::steady_clock::now() - began, 20s) << what;
  }
}

TEST_F(ConnectionsTest, AMirrorThatAllowsOnlyOneIsAskedOverOne) {
  const std::string text = Text();
  std::atomic<int> open{0};
  std::atomic<int> refused{0};
  Server one([&](int fd, const std::string& request) {
    if (++open > 1) {
      ++refused;
      Say(fd, "HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    } else {
      // Over a connection that is kept.
      std::string next = request;
      while (!next.empty()) {
        std::this_thread::sleep_for(10ms);
        ServeRange(fd, next, text);
        char more[4096];
        const ssize_t got = ::recv(fd, more, sizeof more, 0);
        next.assign(more, got > 0 ? static_cast<std::size_t>(got) : 0);
      }
    }
    --open;
  });
  MirrorSource source = Source({one.url()}, 4);
  EXPECT_EQ(FetchBy(source).value(), object_);
  EXPECT_EQ(controller_.asked, 0);
  // It is known from then on.
  const int before = refused;
  EXPECT_GE(before, 1);
  EXPECT_EQ(FetchBy(source).value(), object_);
  EXPECT_EQ(controller_.asked, 0);
  EXPECT_EQ(refused, before);
}

TEST_F(ConnectionsTest, AllOfThemTogetherTakeNoMoreThanTheyMay) {
  const std::string text = Text();
  Server good([&](int fd, const std::string& request) { ServeRange(fd, request, text); });
  MirrorOptions options{.mirrors = {good.url()}, .connections = 4, .stripe_bytes = kStripe};
  options.maximum_rate = 300000;
  MirrorSource source(options, controller_, [] { return 0.5; });
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(FetchBy(source).value(), object_);
  EXPECT_GE(std::chrono::steady_clock::now() - began, 700ms);
  EXPECT_EQ(controller_.asked, 0);
}

TEST_F(ConnectionsTest, TheLimitHoldsForTheControllerAsWell) {
  controller_.piece_bytes = 10000;
  MirrorOptions options{.mirrors = {}};
  options.maximum_rate = 300000;
  MirrorSource source(options, controller_, [] { return 0.5; });
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(FetchBy(source).value(), object_);
  EXPECT_GE(std::chrono::steady_clock::now() - began, 700ms);
}

TEST_F(ConnectionsTest, ACallEndsInTimeAndTheNextOneGoesOn) {
  controller_.piece_bytes = 100000;
  MirrorSource source = Source({});
  ContentFetcher fetcher(source, temp_.path() / "content", {.slice_time = 0ms, .reserve_bytes = 0});
  for (const std::uint64_t have : {100000u, 200000u}) {
    const FetchProgress progress = fetcher.FetchSome(digest_, object_.size()).value();
    EXPECT_TRUE(progress.source.ok());
    EXPECT_FALSE(progress.complete);
    EXPECT_EQ(progress.have, have);
  }
  EXPECT_TRUE(fetcher.FetchSome(digest_, object_.size())->complete);
}

TEST_F(ConnectionsTest, AllOfThemTogetherBringWhatTheyMust) {
  // Behind the third stripe each brings 6,250 bytes a second for a while; the minimum is 10,000.
  const std::string text = Text();
  Server slow([&](int fd, const std::string& request) {
    const auto [first, behind] = RangeOf(request, text.size());
    Say(fd, RangedHead(first, behind, text.size()));
    std::size_t at = std::max(first, 3 * kStripe);
    if (first < at && !Say(fd, text.substr(first, std::min(at, behind) - first))) return;
    const std::size_t quick = at + 4000;
    // By the clock, so that a busy machine does not make it slower.
    auto next = std::chrono::steady_clock::now();
    for (; at < std::min(quick, behind); at += 100) {
      if (!Say(fd, text.substr(at, 100))) return;
      std::this_thread::sleep_until(next += 16ms);
    }
    if (at < behind) Say(fd, text.substr(at, behind - at));
  });
  MirrorSource four = Source({slow.url()}, 4);
  EXPECT_EQ(FetchBy(four).value(), object_);
  EXPECT_EQ(controller_.asked, 0);
  MirrorSource one = Source({slow.url()}, 1);
  EXPECT_EQ(FetchBy(one).value(), object_);
  EXPECT_EQ(controller_.asked, 1);
}

class NginxConnectionsTest : public NginxTest {
 protected:
  struct Answered {
    double began = 0;
    double ended = 0;
    std::uint64_t connection = 0;
    std::uint64_t bytes = 0;
  };
  // nginx with what the location is to have.
  Nginx Start(const std::string& more) const {
    return Nginx(temp_.path() / "nginx",
                 "log_format lanes '$connection $msec $request_time $body_bytes_sent $request_uri';\n"
                 "server { listen 127.0.0.1:" +
                     Port() + "; access_log " + (temp_.path() / "nginx/lanes.log").string() +
                     " lanes; root " + (temp_.path() / "store").string() + "; " + more + " }\n");
  }
  // What its log says of the object once `bytes` of it are in there; nginx writes a line after the body.
  std::vector<Answered> Log(std::uint64_t bytes) const {
    std::vector<Answered> answers;
    for (int i = 0; i < 200; ++i) {
      answers.clear();
      std::uint64_t sent = 0;
      std::ifstream log(temp_.path() / "nginx/lanes.log");
      for (std::string line; std::getline(log, line);) {
        if (line.find(digest_.hex()) == std::string::npos) continue;
        Answered answer;
        double took = 0;
        std::istringstream(line) >> answer.connection >> answer.ended >> took >> answer.bytes;
        answer.began = answer.ended - took;
        sent += answer.bytes;
        answers.push_back(answer);
      }
      if (sent >= bytes) break;
      std::this_thread::sleep_for(10ms);
    }
    return answers;
  }
  static std::size_t Connections(const std::vector<Answered>& answers) {
    std::set<std::uint64_t> seen;
    for (const Answered& answer : answers) seen.insert(answer.connection);
    return seen.size();
  }
  static std::uint64_t Bytes(const std::vector<Answered>& answers) {
    std::uint64_t bytes = 0;
    for (const Answered& answer : answers) bytes += answer.bytes;
    return bytes;
  }
  // How many connections had an answer on its way at once. nginx may note the end of one after the next
  // began.
  static std::size_t AtOnce(const std::vector<Answered>& answers) {
    std::size_t most = 0;
    for (const Answered& one : answers) {
      std::set<std::uint64_t> during;
      for (const Answered& other : answers)
        if (other.began <= one.began && one.began < other.ended) during.insert(other.connection);
      most = std::max(most, during.size());
    }
    return most;
  }
};

TEST_F(NginxConnectionsTest, FourBringFourTimesWhatNginxGivesToOne) {
  SEALIFT_NEED_TOOL("nginx");
  // Most of a stripe at once, the rest a second later.
  const Nginx nginx = Start("limit_rate 24k;");
  ASSERT_TRUE(nginx.WaitUntilItListens(port_));
  MirrorSource source({.mirrors = {Url(port_)}, .connections = 4, .stripe_bytes = 32u << 10}, controller_,
                      [] { return 0.5; });
  EXPECT_EQ(FetchBy(source).value(), object_);
  const auto answers = Log(object_.size());
  EXPECT_EQ(controller_.asked, 0);
  EXPECT_EQ(Connections(answers), 4u);
  EXPECT_EQ(AtOnce(answers), 4u) << "each is held at the same rate, so that four are four times as fast";
  EXPECT_EQ(answers.size(), (object_.size() + (32u << 10) - 1) / (32u << 10));
  EXPECT_EQ(Bytes(answers), object_.size()) << "nothing travels twice";
}

TEST_F(NginxConnectionsTest, OneIsOne) {
  SEALIFT_NEED_TOOL("nginx");
  const Nginx nginx = Start("");
  ASSERT_TRUE(nginx.WaitUntilItListens(port_));
  MirrorSource source = Source({Url(port_)}, 1);
  EXPECT_EQ(FetchBy(source).value(), object_);
  const auto answers = Log(object_.size());
  EXPECT_EQ(Connections(answers), 1u);
  EXPECT_EQ(answers.size(), 1u);
}

TEST_F(NginxConnectionsTest, APauseCostsNoByteAndTheNextObjectNoConnection) {
  SEALIFT_NEED_TOOL("nginx");
  const Nginx nginx = Start("");
  ASSERT_TRUE(nginx.WaitUntilItListens(port_));
  MirrorSource source = Source({Url(port_)}, 4);
  EXPECT_EQ(FetchBy(source, 50000).value(), object_);
  auto answers = Log(object_.size());
  EXPECT_EQ(Bytes(answers), object_.size());
  const std::size_t connections = Connections(answers);
  EXPECT_LE(connections, 4u);
  EXPECT_EQ(FetchBy(source).value(), object_);
  answers = Log(2 * object_.size());
  EXPECT_EQ(Bytes(answers), 2 * object_.size());
  EXPECT_LE(Connections(answers), connections + 3) << "one is used again";
  EXPECT_EQ(controller_.asked, 0);
}

TEST_F(NginxConnectionsTest, AConnectionThatNginxClosedMeanwhileIsReplaced) {
  SEALIFT_NEED_TOOL("nginx");
  const Nginx nginx = Start("keepalive_requests 2;");
  ASSERT_TRUE(nginx.WaitUntilItListens(port_));
  MirrorSource source = Source({Url(port_)}, 4);
  EXPECT_EQ(FetchBy(source).value(), object_);
  EXPECT_EQ(FetchBy(source).value(), object_);
  EXPECT_EQ(controller_.asked, 0);
  EXPECT_GE(Connections(Log(2 * object_.size())), 10u);
}

}  // namespace
}  // namespace sealift::agent
