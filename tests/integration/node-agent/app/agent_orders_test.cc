// Signed orders, recovery keys and the epoch, by the agent as a process with a real TPM.
#include "node-agent/order/epoch_book.h"
#include "node-agent/order/order_log.h"
#include "node-agent/order/reset_order_file.h"
#include "node-agent/tpm/ek_digest.h"
#include "node-agent/tpm/esys_tpm.h"
#include "node-agent/volume/unlock.h"
#include "shared/escrow/escrow.h"
#include "tests/integration/node-agent/app/agent_process.h"
#include "tests/support/order_world.h"

namespace sealift::agent {
namespace {

class AgentOrders : public AgentProcess {
 protected:
  void SetUp() override {
    AgentProcess::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    PutEntry("recovery.conf", BootRole::kRecovery, "1.0", old_image_);
    {
      const auto device = OpenTpmDevice({.tcti = swtpm_->tcti()}).value();
      world_.ek_ = EndorsementKeyDigest(*MakeEsysTpm(device)).value();
      const auto counters = MakeEsysCounters(device);
      epoch_base_ = counters->DefineCounter(kEpochCounter).value();
      static_cast<void>(counters->IncrementCounter(kEpochCounter).value());
    }
    WriteConfig("/proc", "[orders]\nroot_pem = '''\n" + world_.root_->public_key().Pem() + "'''\n");
    const auto lock = controller_->Lock();
    controller_->answers.check_in.clear_desired();
  }
  v1::CheckInRequest LastCheckIn() {
    const auto lock = controller_->Lock();
    return controller_->seen.check_ins.empty() ? v1::CheckInRequest() : controller_->seen.check_ins.back();
  }
  Bytes Nonce() {
    EXPECT_TRUE(Eventually([&] { return LastCheckIn().order_nonce().size() == order::kNonceBytes; }));
    return ToBytes(LastCheckIn().order_nonce());
  }
  order::ChangeRequest Wish(order::Action action, std::map<std::string, std::string> parameters = {}) {
    order::ChangeRequest request = world_.Request(action, std::move(parameters));
    request.id = HexEncode(RandomBytes(16));
    request.nonce = Nonce();
    return request;
  }
  void Send(const std::string& order) {
    const auto lock = controller_->Lock();
    controller_->answers.check_in.clear_signed_orders();
    if (!order.empty()) controller_->answers.check_in.add_signed_orders(order);
  }
  // The outcome told of it, once there is one of this state.
  std::optional<v1::OrderOutcome> Outcome(const std::string& order, v1::OrderOutcome::State state) {
    const std::string digest = ToText(order::ReadOrderLabel(order)->digest.view());
    std::optional<v1::OrderOutcome> found;
    EXPECT_TRUE(Eventually([&] {
      const v1::CheckInRequest last = LastCheckIn();
      for (const v1::OrderOutcome& one : last.order_outcomes())
        if (one.request_digest() == digest && one.state() == state) found = one;
      return found.has_value();
    })) << "no outcome "
        << v1::OrderOutcome::State_Name(state);
    return found;
  }
  void Know(const std::string& order) {
    const auto lock = controller_->Lock();
    controller_->answers.check_in.add_known_outcomes(ToText(order::ReadOrderLabel(order)->digest.view()));
  }
  std::string OneShot() {
    EfivarfsVariables variables(root() / "efivars");
    return variables.ReadText("LoaderEntryOneShot", kLoaderVendor).value_or("error");
  }
  // What the early boot of an encrypted machine leaves.
  void LeaveUnlockState(std::uint64_t epoch, std::vector<escrow::EscrowedKey> recoveries) {
    UnlockReport report{.epoch_base = epoch_base_,
                        .counter = epoch_base_ + 1,
                        .epoch = 1,
                        .image_epoch = epoch,
                        .volumes = {{.name = "persistent",
                                     .device = "/dev/null",
                                     .status = OkStatus(),
                                     .luks_uuid = "6f9e1f0e-8a2b-4c3d-9e4f-000000000001",
                                     .recoveries = std::move(recoveries)}}};
    ASSERT_TRUE(WriteUnlockState(root() / "run", report).ok());
  }

