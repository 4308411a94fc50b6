// An object from the controller to a node, verified, against a minimal gRPC stream over the same mutual TLS
// whose client hashes, too. Bars: 0.9 of its MB/s, 1.2 times its processor time (client and server together).
//
// Both servers are processes of their own (this program again, with --serve); rounds alternate between them,
// so that a neighbour's load meets both.
#include <fcntl.h>
#include <fmt/format.h>
#include <grpcpp/server_builder.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

#include "controller/publish/content_store.h"
#include "node-agent/link/grpc_controller.h"
#include "tests/integration/controller/app/controller_fixture.h"

namespace sealift::controller {
namespace {

constexpr double kSpeedBar = 0.9;
constexpr double kProcessorBar = 1.2;
constexpr int kRounds = 7;
constexpr std::size_t kObjectBytes = 128u << 20;
// What does best for the minimal server.
constexpr std::size_t kBarePieceBytes = 256u << 10;

// Bytes that no link packs.
Bytes Object() {
  Bytes bytes;
  bytes.reserve(kObjectBytes);
  std::uint64_t state = 1;
  while (bytes.size() < kObjectBytes) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    for (int shift = 0; shift < 64; shift += 8) bytes.push_back(static_cast<std::uint8_t>(state >> shift));
  }
  return bytes;
}

class BareService final : public v1::NodeService::Service {
 public:
  explicit BareService(const std::filesystem::path& file) : fd_(::open(file.c_str(), O_RDONLY | O_CLOEXEC)) {
    SEALIFT_CHECK(fd_.valid());
  }

 private:
  grpc::Status FetchContent(grpc::ServerContext*, const v1::FetchContentRequest*,
                            grpc::ServerWriter<v1::FetchContentResponse>* writer) override {
    v1::FetchContentResponse piece;
    for (std::size_t at = 0; at < kObjectBytes; at += kBarePieceBytes) {
      piece.mutable_data()->resize(kBarePieceBytes);
      if (::pread(fd_.get(), piece.mutable_data()->data(), kBarePieceBytes, static_cast<off_t>(at)) !=
          static_cast<ssize_t>(kBarePieceBytes))
        return {grpc::StatusCode::DATA_LOSS, "read"};
      if (!writer->Write(piece)) return {grpc::StatusCode::CANCELLED, "gone"};
    }
    return grpc::Status::OK;
  }
  UniqueFd fd_;
};

// The integration tests' controller, without a test around it.
class Harness final : public ControllerTest {
 public:
  void TestBody() override {}

  void ServeController(const std::filesystem::path& folder) {
    more_config_ = "call_burst = 1000000\ntotal_burst = 10000000\n";
    SetUp();
    EnrolNode(1);
    const Bytes object = Object();
    SEALIFT_CHECK(
        ContentStore::Open(dir_->path() / "state/content").value()->Put(Sha256(object), object).ok());
    Tell(folder, NodeCertificate(1), server_->addresses().fleet);
    server_->Stop();
  }

  void ServeBare(const std::filesystem::path& folder) {
    node_ca_ = test::MakeCa("node ca");
    tls_ = test::Issue({.common_name = "bare",
                        .subject_alt_name = "DNS:localhost,IP:127.0.0.1",
                        .extended_key_usage = "serverAuth"},
                       &node_ca_);
    SEALIFT_CHECK(WriteFileAtomically(folder / "object", Object()).ok());
    const auto credentials = wire::MakeServerCredentials({tls_.Pem(), tls_.KeyPem()},
                                                         wire::ClientCertificates::kRequired, node_ca_.Pem());
    SEALIFT_CHECK(credentials.ok());
    BareService service(folder / "object");
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", *credentials, &port);
    builder.RegisterService(&service);
    const auto server = builder.BuildAndStart();
    SEALIFT_CHECK(server != nullptr);
    Tell(folder, NodeCertificate(1), "127.0.0.1:" + std::to_string(port));
    server->Shutdown();
  }

 private:
  // Writes what a client needs, then serves until stdin ends.
  void Tell(const std::filesystem::path& folder, const test::TestCertificate& client,
            const std::string& address) {
    const auto write = [&](const std::string& name, const std::string& text) {
      SEALIFT_CHECK(WriteFileAtomically(folder / name, AsBytes(text), 0600).ok());
    };
    write("ca.pem", node_ca_.Pem());
    write("node.pem", client.Pem());
    write("node.key", client.KeyPem());
    write("address", address);
    std::printf("ready\n");
    std::fflush(stdout);
    while (std::getchar() != EOF) {
    }
  }
};

class Server {
 public:
  explicit Server(const char* mode) {
    int in[2];
    int out[2];
    SEALIFT_CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in[0], STDIN_FILENO);
      dup2(out[1], STDOUT_FILENO);
      execl("/proc/self/exe", "bench_transfer", "--serve", mode, folder_.path().c_str(), nullptr);
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    to_child_ = in[1];
    char first = 0;
    SEALIFT_CHECK(read(out[0], &first, 1) == 1 && first == 'r');
    close(out[0]);
    SEALIFT_CHECK(clock_getcpuclockid(pid_, &clock_) == 0);
  }

