// A fleet of simulated machines against a real controller: each with its own TPM, chain, keys, signatures and
// TLS handshakes; some lie, each in one way, and exactly those must be refused, each for its own reason.
//
//   sim_fleet [--nodes N] [--liars-every N] [--threads N]
//
//   1. every machine enrols, three days ago;
//   2. the controller is off for three days: every certificate runs out, and is refused;
//   3. it comes back: every node renews by itself, under its id, and attests over mutual TLS;
//   4. what the firmware of each model measures is approved, and half of one model gets other firmware: one
//      proposal, and hardly an alarm.
//
// Prints rates (against bare TLS handshakes in the same run) and memory; exits 1 when anybody got another
// answer than he should.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "sealift/v1/admission.grpc.pb.h"
#include "sealift/v1/baseline.grpc.pb.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/key_reference.h"
#include "shared/wire/channel.h"
#include "shared/wire/convert.h"
#include "shared/wire/tls.h"
#include "tests/sim/fleet/bare_handshakes.h"
#include "tests/sim/fleet/sim_controller.h"
#include "tests/sim/fleet/sim_node.h"
#include "tests/support/firmware_log.h"

namespace sealift::sim {
namespace {

constexpr std::chrono::hours kOutage(72);
// An RSA key takes a while to make; the other machines' endorsement keys are P-256.
constexpr int kRsaEvery = 20;
constexpr double kBareSeconds = 1.0;
constexpr const char* kSmallModel = "a third of the fleet";
constexpr const char* kLargeModel = "the others";
// Machines that show other firmware before enough do to be believed.
constexpr int kAlarmsOfAnUpdate = 2;

struct Options {
  int nodes = 500;
  int liars_every = 40;
  int threads = 8;
};

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class Fleet {
 public:
  explicit Fleet(const Options& options) : options_(options) {}

  int Run() {
    const double made = Seconds([&] { MakeMachines(); });
    std::printf("%d machines made in %.1f s, every %dth with an RSA endorsement key; %d of them lie\n",
                options_.nodes, made, kRsaEvery, Liars());
    controller_ = std::make_unique<SimController>(folder_.path(), kOutage);
    ca_ = *ReadTextFile(folder_.path() / "ca.pem");
    ListKeys();
    Enrol();
    Outage();
    Renew();
    Attest();
    ApproveFirmware();
    UpdateFirmware();
    MeasureHandshakes();
    TellMemory();
    return TellResult();
  }

 private:
  // Honest ones first: liars need victims that are known.
  std::vector<SimNode*> Those(const std::function<bool(const SimNode&)>& wanted) {
    std::vector<SimNode*> those;
    for (const auto& node : nodes_) {
      if (wanted(*node)) those.push_back(node.get());
    }
    return those;
  }
  static bool LiesAt(const SimNode& node, Act act) { return node.lie != nullptr && node.lie->act == act; }
  int Liars() {
    return static_cast<int>(Those([](const SimNode& node) { return node.lie != nullptr; }).size());
  }

  void ForEach(const std::vector<SimNode*>& nodes, const std::function<void(SimNode&)>& act) const {
    std::atomic<std::size_t> next = 0;
    std::vector<std::jthread> threads;
    for (int t = 0; t < options_.threads; ++t) {
      threads.emplace_back([&] {
        for (std::size_t i = next++; i < nodes.size(); i = next++) act(*nodes[i]);
      });
    }
  }

  void MakeMachines() {
    SEALIFT_CHECK(MakeDirectories(folder_.path() / "makers", 0700).ok());
    SEALIFT_CHECK(WriteFileAtomically(folder_.path() / "makers" / "root.der", maker_.root_der()).ok());
    nodes_.resize(static_cast<std::size_t>(options_.nodes));
    std::atomic<int> next = 0;
    {
      std::vector<std::jthread> threads;
      for (int t = 0; t < options_.threads; ++t) {
        threads.emplace_back([&] {
          for (int i = next++; i < options_.nodes; i = next++) {
            nodes_[static_cast<std::size_t>(i)] =
                std::make_unique<SimNode>(maker_, i % kRsaEvery == 0 ? KeyType::kRsa : KeyType::kEcP256);
          }
        });
      }
    }
    for (std::size_t i = 0; i < nodes_.size(); ++i)
      nodes_[i]->product = i % 3 == 0 ? kSmallModel : kLargeModel;
    for (std::size_t i = 1, lie = 0; i < nodes_.size(); ++i) {
      if (static_cast<int>(i) % options_.liars_every != 0) continue;
      nodes_[i]->lie = &kLies[lie++ % kLies.size()];
      nodes_[i]->victim = nodes_[i - 1].get();
    }
  }

  std::shared_ptr<grpc::Channel> OperatorsChannel() const {
    const wire::ChannelOptions options{.address = controller_->addresses().fleet,
                                       .ca_pem = ca_,
                                       .identity = {*ReadTextFile(folder_.path() / "operator.pem"),
                                                    *ReadTextFile(folder_.path() / "operator.key")}};
    return *wire::OpenChannel(options);
  }

  void ListKeys() {
    const auto admission = v1::AdmissionService::NewStub(OperatorsChannel());
    std::string csv = "serial,ek_digest,labels\n";
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      csv += fmt::format("SN-{:06},{},rack={}\n", i, nodes_[i]->tpm().EkDigest().hex(), i / 40);
    }
    v1::ImportInventoryRequest request;
    request.set_csv(csv);
    v1::ImportInventoryResponse response;
    const double took = Seconds([&] {
      const auto context = wire::MakeContext(std::chrono::seconds(60));
      const grpc::Status status = admission->ImportInventory(context.get(), request, &response);
      if (!status.ok()) std::printf("%s\n", status.error_message().c_str());
    });
    SEALIFT_CHECK(response.added() == nodes_.size());
    std::printf("%u machines listed from a CSV file of %zu bytes in %.1f s\n", response.added(), csv.size(),
                took);
  }

