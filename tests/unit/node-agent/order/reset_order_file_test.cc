#include "node-agent/order/reset_order_file.h"

#include "shared/base/files.h"
#include "tests/contract/memory_file_system.h"
#include "tests/unit/node-agent/order/order_fixture.h"

namespace sealift::agent {
namespace {

// Lends the ESP to somebody who owns what he gets.
class Borrowed final : public FileSystem {
 public:
  explicit Borrowed(FileSystem& esp) : esp_(esp) {}
  Result<std::vector<DirectoryEntry>> List(std::string_view directory) override {
    return esp_.List(directory);
  }
  Status ReadPieces(std::string_view path, const std::function<Status(ByteView)>& sink) override {
    return esp_.ReadPieces(path, sink);
  }
  Result<std::unique_ptr<FileWriter>> Create(std::string_view) override { return ReadOnly(); }
  Status Rename(std::string_view, std::string_view) override { return ReadOnly(); }
  Status Remove(std::string_view) override { return ReadOnly(); }
  Status RemoveDirectory(std::string_view) override { return ReadOnly(); }
  Status MakeDirectory(std::string_view) override { return ReadOnly(); }
  Status SyncDirectory(std::string_view) override { return ReadOnly(); }
  Result<std::uint64_t> FreeBytes() override { return esp_.FreeBytes(); }

 private:
  static Status ReadOnly() { return MakeError(Code::kUnavailable, Reason::kEspIo, "mounted read-only"); }
  FileSystem& esp_;
};

class ResetOrderFileTest : public OrderMachine {
 protected:
  EspResetOrders Early() {
    return EspResetOrders({.open_esp = [this]() -> Result<std::unique_ptr<FileSystem>> {
                             if (!mountable_.ok()) return mountable_;
                             return std::unique_ptr<FileSystem>(std::make_unique<Borrowed>(esp_));
                           },
                           .counters = counters_,
                           .ek_digest =
                               [this] {
                                 ++tpm_asked_;
                                 return Result<Sha256Digest>(world_.ek_);
                               },
                           .orders_root = world_.root_->public_key(),
                           .clock = clock_,
                           .runtime = runtime_.path()});
  }
  std::string Pending() {
    const auto pending = Early().Pending();
    EXPECT_TRUE(pending.ok()) << Describe(pending.status());
    return pending.ok() ? *pending : "error";
  }
  std::optional<OrderOutcome> Left() const {
    const auto text = ReadTextFile(runtime_.path() / kResetOutcomeName);
    if (!text.ok()) return std::nullopt;
    return ParseOutcome(*text).value();
  }

