// CPU of the controller per check-in, durable, against a bare gRPC echo over the same mutual TLS. Bar: at
// most 3 times.
//
// Both servers are processes of their own (this program again, with --serve), so that only the server's CPU
// is compared; rounds alternate between them, so that a neighbour's load meets both.
#include <fcntl.h>
#include <fmt/format.h>
#include <grpcpp/server_builder.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "tests/integration/controller/app/controller_fixture.h"

namespace sealift::controller {
namespace {

constexpr double kBar = 3.0;
constexpr int kThreads = 16;
constexpr int kNodes = 16;
constexpr int kCallsPerThread = 400;
constexpr int kRounds = 5;

class EchoService final : public v1::NodeService::Service {
  grpc::Status CheckIn(grpc::ServerContext*, const v1::CheckInRequest*,
                       v1::CheckInResponse* response) override {
    response->set_poll_after_ms(30'000);
    return grpc::Status::OK;
  }
};

// The integration tests' controller, without a test around it.
class Harness final : public ControllerTest {
 public:
  void TestBody() override {}
  // Writes what a client needs into `folder`, the port last, then serves until stdin ends.
  void ServeController(const std::filesystem::path& folder) {
    // No node calls as often as these.
    more_config_ = "call_burst = 1000000\ntotal_burst = 10000000\n";
    SetUp();
    std::vector<std::pair<std::string, std::string>> clients;
    for (int i = 0; i < kNodes; ++i) {
      Node node{.id = NodeNumber(i), .ak_public = {1}};
      node.ek_digest.bytes[0] = static_cast<std::uint8_t>(i);
      node.admission = Admission::kAdmitted;
      SEALIFT_CHECK(stores_->nodes().Enrol(node).ok());
      // Trusted and current, as nearly all check-ins find it.
      SEALIFT_CHECK(stores_->node_status()
                        .RecordVerdict(node.id, {.trust = Trust::kTrusted,
                                                 .release_version = "1",
                                                 .decided = clock_.Now(),
                                                 .boot_id = "boot"})
                        .ok());
      const auto certificate =
          test::Issue({.common_name = "node", .subject_alt_name = "URI:" + node.id.SubjectUri()}, &node_ca_);
      clients.emplace_back(certificate.Pem(), certificate.KeyPem());
    }
    Tell(folder, clients, server_->addresses().fleet);
    server_->Stop();
  }

  void ServeEcho(const std::filesystem::path& folder) {
    node_ca_ = test::MakeCa("node ca");
    tls_ = test::Issue({.common_name = "echo",
                        .subject_alt_name = "DNS:localhost,IP:127.0.0.1",
                        .extended_key_usage = "serverAuth"},
                       &node_ca_);
    std::vector<std::pair<std::string, std::string>> clients;
    for (int i = 0; i < kNodes; ++i) {
      const auto certificate = test::Issue(
          {.common_name = "node", .subject_alt_name = "URI:" + NodeNumber(i).SubjectUri()}, &node_ca_);
      clients.emplace_back(certificate.Pem(), certificate.KeyPem());
    }
    auto credentials = wire::MakeServerCredentials({tls_.Pem(), tls_.KeyPem()},
                                                   wire::ClientCertificates::kRequired, node_ca_.Pem());
    SEALIFT_CHECK(credentials.ok());
    EchoService service;
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", *credentials, &port);
    builder.RegisterService(&service);
    const auto server = builder.BuildAndStart();
    SEALIFT_CHECK(server != nullptr);
    Tell(folder, clients, "127.0.0.1:" + std::to_string(port));
    server->Shutdown();
  }

 private:
  static NodeId NodeNumber(int number) {
    return *NodeId::Parse(fmt::format("01890000-0000-7000-8000-{:012}", number));
  }

