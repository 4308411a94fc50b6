#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "node-agent/health/failed_boot.h"
#include "node-agent/health/health_check.h"
#include "node-agent/health/http_probe.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "tests/support/synthetic_pe.h"

namespace sealift::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class FixedProbe final : public Probe {
 public:
  explicit FixedProbe(Status status) : status_(std::move(status)) {}
  Status Check() override { return status_; }

 private:
  Status status_;
};

TEST(NodeHealthCheck, IsWellWhenEveryProbeIsAndNamesThoseThatAreNot) {
  const auto health = [](int bad) {
    std::vector<std::unique_ptr<Probe>> probes;
    probes.push_back(std::make_unique<FixedProbe>(OkStatus()));
    for (int i = 0; i < bad; ++i) {
      probes.push_back(std::make_unique<FixedProbe>(
          MakeError(Code::kFailedPrecondition, Reason::kHealthFailed, fmt::format("probe {}", i))));
    }
    return NodeHealthCheck(std::move(probes)).Check();
  };
  EXPECT_TRUE(health(0).healthy);
  EXPECT_EQ(health(0).problem, "");
  EXPECT_FALSE(health(1).healthy);
  EXPECT_NE(health(2).problem.find("probe 1"), std::string::npos);
  EXPECT_NE(health(5).problem.find("and 2 more"), std::string::npos);
  EXPECT_EQ(health(5).problem.find("probe 3"), std::string::npos);
}

class UnitProbes : public testing::Test {
 protected:
  // A systemctl that logs its words and does what the script says.
  Systemctl Stub(const std::string& script) {
    std::ofstream(temp_.path() / "systemctl") << "echo \"$@\" >>" << (temp_.path() / "said").string() << "\n"
                                              << script;
    return {"/bin/sh", (temp_.path() / "systemctl").string()};
  }
  std::string Said() { return ReadTextFile(temp_.path() / "said").value_or(""); }
  TempDir temp_ = TempDir::Create("sealift-health").value();
};

TEST_F(UnitProbes, StartsBootCompleteAndFailsWithIt) {
  EXPECT_TRUE(MakeBootCompleteProbe(Stub("exit 0"), seconds(5))->Check().ok());
  EXPECT_EQ(Said(), "start boot-complete.target\n");
  EXPECT_FALSE(MakeBootCompleteProbe(Stub("echo 'dependency failed' >&2; exit 1"), seconds(5))->Check().ok());
  EXPECT_EQ(ReasonIdOf(MakeBootCompleteProbe(Stub("exec sleep 60"), milliseconds(100))->Check()), "TIMEOUT");
}

TEST_F(UnitProbes, NamesTheFailedUnit) {
  EXPECT_TRUE(MakeFailedUnitsProbe(Stub("exit 0"), seconds(5))->Check().ok());
  const Status status =
      MakeFailedUnitsProbe(Stub("echo 'database.service loaded failed'"), seconds(5))->Check();
  EXPECT_EQ(ReasonIdOf(status), "HEALTH_FAILED");
  EXPECT_NE(MessageOf(status).find("database.service"), std::string::npos);
}

TEST_F(UnitProbes, WantsEachNamedUnitActive) {
  const std::string script = "if [ \"$3\" = web.service ]; then echo inactive; exit 3; fi; echo active";
  EXPECT_TRUE(MakeActiveUnitsProbe(Stub(script), {"a.service", "b.service"}, seconds(5))->Check().ok());
  const Status status = MakeActiveUnitsProbe(Stub(script), {"a.service", "web.service"}, seconds(5))->Check();
  EXPECT_NE(MessageOf(status).find("web.service is inactive"), std::string::npos) << status;
}

TEST_F(UnitProbes, WantsCommandsToEndWithZeroInTime) {
  EXPECT_TRUE(MakeCommandProbe({"true"}, seconds(5))->Check().ok());
  EXPECT_FALSE(MakeCommandProbe({"false"}, seconds(5))->Check().ok());
  EXPECT_EQ(ReasonIdOf(MakeCommandProbe({"sleep", "60"}, milliseconds(100))->Check()), "TIMEOUT");
}

TEST_F(UnitProbes, WantsVolumesMountedFromMappedDevices) {
  const std::filesystem::path mounts = temp_.path() / "mounts";
  const auto reason = [&](const std::string& text) {
    std::ofstream(mounts) << text;
    return ReasonIdOf(MakeVolumesProbe(mounts, {"/oem", "/usr/local"})->Check());
  };
  const std::string oem = "/dev/mapper/oem /oem ext4 rw 0 0\n";
  EXPECT_EQ(reason(oem + "/dev/mapper/persistent /usr/local ext4 rw 0 0\n"), "NONE");
  EXPECT_EQ(reason(oem), "VOLUME_LOCKED");
  EXPECT_EQ(reason(oem + "/dev/vda3 /usr/local ext4 rw 0 0\n"), "VOLUME_NOT_ENCRYPTED");
  EXPECT_EQ(reason(oem + "/dev/mapper/persistent /usr/local ext4 rw 0 0\ntmpfs /usr/local tmpfs rw 0 0\n"),
            "VOLUME_NOT_ENCRYPTED");
}

