// A machine that takes orders, in memory: its TPM's counter, its state, its effects; the power may go at any
// of them.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/order/order_keeper.h"
#include "node-agent/order/order_log.h"
#include "tests/support/order_world.h"
#include "tests/support/software_tpm.h"

namespace sealift::agent {

// Steps that change something, counted over the whole machine.
struct Power {
  int steps = 0;
  int cut_at = -1;
  bool off() const { return cut_at >= 0 && steps > cut_at; }
  Status Step() {
    ++steps;
    return off() ? MakeError(Code::kUnavailable, Reason::kStateIo, "the power is gone") : OkStatus();
  }
};

class EkOnlyTpm final : public Tpm {
 public:
  explicit EkOnlyTpm(const PublicKey& key)
      : area_(test::Sized(test::PublicAreaOf(key, test::kAkAttributes))) {}
  Result<tpm::PcrValues> ReadPcrs(std::span<const std::uint32_t>) override { return No(); }
  Result<TpmKeys> EnsureKeys() override { return No(); }
  Result<EndorsementKey> ReadEndorsementKey() override {
    return EndorsementKey{.public_area = area_, .certificates = {}};
  }
  Result<SecretBytes> ActivateCredential(ByteView, ByteView) override { return No(); }
  Result<Attestation> CertifyTlsKey(ByteView) override { return No(); }
  Result<tpm::QuoteEvidence> Quote(ByteView, std::span<const std::uint32_t>) override { return No(); }
  Result<Bytes> SignWithTlsKey(const Sha256Digest&) override { return No(); }

 private:
  static Status No() { return MakeError(Code::kUnavailable, Reason::kTpmUnavailable, "not here"); }
  Bytes area_;
};

class MemoryCounters final : public TpmCounters {
 public:
  explicit MemoryCounters(Power& power) : power_(power) {}
  Result<std::uint64_t> DefineCounter(std::uint32_t) override { return Value(); }
  Result<std::uint64_t> ReadCounter(std::uint32_t) override { return Value(); }
  Result<std::uint64_t> IncrementCounter(std::uint32_t handle) override {
    EXPECT_EQ(handle, kOrderCounter);
    if (!broken.ok()) return broken;
    SEALIFT_RETURN_IF_ERROR(power_.Step());
    return ++value;
  }
  Result<Attestation> CertifyCounter(std::uint32_t, ByteView) override { return broken; }
  std::uint64_t value = 7;
  Status broken;

 private:
  Result<std::uint64_t> Value() const {
    if (!broken.ok()) return broken;
    return value;
  }
  Power& power_;
};

class MemoryOrderLog final : public OrderLog {
 public:
  explicit MemoryOrderLog(Power& power) : power_(power) {}
  OrderRecord Load() override { return available ? record : OrderRecord(); }
  bool Available() override { return available; }
  Status Save(const OrderRecord& changed) override {
    SEALIFT_RETURN_IF_ERROR(power_.Step());
    // As the file would give it back.
    record = ParseOrderRecord(SerializeOrderRecord(changed)).value();
    return OkStatus();
  }
  OrderRecord record;
  bool available = true;

 private:
  Power& power_;
};

class RecordedActions final : public OrderActions {
 public:
  explicit RecordedActions(Power& power) : power_(power) {}
  Status Check(const order::ChangeRequest&) override { return possible; }
  Result<bool> Perform(const order::ChangeRequest& request) override {
    SEALIFT_RETURN_IF_ERROR(power_.Step());
    performed.push_back(request);
    return result;
  }
  Result<bool> HasEnded(const std::string& request_id) override {
    asked_after.push_back(request_id);
    return ended;
  }
  Status StageReset(const std::string& envelope) override {
    SEALIFT_RETURN_IF_ERROR(power_.Step());
    SEALIFT_RETURN_IF_ERROR(stage);
    staged = envelope;
    return OkStatus();
  }
  Status DropReset() override {
    staged.clear();
    return OkStatus();
  }
  std::optional<OrderOutcome> ResetOutcome() override { return early; }
  Status RequestReboot(const std::string&) override {
    ++reboots;
    return OkStatus();
  }

  Status possible;
  Result<bool> result = true;
  Result<bool> ended = false;
  std::vector<std::string> asked_after;
  std::vector<order::ChangeRequest> performed;
  Status stage;
  std::string staged;
  std::optional<OrderOutcome> early;
  int reboots = 0;

 private:
  Power& power_;
};

class OrderMachine : public testing::Test {
 protected:
  OrderMachine() {
    ek_ = SoftwareSigner::Generate(KeyType::kEcP256).value();
    world_.ek_ = ek_->public_key().key_id();
    tpm_ = std::make_unique<EkOnlyTpm>(ek_->public_key());
    Start();
  }
  // A new process; of another boot where it is said.
  void Start(const std::string& boot = "boot-1") {
    OrderSettings settings{.orders_root = world_.root_->public_key(), .boot_id = boot};
    keeper_ = std::make_unique<OrderKeeper>(
        std::move(settings),
        OrderKeeper::Seams{
            .tpm = *tpm_, .counters = counters_, .actions = actions_, .log = log_, .clock = clock_});
    keeper_->Resume();
  }
  std::string Order(order::Action action, std::map<std::string, std::string> parameters = {}) const {
    order::ChangeRequest request = world_.Request(action, std::move(parameters));
    request.nonce = order::NonceFor(world_.ek_, 7);
    request.id = HexEncode(RandomBytes(16));
    return world_.Order(request);
  }
  static Sha256Digest DigestOf(const std::string& order) { return order::ReadOrderLabel(order)->digest; }
  OrderOutcome Outcome(const std::string& order) const {
    for (const OrderOutcome& one : keeper_->outcomes())
      if (one.request_digest == DigestOf(order)) return one;
    ADD_FAILURE() << "no outcome";
    return {};
  }

  test::OrderWorld world_;
  std::shared_ptr<SoftwareSigner> ek_;
  FakeClock clock_{world_.now_ + std::chrono::minutes(1)};
  Power power_;
  std::unique_ptr<EkOnlyTpm> tpm_;
  MemoryCounters counters_{power_};
  MemoryOrderLog log_{power_};
  RecordedActions actions_{power_};
  std::unique_ptr<OrderKeeper> keeper_;
};

}  // namespace sealift::agent
