// Taking objects from neighbours over real TLS on loopback: from those that have them, and from those that
// lie, stall, vanish or are not who they should be.
#include <netinet/in.h>
#include <sys/socket.h>

#include <thread>

#include "tests/integration/node-agent/mirror/site_world.h"

namespace sealift::agent {
namespace {

using namespace std::chrono_literals;

class NeighbourTest : public SiteWorld {};

TEST_F(NeighbourTest, GivesWhatItHasFromAnyOffset) {
  const auto server = Serve(1);
  NeighbourSource source = Source(2);
  EXPECT_EQ(Fetch(source).value(), object_);
  EXPECT_EQ(Fetch(source, 123'456).value(), ToBytes(ByteView(object_).subspan(123'456)));
  EXPECT_EQ(controller_.asked, 0);
  // The proven file may go; what is shared stays.
  std::filesystem::remove(folder_.path() / "proven");
  EXPECT_EQ(FetchProven(source).value(), object_);
  EXPECT_EQ(controller_.asked, 0);
}

TEST_F(NeighbourTest, OneThatHasItNotIsLeftForAnother) {
  const auto server = Serve(1);
  server->MakeRoom();
  const auto other = Serve(2);
  NeighbourSource source = Source(3);
  EXPECT_EQ(Fetch(source).value(), object_);
  EXPECT_EQ(controller_.asked, 0);
  // The controller hears of it.
  EXPECT_TRUE(hints_.failed.contains(IdOf(1)));
}

TEST_F(NeighbourTest, WhoIsNotWhomTheControllerNamedIsLeft) {
  const auto server = Serve(1);
  hints_.holders.front().node_id = IdOf(3);
  NeighbourSource source = Source(2);
  EXPECT_EQ(Fetch(source).value(), object_);
  EXPECT_EQ(controller_.asked, 1);
}

TEST_F(NeighbourTest, OneOfAnotherFleetOrWithAnExpiredCertificateIsLeft) {
  // Its node CA has the same name.
  const auto expired = Serve(1, {}, -60);
  const auto foreign_ca = test::MakeCa("node ca");
  auto foreign = ShareServer::Start({.listen = "127.0.0.1:0"}, ShareOf(2), hints_,
                                    [tls = Node(2, foreign_ca)] { return tls; });
  ASSERT_TRUE(foreign.ok());
  ASSERT_TRUE((*foreign)->Add(digest_, folder_.path() / "proven"));
  hints_.holders.push_back({IdOf(2), (*foreign)->listening()});
  NeighbourSource source = Source(3);
  EXPECT_EQ(Fetch(source).value(), object_);
  EXPECT_EQ(controller_.asked, 1);
  EXPECT_EQ(controller_.offset, 0u);
  EXPECT_TRUE(hints_.failed.contains(IdOf(1)) && hints_.failed.contains(IdOf(2)));
}

TEST_F(NeighbourTest, WhoEndsInTheMiddleIsCarriedOnByAnother) {
  const auto broken = Serve(1);
  Tamper(1, ByteView(object_).first(300'000));
  hints_.holders.push_back({IdOf(3), "127.0.0.1:1"});
  const auto good = Serve(2);
  NeighbourSource source = Source(3);
  EXPECT_EQ(FetchProven(source).value(), object_);
  EXPECT_EQ(controller_.asked, 0);
}

TEST_F(NeighbourTest, WhoVanishesInTheMiddleIsCarriedOnByTheController) {
  auto server = Serve(1, {.maximum_rate = 1'000'000});
  NeighbourSource source = Source(2);
  Bytes got;
  ASSERT_TRUE(source
                  .Fetch(digest_, 0,
                         [&](ByteView piece) {
                           Append(got, piece);
                           server.reset();
                           return OkStatus();
                         })
                  .ok());
  EXPECT_EQ(got, object_);
  EXPECT_EQ(controller_.asked, 1);
  EXPECT_GT(controller_.offset, 0u);
}

TEST_F(NeighbourTest, OneThatLiesIsBlamedAndAskedNoMore) {
  const auto liar = Serve(1);
  Bytes lie = object_;
  lie[333] ^= 1;
  Tamper(1, lie);
  NeighbourSource source = Source(2);
  EXPECT_EQ(FetchProven(source).value(), object_);
  EXPECT_EQ(controller_.asked, 1);
  EXPECT_TRUE(hints_.failed.contains(IdOf(1)));
  // Told the truth now, but not to one it lied to.
  Tamper(1, object_);
  EXPECT_EQ(Fetch(source).value(), object_);
  EXPECT_EQ(controller_.asked, 2);
}

TEST_F(NeighbourTest, OneThatSendsAnotherLengthIsBlamed) {
  const auto liar = Start(1);
  // It proved another, longer object, and serves that.
  Bytes longer = object_;
  longer.resize(object_.size() + 70'000);
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / "longer", longer).ok());
  ASSERT_TRUE(liar->Add(digest_, folder_.path() / "longer"));
  hints_.holders.push_back({IdOf(1), liar->listening()});
  NeighbourSource source = Source(2);
  EXPECT_EQ(FetchProven(source).value(), object_);
  EXPECT_EQ(controller_.asked, 1);
}

TEST_F(NeighbourTest, OneThatStallsOrIsTooSlowIsLeft) {
  // It listens and takes the connection, and that is all.
  const UniqueFd silent(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(silent.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(silent.get(), 8), 0);
  ASSERT_EQ(::getsockname(silent.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  hints_.holders.push_back({IdOf(3), "127.0.0.1:" + std::to_string(ntohs(address.sin_port))});
  const auto slow = Serve(1, {.maximum_rate = 20'000});
  NeighbourOptions options = Options(Node(2, ca_));
  options.connect_timeout = 1s;
  NeighbourSource source(std::move(options), hints_, controller_);
  EXPECT_EQ(FetchProven(source).value(), object_);
  EXPECT_EQ(controller_.asked, 1);
  EXPECT_EQ(hints_.failed, (std::set<std::string>{IdOf(1), IdOf(3)}));
}

TEST_F(NeighbourTest, WaitsForTheOneThatFetches) {
  hints_.wait = 20ms;
  std::unique_ptr<ShareServer> server;
  std::jthread later([&] {
    while (true) {
      const std::lock_guard lock(hints_.mutex);
      if (hints_.asked >= 3) break;
    }
    server = Serve(1);
  });
  NeighbourSource source = Source(2);
  EXPECT_EQ(FetchProven(source).value(), object_);
  EXPECT_EQ(controller_.asked, 0);
}

TEST_F(NeighbourTest, WaitingIsNoFailureAndEndsWithItsPatience) {
  hints_.wait = 20ms;
  NeighbourOptions options = Options(Node(2, ca_));
  options.wait_at_once = 30ms;
  options.patience = 100ms;
  NeighbourSource source(std::move(options), hints_, controller_);
  EXPECT_EQ(ReasonOf(Fetch(source).status()), Reason::kTimeout);
  EXPECT_TRUE(source.waits());
  EXPECT_EQ(FetchProven(source, 100).value(), object_);
  EXPECT_FALSE(source.waits());
  EXPECT_EQ(controller_.asked, 1);
  // For an hour nobody is waited for.
  const int before = hints_.asked;
  EXPECT_EQ(Fetch(source).value(), object_);
  EXPECT_EQ(hints_.asked, before + 1);
}

TEST_F(NeighbourTest, StopsWaitingWhenItIsToldTo) {
  hints_.wait = 1h;
  std::stop_source stop;
  NeighbourOptions options = Options(Node(2, ca_));
  options.wait_at_once = 1h;
  options.stop = stop.get_token();
  NeighbourSource source(std::move(options), hints_, controller_);
  std::jthread later([&] {
    while (true) {
      const std::lock_guard lock(hints_.mutex);
      if (hints_.asked >= 1) break;
    }
    stop.request_stop();
  });
  const auto began = std::chrono::steady_clock::now();
  EXPECT_FALSE(Fetch(source).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - began, 4s);
}

TEST_F(NeighbourTest, ATurnThatCameToNothingIsGivenBack) {
  controller_.problem = MakeError(Code::kUnavailable, Reason::kPeerUnreachable, "the line is down");
  NeighbourSource source = Source(2);
  EXPECT_EQ(ReasonOf(Fetch(source).status()), Reason::kPeerUnreachable);
  ASSERT_EQ(hints_.offers.size(), 1u);
  EXPECT_EQ(hints_.offers.front(), std::pair(digest_, std::string()));
  // Not so when it only has enough for now.
  controller_.problem = OkStatus();
  const Status enough = MakeError(Code::kCancelled, Reason::kCancelled, "enough");
  EXPECT_FALSE(source.Fetch(digest_, 0, [&](ByteView) { return enough; }).ok());
  EXPECT_EQ(hints_.offers.size(), 1u);
}

}  // namespace
}  // namespace sealift::agent