// Answers one connection with a text, or with nothing at all.
class Server {
 public:
  explicit Server(std::string answer) : answer_(std::move(answer)) {
    listener_ = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{.sin_family = AF_INET, .sin_addr = {.s_addr = ::htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(address);
    auto* generic = reinterpret_cast<sockaddr*>(&address);  // NOLINT: the interface of sockets
    EXPECT_EQ(::bind(listener_.get(), generic, size), 0);
    EXPECT_EQ(::listen(listener_.get(), 4), 0);
    EXPECT_EQ(::getsockname(listener_.get(), generic, &size), 0);
    port_ = ::ntohs(address.sin_port);
    thread_ = std::thread([this] { Serve(); });
  }
  ~Server() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  HttpTarget Target() const {
    return {.host = "127.0.0.1", .port = std::to_string(port_), .path = "/healthz?x=1"};
  }
  std::string asked() const { return asked_; }

 private:
  void Serve() {
    while (true) {
      const UniqueFd connection(::accept(listener_.get(), nullptr, nullptr));
      if (!connection.valid()) return;
      char piece[2048];
      const ssize_t got = ::recv(connection.get(), piece, sizeof(piece), 0);
      if (got > 0) asked_.assign(piece, static_cast<std::size_t>(got));
      if (answer_.empty()) {
        // Until the client gives up.
        while (::recv(connection.get(), piece, sizeof(piece), 0) > 0) {
        }
        continue;
      }
      for (const char c : answer_) ::send(connection.get(), &c, 1, MSG_NOSIGNAL);
    }
  }
  std::string answer_;
  std::string asked_;
  UniqueFd listener_;
  std::uint16_t port_ = 0;
  std::thread thread_;
};

TEST(HttpProbe, TakesAnswersOf200To399AndNoOthers) {
  const auto check = [](const std::string& answer) {
    const Server server(answer);
    return ReasonIdOf(MakeHttpProbe(server.Target(), seconds(10))->Check());
  };
  EXPECT_EQ(check("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), "NONE");
  EXPECT_EQ(check("HTTP/1.0 302 Found\r\n\r\n"), "NONE");
  EXPECT_EQ(check("HTTP/1.1 204\r\n\r\n"), "NONE");
  for (const char* answer :
       {"HTTP/1.1 500 Internal Server Error\r\n\r\n", "HTTP/1.1 404 Not Found\r\n\r\n",
        "HTTP/1.1 99 What\r\n\r\n", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1\r\n", "\n", "HTTP/1.1 2"})
    EXPECT_EQ(check(answer), "HEALTH_FAILED") << answer;
}

TEST(HttpProbe, AsksForThePathByName) {
  const Server server("HTTP/1.1 200 OK\r\n\r\n");
  ASSERT_TRUE(MakeHttpProbe(server.Target(), seconds(10))->Check().ok());
  EXPECT_TRUE(server.asked().starts_with("GET /healthz?x=1 HTTP/1.1\r\nHost: 127.0.0.1:")) << server.asked();
}

TEST(HttpProbe, GivesUpInTime) {
  const Server silent("");
  EXPECT_EQ(ReasonIdOf(MakeHttpProbe(silent.Target(), milliseconds(200))->Check()), "TIMEOUT");
  HttpTarget nobody;
  {
    const Server gone("x");
    nobody = gone.Target();
  }
  EXPECT_EQ(ReasonIdOf(MakeHttpProbe(nobody, seconds(10))->Check()), "PEER_UNREACHABLE");
}

TEST(HttpProbe, ReadsUrls) {
  const auto parsed = ParseHttpTarget("http://[::1]:8080/a?b#c");
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->host, "::1");
  EXPECT_EQ(parsed->port, "8080");
  EXPECT_EQ(parsed->path, "/a?b");
  EXPECT_EQ(ParseHttpTarget("http://localhost")->path, "/");
  EXPECT_EQ(ParseHttpTarget("http://localhost")->port, "80");
  EXPECT_EQ(ParseHttpTarget("http://h?q")->path, "/?q");
  for (const char* bad :
       {"https://localhost/", "localhost", "http://", "http://:80/", "http://h:0/", "http://h:65536/",
        "http://h:x/", "http://h:/", "http://a b/", "http://h/\r\nX: y", "http://u:p@h/", "http://[::1/"})
    EXPECT_EQ(ReasonIdOf(ParseHttpTarget(bad).status()), "INVALID_ARGUMENT") << bad;
}

// A TPM of one register.
class OnePcr final : public Tpm {
 public:
  Result<tpm::PcrValues> ReadPcrs(std::span<const std::uint32_t>) override {
    return tpm::PcrValues{{11, value}};
  }
  Result<TpmKeys> EnsureKeys() override { return Nothing(); }
  Result<EndorsementKey> ReadEndorsementKey() override { return Nothing(); }
  Result<SecretBytes> ActivateCredential(ByteView, ByteView) override { return Nothing(); }
  Result<Attestation> CertifyTlsKey(ByteView) override { return Nothing(); }
  Result<tpm::QuoteEvidence> Quote(ByteView, std::span<const std::uint32_t>) override { return Nothing(); }
  Result<Bytes> SignWithTlsKey(const Sha256Digest&) override { return Nothing(); }
  Sha256Digest value;

 private:
  static Status Nothing() { return MakeError(Code::kUnavailable, Reason::kTpmUnavailable, "not here"); }
};

void Extend(Sha256Digest& pcr, ByteView event) {
  Bytes both(pcr.bytes.begin(), pcr.bytes.end());
  const Sha256Digest digest = Sha256(event);
  both.insert(both.end(), digest.bytes.begin(), digest.bytes.end());
  pcr = Sha256(both);
}

TEST(PhaseProbe, WantsTheLastPhaseAndTellsWhichIsThere) {
  test::SyntheticPe pe;
  pe.sections = {{".linux", "a kernel"},
                 {".osrel", "ID=test\n"},
                 {".sdmagic", "#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####"}};
  const Bytes image = pe.Build();
  int reads = 0;
  OnePcr tpm;
  const auto probe = MakePhaseProbe(tpm, [&]() -> Result<Bytes> {
    ++reads;
    return image;
  });
  // By hand, as the stub and systemd-pcrphase do it.
  using std::string_view_literals::operator""sv;
  Sha256Digest pcr;
  for (const std::string_view event : {".linux\0"sv, "a kernel"sv, ".osrel\0"sv, "ID=test\n"sv})
    Extend(pcr, AsBytes(event));
  tpm.value = pcr;
  Status status = probe->Check();
  EXPECT_EQ(ReasonIdOf(status), "PHASE_MISSING");
  EXPECT_NE(MessageOf(status).find("of phase ''"), std::string::npos) << status;
  Extend(pcr, AsBytes("sysinit"));
  tpm.value = pcr;
  status = probe->Check();
  EXPECT_NE(MessageOf(status).find("of phase 'sysinit'"), std::string::npos) << status;
  Extend(pcr, AsBytes("ready"));
  tpm.value = pcr;
  EXPECT_TRUE(probe->Check().ok());
  tpm.value.bytes[0] ^= 1;
  EXPECT_EQ(ReasonIdOf(probe->Check()), "PHASE_MISSING");
  EXPECT_EQ(reads, 1);
}

class FailedBoot : public testing::Test {
 protected:
  void Put(const std::filesystem::path& path, std::string_view text) {
    std::filesystem::create_directories((temp_.path() / path).parent_path());
    std::ofstream(temp_.path() / path) << text;
  }
  std::string Why(const std::string& journal = "exit 1") {
    return WhyBootFailed(
        {.journal_command = {"/bin/sh", "-c", journal}, .timeout = seconds(5), .pstore = {temp_.path()}},
        120);
  }
  TempDir temp_ = TempDir::Create("sealift-failed-boot").value();
};

TEST_F(FailedBoot, TellsWhatTheKernelSaidLast) {
  EXPECT_EQ(Why(), "");
  Put("7/dmesg.txt",
      "<6>[ 1.0] fine\n<0>[ 2.0] Kernel panic - not syncing: Attempted to kill init!\n<4> more\n");
  EXPECT_EQ(Why(), "Kernel panic - not syncing: Attempted to kill init!");
}

TEST_F(FailedBoot, TellsTheJournalOfTheBootBefore) {
  EXPECT_EQ(Why("printf 'disk on fire\\nno service\\n'"), "disk on fire; no service");
  Put("dmesg-efi-1", "BUG: unable to handle page fault\n");
  EXPECT_EQ(Why("echo disk on fire"), "BUG: unable to handle page fault; disk on fire");
}

TEST_F(FailedBoot, IsBoundedAndPrintableWhateverLiesThere) {
  Put("dmesg-efi-1", "Kernel panic - not syncing: \x01\x1b[31m" + std::string(5000, 'x'));
  std::filesystem::create_symlink("/dev/zero", temp_.path() / "dmesg-efi-2");
  const std::string why = Why("yes | head -c 300000");
  EXPECT_LE(why.size(), 120u);
  for (const char c : why) EXPECT_GE(c, ' ');
}

}  // namespace
}  // namespace sealift::agent
