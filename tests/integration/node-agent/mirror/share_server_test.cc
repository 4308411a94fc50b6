// What a node gives to whom, over real TLS on loopback, asked by others' programs as well; and how little a
// stranger can take up.
#include "node-agent/mirror/share_server.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "tests/integration/node-agent/mirror/site_world.h"
#include "tests/support/tools.h"

namespace sealift::agent {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class ShareServerTest : public SiteWorld {
 protected:
  std::string Url(const ShareServer& server) const {
    return "https://" + server.listening() + "/objects/" + digest_.hex().substr(0, 2) + "/" + digest_.hex();
  }
  // curl as a node, or as nobody; the server's name is no host's.
  CommandOutput Curl(const ShareServer& server, const NodeTls* own, std::vector<std::string> more = {}) {
    std::vector<std::string> argv = {"curl", "-sS",          "-k", "--max-time",  "20",
                                     "-o",   Got().string(), "-w", "%{http_code}"};
    if (own != nullptr) {
      EXPECT_TRUE(WriteFileAtomically(folder_.path() / "own.pem", AsBytes(own->chain + own->key)).ok());
      argv.insert(argv.end(), {"--cert", (folder_.path() / "own.pem").string()});
    }
    argv.insert(argv.end(), more.begin(), more.end());
    argv.push_back(Url(server));
    fs::remove(Got());
    return test::RunTool(argv);
  }
  fs::path Got() const { return folder_.path() / "got"; }
  static UniqueFd Connect(const ShareServer& server) {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const std::string& at = server.listening();
    sockaddr_in address{
        .sin_family = AF_INET,
        .sin_port = htons(static_cast<std::uint16_t>(std::stoi(at.substr(at.rfind(':') + 1)))),
        .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  // Whether the other side hangs up within `time`.
  static bool IsLeft(const UniqueFd& fd, std::chrono::milliseconds time) {
    pollfd ready{.fd = fd.get(), .events = POLLIN, .revents = 0};
    if (::poll(&ready, 1, static_cast<int>(time.count())) <= 0) return false;
    char byte = 0;
    return ::recv(fd.get(), &byte, 1, MSG_DONTWAIT) <= 0;
  }
  static void WaitFor(const std::function<bool()>& condition) {
    const auto give_up = std::chrono::steady_clock::now() + 20s;
    while (!condition() && std::chrono::steady_clock::now() < give_up) std::this_thread::sleep_for(5ms);
    EXPECT_TRUE(condition());
  }
};

TEST_F(ShareServerTest, AnotherClientGetsTheSameBytesAndRanges) {
  SEALIFT_NEED_TOOL("curl");
  const auto server = Serve(1);
  const NodeTls own = Node(2, ca_);
  EXPECT_EQ(Curl(*server, &own).out, "200");
  EXPECT_EQ(ReadFile(Got()).value(), object_);
  EXPECT_EQ(Curl(*server, &own, {"-r", "123456-"}).out, "206");
  EXPECT_EQ(ReadFile(Got()).value(), ToBytes(ByteView(object_).subspan(123'456)));
  EXPECT_EQ(Curl(*server, &own, {"-r", "700000-"}).out, "416");
  EXPECT_EQ(Curl(*server, &own, {"-X", "PUT"}).out, "400");
  server->MakeRoom();
  EXPECT_EQ(Curl(*server, &own).out, "404");
}

TEST_F(ShareServerTest, ServesNobodyButNeighboursInGoodStanding) {
  SEALIFT_NEED_TOOL("curl");
  const auto server = Serve(1);
  EXPECT_NE(Curl(*server, nullptr).exit_code, 0);
  const NodeTls expired = Node(2, ca_, -60);
  EXPECT_NE(Curl(*server, &expired).exit_code, 0);
  // A member's name, from a CA with the right name.
  const NodeTls foreign = Node(2, test::MakeCa("node ca"));
  EXPECT_NE(Curl(*server, &foreign).exit_code, 0);
  // Of the fleet, but not of the site, or not in good standing: the controller says which.
  const NodeTls stranger = Node(9, ca_);
  EXPECT_EQ(Curl(*server, &stranger).out, "403");
  // What the node CA signed, but not for a node.
  const auto odd = test::Issue({.common_name = "odd", .subject_alt_name = "DNS:odd"}, &ca_);
  const NodeTls other{.chain = odd.Pem(), .key = odd.KeyPem()};
  EXPECT_NE(Curl(*server, &other).exit_code, 0);
  const NodeTls own = Node(2, ca_);
  EXPECT_NE(Curl(*server, &own, {"--tls-max", "1.2"}).exit_code, 0);
  EXPECT_EQ(Curl(*server, &own).out, "200");
}

TEST_F(ShareServerTest, WithoutACertificateOfItsOwnItServesNobody) {
  SEALIFT_NEED_TOOL("curl");
  auto server = ShareServer::Start({.listen = "127.0.0.1:0"}, ShareOf(1), hints_, [] { return NodeTls{}; });
  ASSERT_TRUE(server.ok());
  ASSERT_TRUE((*server)->Add(digest_, folder_.path() / "proven"));
  const NodeTls own = Node(2, ca_);
  EXPECT_NE(Curl(**server, &own).exit_code, 0);
}

TEST_F(ShareServerTest, WhoSaysNothingIsLeftAndTakesNoMoreThanHisShare) {
  SEALIFT_NEED_TOOL("curl");
  const auto server = Serve(1, {.max_connections = 4, .patience = 1s});
  // Two of four from one address; the third is turned away at once.
  const UniqueFd first = Connect(*server), second = Connect(*server);
  WaitFor([&] { return IsLeft(Connect(*server), 300ms); });
  EXPECT_TRUE(IsLeft(first, 5s));
  EXPECT_TRUE(IsLeft(second, 5s));
  const NodeTls own = Node(2, ca_);
  EXPECT_EQ(Curl(*server, &own).out, "200");
}

TEST_F(ShareServerTest, WhoDripsHisRequestOrTakesNothingIsLeft) {
  SEALIFT_NEED_TOOL("openssl");
  const auto server = Serve(1, {.patience = 500ms});
  const NodeTls own = Node(2, ca_);
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / "own.pem", AsBytes(own.chain + own.key)).ok());
  const std::string client = "openssl s_client -quiet -no_ign_eof -connect " + server->listening() +
                             " -cert " + (folder_.path() / "own.pem").string() + " -key " +
                             (folder_.path() / "own.pem").string() + " 2>/dev/null";
  // A byte each 100 ms: each is progress, all together are none.
  const auto began = std::chrono::steady_clock::now();
  const CommandOutput dripped = test::RunTool(
      {"sh", "-c", "for i in $(seq 40); do printf G; sleep 0.1; done | " + client + " | wc -c"});
  EXPECT_EQ(dripped.out, "0\n");
  EXPECT_LT(std::chrono::steady_clock::now() - began, 10s);
  // Asks for all of it and reads none: whatever buffers hold is all it costs. A neighbour has two places.
  const std::string ask = "(printf 'GET /objects/" + digest_.hex().substr(0, 2) + "/" + digest_.hex() +
                          " HTTP/1.1\\r\\n\\r\\n'; sleep 3)";
  const CommandOutput stuck = test::RunTool({"sh", "-c", ask + " | " + client + " | (sleep 2; wc -c)"});
  EXPECT_GT(std::atoi(stuck.out.c_str()), 0) << "this client can ask";
  NeighbourSource source = Source(3);
  EXPECT_EQ(Fetch(source).value(), object_);
  EXPECT_EQ(controller_.asked, 0);
}

TEST_F(ShareServerTest, OneNeighbourHasTwoPlaces) {
  SEALIFT_NEED_TOOL("curl");
  const auto server = Serve(1, {.maximum_rate = 100'000});
  const NodeTls own = Node(2, ca_);
  const auto take = [&](const std::function<void()>& meanwhile) {
    NeighbourOptions options = Options(own);
    options.minimum_rate = 1;
    NeighbourSource source(std::move(options), hints_, controller_);
    static_cast<void>(source.Fetch(digest_, 0, [&](ByteView) {
      meanwhile();
      return MakeError(Code::kCancelled, Reason::kCancelled, "enough");
    }));
  };
  std::string third, other;
  take([&] {
    take([&] {
      third = Curl(*server, &own).out;
      const NodeTls another = Node(3, ca_);
      other = Curl(*server, &another, {"-r", "690000-"}).out;
    });
  });
  EXPECT_EQ(third, "503");
  EXPECT_EQ(other, "206");
}

TEST_F(ShareServerTest, GivesNoMoreThanItsRate) {
  const auto server = Serve(1, {.maximum_rate = 500'000});
  NeighbourSource source = Source(2);
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(Fetch(source).value(), object_);
  EXPECT_GE(std::chrono::steady_clock::now() - began, 1s);
  EXPECT_EQ(controller_.asked, 0);
}

TEST_F(ShareServerTest, KeepsNoMoreThanItMay) {
  const auto server = Serve(1, {.keep_bytes = 1'000'000});
  Bytes more = object_;
  more[0] ^= 1;
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / "more", more).ok());
  EXPECT_TRUE(server->Add(Sha256(more), folder_.path() / "more"));
  EXPECT_EQ(server->Kept(), std::vector{Sha256(more)});
  EXPECT_FALSE(fs::exists(ShareOf(1) / digest_.hex()));
  const Bytes large(1'000'001);
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / "large", large).ok());
  EXPECT_FALSE(server->Add(Sha256(large), folder_.path() / "large"));
  EXPECT_EQ(server->Kept(), std::vector{Sha256(more)});
}

TEST_F(ShareServerTest, GivesUpWhatItKeepsWhenTheDiskIsFull) {
  const auto server = Start(1, {.least_free_bytes = ~0ull, .check_space_every = 10ms});
  ASSERT_TRUE(server->Add(digest_, folder_.path() / "proven"));
  WaitFor([&] { return server->Kept().empty() && !fs::exists(ShareOf(1) / digest_.hex()); });
}

TEST_F(ShareServerTest, ServesAfterARestartWhatItProvesAgain) {
  Serve(1).reset();
  hints_.holders.clear();
  hints_.offers.clear();
  Bytes damaged = object_;
  damaged[5] ^= 1;
  ASSERT_TRUE(WriteFileAtomically(ShareOf(1) / Sha256(AsBytes("other")).hex(), damaged).ok());
  ASSERT_TRUE(WriteFileAtomically(ShareOf(1) / "note", damaged).ok());
  fs::create_symlink(folder_.path() / "proven", ShareOf(1) / Sha256(AsBytes("link")).hex());
  const auto server = Start(1);
  WaitFor([&] { return hints_.Offers() == 1; });
  EXPECT_EQ(hints_.offers.front(), std::pair(digest_, server->listening()));
  EXPECT_EQ(server->Kept(), std::vector{digest_});
  EXPECT_EQ(std::distance(fs::directory_iterator(ShareOf(1)), fs::directory_iterator()), 1);
  hints_.holders.push_back({IdOf(1), server->listening()});
  NeighbourSource source = Source(2);
  EXPECT_EQ(Fetch(source).value(), object_);
  EXPECT_EQ(controller_.asked, 0);
}

TEST_F(ShareServerTest, OffersAgainWhatItHas) {
  const auto server = Start(1, {.address = "10.0.0.7:7445", .offer_every = 30ms});
  ASSERT_TRUE(server->Add(digest_, folder_.path() / "proven"));
  WaitFor([&] { return hints_.Offers() >= 3; });
  const std::lock_guard lock(hints_.mutex);
  for (const auto& offer : hints_.offers) EXPECT_EQ(offer, std::pair(digest_, std::string("10.0.0.7:7445")));
}

}  // namespace
}  // namespace sealift::agent