  void Tell(const std::filesystem::path& folder,
            const std::vector<std::pair<std::string, std::string>>& clients, const std::string& address) {
    const auto write = [&](const std::string& name, const std::string& text) {
      SEALIFT_CHECK(WriteFileAtomically(folder / name, AsBytes(text), 0600).ok());
    };
    write("ca.pem", node_ca_.Pem());
    for (std::size_t i = 0; i < clients.size(); ++i) {
      write(fmt::format("{}.pem", i), clients[i].first);
      write(fmt::format("{}.key", i), clients[i].second);
    }
    write("address", address);
    std::printf("ready\n");
    std::fflush(stdout);
    while (std::getchar() != EOF) {
    }
  }
};

struct Child {
  pid_t pid = -1;
  int to_child = -1;
  clockid_t cpu{};
  std::vector<std::unique_ptr<v1::NodeService::Stub>> stubs;
};

Child Spawn(const char* mode, const std::filesystem::path& folder) {
  int in[2];
  int out[2];
  SEALIFT_CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
  Child child{.pid = fork()};
  if (child.pid == 0) {
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    execl("/proc/self/exe", "bench_check_in", "--serve", mode, folder.c_str(), nullptr);
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  child.to_child = in[1];
  char first = 0;
  SEALIFT_CHECK(read(out[0], &first, 1) == 1 && first == 'r');
  close(out[0]);
  SEALIFT_CHECK(clock_getcpuclockid(child.pid, &child.cpu) == 0);
  return child;
}

void Connect(Child& child, const std::filesystem::path& folder) {
  const auto text = [&](const std::string& name) { return *ReadTextFile(folder / name); };
  for (int i = 0; i < kNodes; ++i) {
    wire::ChannelOptions options{
        .address = text("address"),
        .ca_pem = text("ca.pem"),
        .identity = {text(fmt::format("{}.pem", i)), text(fmt::format("{}.key", i))}};
    child.stubs.push_back(v1::NodeService::NewStub(*wire::OpenChannel(options)));
  }
}

double CpuMicros(clockid_t clock) {
  timespec time{};
  SEALIFT_CHECK(clock_gettime(clock, &time) == 0);
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) / 1e3;
}

double MicrosPerCall(Child& child, int calls_per_thread) {
  v1::CheckInRequest request;
  request.set_state(v1::IDLE);
  request.mutable_running()->set_version("1");
  request.mutable_running()->set_image_digest(std::string(32, 'i'));
  request.mutable_running()->set_role("active");
  request.mutable_running()->set_boot_id("boot");
  request.set_healthy(true);
  request.set_agent_version("0.1.0");
  const double before = CpuMicros(child.cpu);
  std::atomic<int> failed = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < calls_per_thread; ++i) {
          v1::CheckInResponse response;
          const auto context = wire::MakeContext();
          const auto& stub = child.stubs[static_cast<std::size_t>(t % kNodes)];
          if (!stub->CheckIn(context.get(), request, &response).ok()) ++failed;
        }
      });
    }
  }
  SEALIFT_CHECK(failed == 0);
  return (CpuMicros(child.cpu) - before) / (kThreads * calls_per_thread);
}

void End(Child& child) {
  close(child.to_child);
  int status = 0;
  SEALIFT_CHECK(waitpid(child.pid, &status, 0) == child.pid && status == 0);
}

int Measure() {
  auto echo_dir = TempDir::Create("bench-echo");
  auto controller_dir = TempDir::Create("bench-controller");
  SEALIFT_CHECK(echo_dir.ok() && controller_dir.ok());
  // Both before this process's gRPC starts its threads: a fork must not meet them.
  Child echo = Spawn("echo", echo_dir->path());
  Child controller = Spawn("controller", controller_dir->path());
  Connect(echo, echo_dir->path());
  Connect(controller, controller_dir->path());
  MicrosPerCall(echo, 50);
  MicrosPerCall(controller, 50);
  std::vector<double> ratios;
  for (int round = 0; round < kRounds; ++round) {
    const double bare = MicrosPerCall(echo, kCallsPerThread);
    const double ours = MicrosPerCall(controller, kCallsPerThread);
    ratios.push_back(ours / bare);
    std::printf("round %d: echo %.1f us, durable check-in %.1f us of server CPU per call, ratio %.2f\n",
                round + 1, bare, ours, ratios.back());
  }
  End(echo);
  End(controller);
  std::sort(ratios.begin(), ratios.end());
  const double median = ratios[ratios.size() / 2];
  std::printf("check-in: %.2f times the CPU of a bare mTLS echo, bar %.1f: %s\n", median, kBar,
              median <= kBar ? "good" : "TOO MUCH");
  return median <= kBar ? 0 : 1;
}

}  // namespace
}  // namespace sealift::controller

int main(int argc, char** argv) {
  using namespace sealift;
  wire::InitialiseGrpc();
  log::SetLevel(log::Level::kError);
  if (argc == 4 && std::strcmp(argv[1], "--serve") == 0) {
    controller::Harness harness;
    if (std::strcmp(argv[2], "echo") == 0) {
      harness.ServeEcho(argv[3]);
    } else {
      harness.ServeController(argv[3]);
    }
    return 0;
  }
  return controller::Measure();
}