  int tpm_asked_ = 0;
  MemoryFileSystem esp_;
  Status mountable_;
  TempDir runtime_ = TempDir::Create("reset").value();
};

TEST_F(ResetOrderFileTest, AnOrderOnTheEspIsFoundAndSpent) {
  EXPECT_EQ(Pending(), "");
  const std::string order = Order(order::Action::kReset);
  ASSERT_TRUE(WriteResetOrder(esp_, order).ok());
  EXPECT_EQ(Pending(), DigestOf(order).hex());
  EXPECT_EQ(Pending(), DigestOf(order).hex()) << "a boot that was cut before the end finds it again";
  ASSERT_TRUE(Early().Consume(DigestOf(order).hex()).ok());
  EXPECT_EQ(counters_.value, 8u);
  ASSERT_TRUE(Left());
  EXPECT_EQ(Left()->state, OutcomeState::kDone);
  EXPECT_EQ(Left()->request_digest, DigestOf(order));
  EXPECT_EQ(Pending(), "") << "replayed";
  EXPECT_EQ(Left()->reason, "ORDER_REPLAYED");
  ASSERT_TRUE(RemoveResetOrder(esp_).ok());
  ASSERT_TRUE(RemoveResetOrder(esp_).ok()) << "again";
}

TEST_F(ResetOrderFileTest, NothingElseThereLeadsToAReset) {
  const auto refused = [&](const std::string& content) {
    std::filesystem::remove(runtime_.path() / kResetOutcomeName);
    EXPECT_TRUE(WriteResetOrder(esp_, content).ok());
    EXPECT_EQ(Pending(), "");
    const auto left = Left();
    return left ? left->reason : std::string("nothing");
  };
  EXPECT_EQ(refused(""), "nothing");
  EXPECT_EQ(refused("reset"), "nothing");
  EXPECT_EQ(refused(std::string(100'000, '{')), "nothing");
  EXPECT_EQ(refused(Order(order::Action::kRetry, {{"version", "1"}})), "ORDER_UNSUPPORTED");
  order::ChangeRequest foreign = world_.Request(order::Action::kReset);
  foreign.ek_digest.bytes[1] ^= 1;
  EXPECT_EQ(refused(world_.Order(foreign)), "ORDER_FOREIGN");
  EXPECT_EQ(refused(test::OrderWorld().Order(world_.Request(order::Action::kReset))),
            "ORDER_SIGNATURE_INVALID");
  order::OrderParts one_person = world_.Parts(world_.Request(order::Action::kReset));
  one_person.approver = one_person.requester;
  EXPECT_EQ(refused(order::MakeOrder(one_person, *world_.orders_).value()), "ORDER_UNAPPROVED");
  const std::string late = Order(order::Action::kReset);
  clock_.Advance(std::chrono::hours(25));
  EXPECT_EQ(refused(late), "ORDER_EXPIRED");
}

TEST_F(ResetOrderFileTest, ATpmWithoutTheCounterStopsNoBoot) {
  counters_.broken = MakeError(Code::kFailedPrecondition, Reason::kEpochUnusable, "no such counter");
  ASSERT_TRUE(WriteResetOrder(esp_, Order(order::Action::kReset)).ok());
  EXPECT_EQ(Pending(), "");
  EXPECT_EQ(Left()->reason, "EPOCH_UNUSABLE");
  order::ChangeRequest foreign = world_.Request(order::Action::kReset);
  foreign.ek_digest.bytes[1] ^= 1;
  ASSERT_TRUE(WriteResetOrder(esp_, world_.Order(foreign)).ok());
  EXPECT_EQ(Pending(), "");
  EXPECT_EQ(Left()->reason, "ORDER_FOREIGN");
}

// A TPM that hangs is asked for an order alone, not for whatever somebody left there.
TEST_F(ResetOrderFileTest, WhatIsNoOrderCostsNoTpm) {
  ASSERT_TRUE(WriteResetOrder(esp_, "reset").ok());
  EXPECT_EQ(Pending(), "");
  EXPECT_EQ(tpm_asked_, 0);
  ASSERT_TRUE(WriteResetOrder(esp_, Order(order::Action::kReset)).ok());
  EXPECT_NE(Pending(), "");
  EXPECT_EQ(tpm_asked_, 1);
}

TEST_F(ResetOrderFileTest, AnEspThatCannotBeMountedStopsNoBoot) {
  mountable_ = MakeError(Code::kFailedPrecondition, Reason::kEspMissing, "no ESP");
  EXPECT_EQ(Pending(), "");
}

TEST(OrderLogTest, ADamagedRecordBeginsAnew) {
  const TempDir folder = TempDir::Create("orders").value();
  bool mounted = true;
  FileOrderLog log(folder.path() / "sub" / kOrderLogName, [&] { return mounted; });
  EXPECT_EQ(log.Load(), OrderRecord());
  const OrderRecord record{
      .stage = OrderStage::kStaged,
      .envelope = "{\"a\":1}",
      .accepted = FromUnixMs(5),
      .boot_id = "boot",
      .waiting = {{.request_digest = {}, .request_id = "ab"}},
      .outcomes = {{.state = OutcomeState::kFailed, .reason = "X", .at = FromUnixMs(4)}}};
  ASSERT_TRUE(log.Save(record).ok());
  EXPECT_EQ(log.Load(), record);
  mounted = false;
  EXPECT_EQ(log.Load(), OrderRecord()) << "what lies under the mount point is nobody's";
  ASSERT_TRUE(log.Save({}).ok());
  mounted = true;
  EXPECT_EQ(log.Load(), record);
  for (const char* text : {"", "[]", "{}", R"({"stage":9,"envelope":"","boot":"","outcomes":[]})",
                           R"({"stage":0,"envelope":1,"boot":"","outcomes":[]})",
                           R"({"stage":0,"envelope":"","boot":"","outcomes":[{"request":"x"}]})"}) {
    ASSERT_TRUE(WriteFileAtomically(folder.path() / "sub" / kOrderLogName, AsBytes(text)).ok());
    EXPECT_EQ(log.Load(), OrderRecord()) << text;
  }
}

}  // namespace
}  // namespace sealift::agent
