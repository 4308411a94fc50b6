#include "tests/sim/fleet/sim_controller.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "tests/integration/controller/app/controller_fixture.h"
#include "tests/support/measured_boot.h"

namespace sealift::sim {
namespace {

using controller::ControllerTest;

class ClockBehind final : public Clock {
 public:
  explicit ClockBehind(std::chrono::milliseconds behind) : behind_(behind) {}
  UnixMillis Now() const override { return system_.Now() - behind_; }
  std::chrono::steady_clock::time_point Steady() const override { return system_.Steady(); }
  bool SleepFor(std::chrono::milliseconds duration, std::stop_token stop) override {
    return system_.SleepFor(duration, std::move(stop));
  }

 private:
  SystemClock system_;
  const std::chrono::milliseconds behind_;
};

// The integration tests' controller, without a test around it, and with its own judgement of quotes.
class Harness final : public ControllerTest {
 public:
  Harness(std::filesystem::path folder, std::chrono::hours behind)
      : folder_(std::move(folder)), then_(behind) {}
  void TestBody() override {}

  void Serve() {
    server_clock_ = &then_;
    server_attestor_ = nullptr;
    more_config_ = fmt::format("[enrolment]\ntpm_makers = \"{}\"\nsecure_boot = \"secure-boot\"\n",
                               (folder_ / "makers").string());
    SetUp();
    RecordRelease();
    // Also valid when the controller believes that it is days ago.
    const auto person = test::Issue({.common_name = "approver",
                                     .subject_alt_name = "URI:sealift:operator:anna?role=approver",
                                     .not_before = -30L * 24 * 3600},
                                    &operator_ca_);
    Write("ca.pem", node_ca_.Pem());
    Write("tls.pem", tls_.Pem());
    Write("tls.key", tls_.KeyPem());
    Write("operator.pem", person.Pem());
    Write("operator.key", person.KeyPem());
    Tell();
    for (std::string line; std::getline(std::cin, line);) {
      if (line != "come back") break;
      server_->Stop();
      server_.reset();
      server_clock_ = &clock_;
      Start();
      Tell();
    }
    server_->Stop();
  }

 private:
  void WriteFiles() override {
    ControllerTest::WriteFiles();
    const auto& variables = boot_.keys.variables;
    const std::filesystem::path secure_boot = dir_->path() / "secure-boot";
    SEALIFT_CHECK(MakeDirectories(secure_boot, 0700).ok());
    SEALIFT_CHECK(WriteFileAtomically(secure_boot / "PK.esl", variables.pk).ok());
    SEALIFT_CHECK(WriteFileAtomically(secure_boot / "KEK.esl", variables.kek).ok());
    SEALIFT_CHECK(WriteFileAtomically(secure_boot / "db.esl", variables.db).ok());
  }
  // The one that all machines run.
  void RecordRelease() {
    const std::string json = SerializeManifest(boot_.manifest);
    SEALIFT_CHECK(stores_->releases()
                      .Put({.channel = boot_.manifest.channel,
                            .version = boot_.manifest.version,
                            .release_id = ReleaseIdOf(json),
                            .published = FromUnixMs(1),
                            .total_bytes = 1,
                            .manifest_json = json})
                      .ok());
  }
  void Write(const std::string& name, const std::string& text) {
    SEALIFT_CHECK(WriteFileAtomically(folder_ / name, AsBytes(text), 0600).ok());
  }
  void Tell() {
    const nlohmann::json ready = {{"fleet", server_->addresses().fleet},
                                  {"enrolment", server_->addresses().enrolment}};
    Write("ready.json", ready.dump());
    std::cout << "ready" << std::endl;
  }

  const std::filesystem::path folder_;
  ClockBehind then_;
  const test::MeasuredBoot boot_ = test::MeasuredBoot::Load();
};

}  // namespace

SimController::SimController(const std::filesystem::path& folder, std::chrono::hours behind)
    : folder_(folder) {
  int in[2];
  int out[2];
  SEALIFT_CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
  const std::string hours = std::to_string(behind.count());
  pid_ = fork();
  SEALIFT_CHECK(pid_ >= 0);
  if (pid_ == 0) {
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    execl("/proc/self/exe", "sim_fleet", "--serve", folder.c_str(), hours.c_str(), nullptr);
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  to_child_ = in[1];
  from_child_ = out[0];
  AwaitReady();
}

SimController::~SimController() {
  close(to_child_);
  close(from_child_);
  int status = 0;
  waitpid(pid_, &status, 0);
}

void SimController::AwaitReady() {
  for (char c = 0; c != '\n';) SEALIFT_CHECK(read(from_child_, &c, 1) == 1);
  const auto ready = nlohmann::json::parse(*ReadTextFile(folder_ / "ready.json"));
  addresses_ = {.fleet = ready["fleet"], .enrolment = ready["enrolment"]};
}

void SimController::ComeBack() {
  constexpr std::string_view kLine = "come back\n";
  SEALIFT_CHECK(write(to_child_, kLine.data(), kLine.size()) == static_cast<ssize_t>(kLine.size()));
  AwaitReady();
}

double SimController::CpuSeconds() const {
  clockid_t clock{};
  timespec time{};
  SEALIFT_CHECK(clock_getcpuclockid(pid_, &clock) == 0 && clock_gettime(clock, &time) == 0);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

std::uint64_t SimController::PeakMemoryKib() const {
  std::ifstream status(fmt::format("/proc/{}/status", pid_));
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6));
  }
  return 0;
}

int ServeController(const std::filesystem::path& folder, std::chrono::hours behind) {
  Harness(folder, behind).Serve();
  return ::testing::Test::HasFailure() ? 1 : 0;
}

}  // namespace sealift::sim