  void Enrol() {
    const auto honest = Those([](const SimNode& node) { return !LiesAt(node, Act::kEnrol); });
    const double cpu = controller_->CpuSeconds();
    const double took = Seconds([&] {
      ForEach(honest, [&](SimNode& node) {
        Expect(node, node.Enrol(controller_->addresses(), ca_, boot_, false), {"issued", ""});
      });
    });
    rate_ = static_cast<double>(honest.size()) / took;
    std::printf("enrolled %zu in %.1f s: %.0f a second, %.2f ms of the controller's CPU each\n",
                honest.size(), took, rate_,
                (controller_->CpuSeconds() - cpu) * 1e3 / static_cast<double>(honest.size()));
    ForEach(Those([](const SimNode& node) { return LiesAt(node, Act::kEnrol); }), [&](SimNode& node) {
      Answer answer = node.Enrol(controller_->addresses(), ca_, boot_, false);
      // Refused by Begin already, or at the end.
      if (answer.state == "failed") answer.state = "refused";
      Expect(node, answer, {"refused", std::string(node.lie->reason)});
    });
  }

  // Of the certificates from before, a few are tried: the TLS handshake has to fail.
  void Outage() {
    controller_->ComeBack();
    auto known = Those([](const SimNode& node) { return !node.chain().empty(); });
    known.resize(std::min<std::size_t>(known.size(), 20));
    ForEach(known, [&](SimNode& node) {
      const Answer answer = node.Attest(controller_->addresses(), ca_, boot_);
      if (answer.state != "failed") Wrong(node, answer, {"failed", "its certificate has run out"});
    });
    std::printf("the controller was off for %ld hours: %zu certificates tried, all of them run out\n",
                static_cast<long>(kOutage.count()), known.size());
  }