  test::OrderWorld world_;
  std::uint64_t epoch_base_ = 0;
};

TEST_F(AgentOrders, AnOrderIsObeyedToldAndSpent) {
  auto process = Start();
  const std::string order = world_.Order(Wish(order::Action::kSelectEntry, {{"entry", "recovery"}}));
  const Bytes before = Nonce();
  Send(order);
  ASSERT_TRUE(Outcome(order, v1::OrderOutcome::DONE));
  EXPECT_EQ(OneShot(), "recovery.conf");
  EXPECT_NE(Nonce(), before);
  // The controller goes on sending it; nothing happens twice.
  fs::remove(root() / "efivars" / fmt::format("LoaderEntryOneShot-{}", kLoaderVendor));
  Know(order);
  const auto refused = Outcome(order, v1::OrderOutcome::REFUSED);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->reason(), "ORDER_REPLAYED");
  EXPECT_EQ(OneShot(), "");
  EXPECT_EQ(process->End(SIGTERM), 0);
}

TEST_F(AgentOrders, TheRecoveryEntryIsPointedToWhatRuns) {
  PutEntry("recovery.conf", BootRole::kRecovery, "0.9", new_image_);
  auto process = Start();
  const std::string order = world_.Order(Wish(order::Action::kUpgradeRecovery));
  Send(order);
  ASSERT_TRUE(Outcome(order, v1::OrderOutcome::DONE));
  const std::string entry = ReadTextFile(root() / "efi/loader/entries/recovery.conf", 4096).value_or("none");
  EXPECT_NE(entry.find("version 1.0"), std::string::npos) << entry;
  EXPECT_NE(entry.find(Sha256(old_image_).hex().substr(0, 12)), std::string::npos) << entry;
  EXPECT_EQ(process->End(SIGTERM), 0);
}

TEST_F(AgentOrders, OrdersThatAreNotGoodAreRefusedByName) {
  auto process = Start();
  order::OrderParts alone = world_.Parts(Wish(order::Action::kReset));
  alone.approver = alone.requester;
  const std::string one_person = order::MakeOrder(alone, *world_.orders_).value();
  Send(one_person);
  auto refused = Outcome(one_person, v1::OrderOutcome::REFUSED);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->reason(), "ORDER_UNAPPROVED");

  order::ChangeRequest wish = Wish(order::Action::kReset);
  wish.ek_digest.bytes[0] ^= 1;
  const std::string foreign = world_.Order(wish);
  Send(foreign);
  refused = Outcome(foreign, v1::OrderOutcome::REFUSED);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->reason(), "ORDER_FOREIGN");
  EXPECT_FALSE(fs::exists(root() / "efi" / kResetOrderFile));
  EXPECT_FALSE(fs::exists(root() / "rebooted"));
}

TEST_F(AgentOrders, AResetWaitsOnTheEspForTheNextBootThoughTheAgentIsKilled) {
  auto process = Start();
  const std::string order = world_.Order(Wish(order::Action::kReset));
  Send(order);
  ASSERT_TRUE(Outcome(order, v1::OrderOutcome::ACCEPTED));
  EXPECT_EQ(process->End(SIGKILL), -SIGKILL);
  EXPECT_EQ(ReadTextFile(root() / "efi" / kResetOrderFile).value(), order);
  process = Start();
  Know(order);
  ASSERT_TRUE(Eventually([&] { return fs::exists(root() / "rebooted"); }));
  EXPECT_EQ(process->End(SIGTERM), 0);

  // The next boot: the volume was made anew, the state went with it, the order is spent.
  fs::remove_all(root() / "state");
  fs::create_directories(root() / "state");
  Boot("active.conf", "1.0");
  {
    const auto device = OpenTpmDevice({.tcti = swtpm_->tcti()}).value();
    const auto counters = MakeEsysCounters(device);
    SystemClock clock;
    EspResetOrders early({.open_esp = [&]() -> Result<std::unique_ptr<FileSystem>> {
                            return std::unique_ptr<FileSystem>(
                                std::make_unique<PosixFileSystem>(root() / "efi"));
                          },
                          .counters = *counters,
                          .ek_digest = [&] { return EndorsementKeyDigest(*MakeEsysTpm(device)); },
                          .orders_root = world_.root_->public_key(),
                          .clock = clock,
                          .runtime = root() / "run"});
    const auto pending = early.Pending();
    ASSERT_TRUE(pending.ok()) << Describe(pending.status());
    EXPECT_EQ(*pending, order::ReadOrderLabel(order)->digest.hex());
    ASSERT_TRUE(early.Consume(*pending).ok());
    EXPECT_EQ(early.Pending().value(), "") << "replayed";
    ASSERT_TRUE(early.Consume(order::ReadOrderLabel(order)->digest.hex()).ok());
  }
  {
    const auto lock = controller_->Lock();
    controller_->answers.check_in.clear_known_outcomes();
    controller_->seen.check_ins.clear();
  }
  process = Start();
  ASSERT_TRUE(Outcome(order, v1::OrderOutcome::DONE));
  EXPECT_FALSE(fs::exists(root() / "efi" / kResetOrderFile));
}