  std::shared_ptr<grpc::Channel> Connect() const {
    const auto text = [&](const std::string& name) { return *ReadTextFile(folder_.path() / name); };
    return *wire::OpenChannel({.address = text("address"),
                               .ca_pem = text("ca.pem"),
                               .identity = {text("node.pem"), text("node.key")}});
  }
  clockid_t clock() const { return clock_; }

  void End() const {
    close(to_child_);
    int status = 0;
    SEALIFT_CHECK(waitpid(pid_, &status, 0) == pid_ && status == 0);
  }

 private:
  const TempDir folder_ = TempDir::Create("bench-transfer").value();
  pid_t pid_ = -1;
  int to_child_ = -1;
  clockid_t clock_{};
};

double Seconds(clockid_t clock) {
  timespec time{};
  SEALIFT_CHECK(clock_gettime(clock, &time) == 0);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

struct Cost {
  double wall = 0;
  double processor = 0;
};

template <typename Transfer>
Cost Measure(const Server& server, const Transfer& transfer) {
  const auto processor = [&] { return Seconds(CLOCK_PROCESS_CPUTIME_ID) + Seconds(server.clock()); };
  const double wall = Seconds(CLOCK_MONOTONIC);
  const double before = processor();
  transfer();
  return {.wall = Seconds(CLOCK_MONOTONIC) - wall, .processor = processor() - before};
}

void Print(const char* what, const Cost& cost) {
  constexpr double kGibibytes = static_cast<double>(kObjectBytes) / (1u << 30);
  std::printf("  %-44s %7.0f MB/s %6.2f s of processor time per GiB\n", what,
              static_cast<double>(kObjectBytes) * 1e-6 / cost.wall, cost.processor / kGibibytes);
}

double Median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

int Run() {
  // Both before this process's gRPC starts its threads: a fork must not meet them.
  const Server bare("bare");
  const Server controller("controller");
  const Sha256Digest digest = Sha256(Object());
  const auto stub = v1::NodeService::NewStub(bare.Connect());
  const auto client = agent::MakeGrpcControllerClient(controller.Connect());
  const auto bare_transfer = [&] {
    Sha256Hasher hasher;
    const auto context = wire::MakeContext(std::chrono::minutes(2));
    const auto reader = stub->FetchContent(context.get(), v1::FetchContentRequest());
    for (v1::FetchContentResponse piece; reader->Read(&piece);) hasher.Update(AsBytes(piece.data()));
    SEALIFT_CHECK(reader->Finish().ok() && hasher.Finish() == digest);
  };
  const auto our_transfer = [&] {
    Sha256Hasher hasher;
    SEALIFT_CHECK(client
                      ->FetchContent(digest, 0,
                                     [&hasher](ByteView piece) {
                                       hasher.Update(piece);
                                       return OkStatus();
                                     })
                      .ok());
    SEALIFT_CHECK(hasher.Finish() == digest);
  };
  bare_transfer();
  our_transfer();  // here the controller verifies the object once
  std::vector<double> speed;
  std::vector<double> processor;
  for (int round = 0; round < kRounds; ++round) {
    const Cost theirs = Measure(bare, bare_transfer);
    const Cost ours = Measure(controller, our_transfer);
    std::printf("round %d\n", round + 1);
    Print("bare gRPC stream, hashed", theirs);
    Print("controller to agent, verified", ours);
    speed.push_back(theirs.wall / ours.wall);
    processor.push_back(ours.processor / theirs.processor);
  }
  bare.End();
  controller.End();
  const bool good = Median(speed) >= kSpeedBar && Median(processor) <= kProcessorBar;
  std::printf(
      "transfer: %.2f of the speed of a bare stream (bar %.1f), %.2f times its processor time (bar %.1f): "
      "%s\n",
      Median(speed), kSpeedBar, Median(processor), kProcessorBar, good ? "good" : "MISSED");
  return good ? 0 : 1;
}

}  // namespace
}  // namespace sealift::controller

int main(int argc, char** argv) {
  using namespace sealift;
  wire::InitialiseGrpc();
  log::SetLevel(log::Level::kError);
  if (argc == 4 && std::strcmp(argv[1], "--serve") == 0) {
    controller::Harness harness;
    if (std::strcmp(argv[2], "bare") == 0) {
      harness.ServeBare(argv[3]);
    } else {
      harness.ServeController(argv[3]);
    }
    return 0;
  }
  return controller::Run();
}