  void Renew() {
    const auto known = Those([](const SimNode& node) { return !node.chain().empty(); });
    const double took = Seconds([&] {
      ForEach(known, [&](SimNode& node) {
        const Answer answer = node.Enrol(controller_->addresses(), ca_, boot_, true);
        if (!LiesAt(node, Act::kRenew)) return Expect(node, answer, {"issued", ""});
        Expect(node, answer, {"refused", std::string(node.lie->reason)});
      });
    });
    std::printf("renewed %zu under their ids in %.1f s: %.0f a second\n", known.size(), took,
                static_cast<double>(known.size()) / took);
  }

  void Attest() {
    const auto known =
        Those([](const SimNode& node) { return !LiesAt(node, Act::kEnrol) && !LiesAt(node, Act::kRenew); });
    const double took = Seconds([&] {
      ForEach(known, [&](SimNode& node) {
        const Answer answer = node.Attest(controller_->addresses(), ca_, boot_);
        if (!LiesAt(node, Act::kAttest)) return Expect(node, answer, {"trusted", ""});
        Expect(node, answer, {"untrusted", std::string(node.lie->reason)});
      });
    });
    std::printf("attested %zu, each over a connection of its own, in %.1f s: %.0f a second\n", known.size(),
                took, static_cast<double>(known.size()) / took);
  }

  v1::ListBaselinesResponse Baselines() const {
    const auto baselines = v1::BaselineService::NewStub(OperatorsChannel());
    v1::ListBaselinesResponse listed;
    const auto context = wire::MakeContext(std::chrono::seconds(60));
    const grpc::Status status = baselines->ListBaselines(context.get(), {}, &listed);
    if (!status.ok()) std::printf("%s\n", status.error_message().c_str());
    return listed;
  }
  void Claim(bool holds, const char* what) {
    if (holds) return;
    ++wrong_;
    std::printf("WRONG: %s\n", what);
  }

  void ApproveFirmware() {
    const auto listed = Baselines();
    Claim(listed.baselines_size() == 2, "two models propose one baseline each");
    const auto service = v1::BaselineService::NewStub(OperatorsChannel());
    for (const v1::Baseline& baseline : listed.baselines()) {
      Claim(baseline.standing() == v1::Baseline::CONFIRMED, "what all machines of a model show is confirmed");
      v1::ApproveBaselineRequest request;
      request.set_id(HexEncode(AsBytes(baseline.id())));
      v1::ApproveBaselineResponse response;
      const auto context = wire::MakeContext(std::chrono::seconds(60));
      Claim(service->ApproveBaseline(context.get(), request, &response).ok(), "it can be approved");
    }
  }

  void UpdateFirmware() {
    const test::MeasuredBoot updated = test::WithFirmware(boot_, "firmware 2");
    const std::string log = ToText(test::BytesOf(updated.log));
    std::size_t of_model = 0;
    auto those = Those([&](const SimNode& node) {
      return node.lie == nullptr && node.product == kLargeModel && of_model++ % 2 == 0;
    });
    for (SimNode* node : those) {
      node->firmware_version = "2";
      node->event_log = &log;
    }
    std::atomic<int> alarms = 0;
    ForEach(those, [&](SimNode& node) {
      const Answer answer = node.Attest(controller_->addresses(), ca_, updated);
      if (answer.state == "unknown" && answer.reason == "EVENT_NOT_ALLOWED") {
        ++alarms;
        return;
      }
      Expect(node, answer, {"trusted", ""});
    });
    Claim(alarms <= kAlarmsOfAnUpdate, "a firmware update raises hardly an alarm");
    const auto listed = Baselines();
    Claim(listed.baselines_size() == 3, "a firmware update is one proposal");
    const auto proposed = std::find_if(
        listed.baselines().begin(), listed.baselines().end(),
        [](const v1::Baseline& baseline) { return baseline.standing() == v1::Baseline::CONFIRMED; });
    Claim(proposed != listed.baselines().end() && proposed->nodes() == those.size() &&
              proposed->difference().starts_with("PCR 0: event 2"),
          "the proposal counts its machines and says what differs");
    std::printf("%zu machines got other firmware: one proposal, %d alarms\n", those.size(), alarms.load());
  }