TEST_F(AgentOrders, RecoveryKeysGoIntoEscrowOnceAndTheEpochIsCertified) {
  const auto escrow_key = SoftwareSigner::Generate(KeyType::kRsa, 2048).value();
  const escrow::Subject subject{.ek_digest = world_.ek_,
                                .volume = "persistent",
                                .luks_uuid = "6f9e1f0e-8a2b-4c3d-9e4f-000000000001",
                                .slot = 1};
  const auto escrowed =
      escrow::Escrow(SecretBytes(AsBytes("key")), subject, escrow_key->public_key(), escrow::OaepHash::kSha1);
  ASSERT_TRUE(escrowed.ok());
  LeaveUnlockState(3, {*escrowed});
  Put("state/install.json",
      AsBytes(R"({"config_digest":")" + std::string(64, '7') +
              R"(","config_source":"image","version":"1.0","installed":1700000000000})"));
  {
    const auto lock = controller_->Lock();
    controller_->answers.want_quote = true;
  }
  auto process = Start();
  ASSERT_TRUE(Eventually([&] {
    const auto lock = controller_->Lock();
    return !controller_->seen.escrowed.empty() && controller_->seen.epoch_counter.has_value();
  }));
  {
    const auto lock = controller_->Lock();
    EXPECT_EQ(escrow::Parse(controller_->seen.escrowed.front().blob()).value(), *escrowed);
    EXPECT_EQ(*controller_->seen.epoch_counter, epoch_base_ + 1);
    EXPECT_EQ(controller_->seen.epoch->base(), epoch_base_);
    ASSERT_TRUE(controller_->seen.install);
    EXPECT_EQ(controller_->seen.install->config_source(), "image");
    EXPECT_EQ(controller_->seen.install->installed_unix_ms(), 1700000000000);
  }
  const v1::CheckInRequest last = LastCheckIn();
  EXPECT_EQ(last.epoch().lowest(), 1u);
  EXPECT_EQ(last.epoch().image(), 3u);
  ASSERT_EQ(last.volumes_size(), 1);
  EXPECT_EQ(last.volumes(0).state(), v1::VolumeStatus::OPEN);
  EXPECT_EQ(process->End(SIGTERM), 0);
  process = Start();
  const auto told = [&] {
    const auto lock = controller_->Lock();
    return controller_->seen.check_ins.size();
  };
  const std::size_t before = told();
  ASSERT_TRUE(Eventually([&] { return told() > before + 3; }));
  const auto lock = controller_->Lock();
  EXPECT_EQ(controller_->seen.escrowed.size(), 1u) << "acknowledged once";
}

TEST_F(AgentOrders, TheEpochIsRaisedOnceEveryImageMeetsIt) {
  LeaveUnlockState(2, {});
  auto process = Start();
  const std::string too_high = world_.Order(Wish(order::Action::kRaiseEpoch, {{"epoch", "3"}}));
  Send(too_high);
  const auto refused = Outcome(too_high, v1::OrderOutcome::REFUSED);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->reason(), "EPOCH_TOO_LOW") << refused->message();
  // Of an image that this machine never saw running, nothing is known.
  PutImage("0.9", new_image_);
  PutEntry("recovery.conf", BootRole::kRecovery, "0.9", new_image_);
  EXPECT_EQ(process->End(SIGTERM), 0);
  process = Start();
  const std::string unknown = world_.Order(Wish(order::Action::kRaiseEpoch, {{"epoch", "2"}}));
  Send(unknown);
  ASSERT_TRUE(Outcome(unknown, v1::OrderOutcome::REFUSED));
  PutEntry("recovery.conf", BootRole::kRecovery, "1.0", old_image_);
  EXPECT_EQ(process->End(SIGTERM), 0);
  process = Start();
  const std::string good = world_.Order(Wish(order::Action::kRaiseEpoch, {{"epoch", "2"}}));
  Send(good);
  ASSERT_TRUE(Outcome(good, v1::OrderOutcome::DONE));
  ASSERT_TRUE(Eventually([&] { return LastCheckIn().epoch().lowest() == 2; }));
  EXPECT_EQ(process->End(SIGTERM), 0);
  const auto device = OpenTpmDevice({.tcti = swtpm_->tcti()}).value();
  EXPECT_EQ(MakeEsysCounters(device)->ReadCounter(kEpochCounter).value(), epoch_base_ + 2);
}

}  // namespace
}  // namespace sealift::agent