  void MeasureHandshakes() {
    const auto known = Those([](const SimNode& node) { return node.lie == nullptr; });
    const TlsParty client{known.at(0)->chain(), known.at(0)->tpm().tls_key()->PrivatePem()};
    const TlsParty server{*ReadTextFile(folder_.path() / "tls.pem"),
                          *ReadTextFile(folder_.path() / "tls.key")};
    const double bare = BareHandshakesPerSecond(client, server, ca_, options_.threads, kBareSeconds);
    std::printf("bare mutual TLS handshakes: %.0f a second; an enrolment costs %.1f of them\n", bare,
                bare / rate_);
  }

  void TellMemory() const {
    std::uint64_t ours = 0;
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("VmHWM:")) ours = std::stoull(line.substr(6));
    }
    std::printf("memory at most: controller %.0f MiB, fleet of %d machines %.0f MiB\n",
                static_cast<double>(controller_->PeakMemoryKib()) / 1024, options_.nodes,
                static_cast<double>(ours) / 1024);
  }

  void Expect(const SimNode& node, const Answer& answer, const Answer& wanted) {
    if (answer.state != wanted.state || answer.reason != wanted.reason) return Wrong(node, answer, wanted);
    if (node.lie == nullptr || answer.reason.empty()) return;
    const std::lock_guard lock(mutex_);
    ++caught_[std::string(node.lie->words) + ": " + answer.reason];
  }
  void Wrong(const SimNode& node, const Answer& answer, const Answer& wanted) {
    const std::lock_guard lock(mutex_);
    if (++wrong_ > 20) return;
    std::printf("WRONG: %s: expected %s %s, got %s %s %s\n",
                node.lie == nullptr ? "an honest machine" : std::string(node.lie->words).c_str(),
                wanted.state.c_str(), wanted.reason.c_str(), answer.state.c_str(), answer.reason.c_str(),
                answer.message.c_str());
  }

  int TellResult() {
    int caught = 0;
    for (const auto& [what, count] : caught_) {
      std::printf("  %3d x %s\n", count, what.c_str());
      caught += count;
    }
    const int liars = Liars();
    const bool good = wrong_ == 0 && caught == liars;
    std::printf("%d of %d liars found out, %d wrong answers: %s\n", caught, liars, wrong_,
                good ? "good" : "NOT GOOD");
    return good ? 0 : 1;
  }

  const Options options_;
  const TempDir folder_ = TempDir::Create("sim-fleet").value();
  const test::TpmMaker maker_{"Simulated TPM maker"};
  const test::MeasuredBoot boot_ = test::MeasuredBoot::Load();
  std::vector<std::unique_ptr<SimNode>> nodes_;
  std::unique_ptr<SimController> controller_;
  std::string ca_;
  double rate_ = 0;
  std::mutex mutex_;
  std::map<std::string, int> caught_;
  int wrong_ = 0;
};

}  // namespace
}  // namespace sealift::sim

int main(int argc, char** argv) {
  using namespace sealift;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  log::SetLevel(log::Level::kError);
  SEALIFT_CHECK(InstallKeyProvider().ok());
  sim::Options options;
  if (argc == 4 && std::strcmp(argv[1], "--serve") == 0) {
    wire::InitialiseGrpc();
    return sim::ServeController(argv[2], std::chrono::hours(std::stol(argv[3])));
  }
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    const int value = std::stoi(argv[i + 1]);
    if (name == "--nodes") options.nodes = value;
    if (name == "--liars-every") options.liars_every = value;
    if (name == "--threads") options.threads = value;
  }
  // The controller's process is forked in Run before gRPC starts its threads with the first connection.
  return sim::Fleet(options).Run();
}
