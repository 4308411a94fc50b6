// Many agents, each a process with its own TPM and empty store, started at once behind one nginx cache: what
// leaves the controller is about one release. 8 of them, or as many as SEALIFT_AGENTS says.
#include <atomic>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <sstream>

#include "controller/fleet/site_directory.h"
#include "sealift/v1/site.grpc.pb.h"
#include "tests/integration/node-agent/app/agent_process.h"
#include "tests/support/nginx.h"

namespace sealift::agent {
namespace {

constexpr std::size_t kImageBytes = 6u << 20;

// One of the machines: they share the keys of their image and the release, nothing else.
class Machine final : public AgentProcess {
 public:
  void TestBody() override {}

  // `update`: lines of that table; `tables`: others. `site`: null for none.
  void Prepare(const Machine* first, const std::string& update, const std::string& tables = "",
               grpc::Service* site = nullptr) {
    swtpm_ = test::Swtpm::Start({.ek_certificate = true});
    controller_ = std::make_unique<test::TestController>(
        0, 0, site, first == nullptr ? nullptr : first->controller_.get());
    for (const char* folder : {"efi/loader/entries", "efi/EFI/kairos", "efivars", "run", "state"})
      fs::create_directories(root() / folder);
    if (first == nullptr) {
      db_ = test::MakeTestKey("db");
      pcr_ = test::MakeTestKey("pcr");
    }
    old_image_ = first == nullptr ? Image("1.0", &db_) : first->old_image_;
    new_image_ = first == nullptr ? LargeImage("2.0") : first->new_image_;
    const efi::SignatureLists lists = {efi::X509SignatureList(
        efi::kGlobalVariable, first == nullptr ? db_.certificate : first->db_.certificate)};
    PutVariable("db", kImageSecurityVendor, efi::SerializeSignatureLists(lists));
    PutVariable("SecureBoot", kGlobalVendor, {1});
    PutImage("1.0", old_image_);
    PutEntry("active.conf", BootRole::kActive, "1.0", old_image_);
    PutEntry("passive.conf", BootRole::kPassive, "1.0", old_image_);
    Boot("active.conf", "1.0");
    if (first == nullptr) {
      PublishRelease("2.0", new_image_);
    } else {
      repository_ = first->repository_;
      controller_->answers = first->controller_->answers;
    }
    WriteConfig("/proc", tables);
    std::string config = ReadTextFile(root() / "node.toml").value();
    const std::string table = "[update]\n";
    config.insert(config.find(table) + table.size(), update + "\n");
    Put("node.toml", AsBytes(config));
  }

  std::string NodeCaPem() const { return controller_->NodeCaPem(); }
  using AgentProcess::ExpectBootable;
  using AgentProcess::Start;
  const std::map<Sha256Digest, Bytes>& content() const { return controller_->answers.content; }
  bool Staged() const { return fs::exists(root() / "rebooted"); }
  Bytes StagedImage() const {
    return ReadFile(root() / "efi" / ImageFilePath("2.0", Sha256(new_image_))).value_or(Bytes());
  }
  const Bytes& new_image() const { return new_image_; }
  // What it took from its controller over gRPC, metadata aside.
  std::uint64_t BytesFromController() {
    const auto lock = controller_->Lock();
    std::uint64_t bytes = 0;
    for (const auto& [digest, sent] : controller_->seen.sent) bytes += sent;
    return bytes;
  }
  std::string Told() const {
    return State() + "\n" + ReadTextFile(root() / "agent.log").value_or("(no log)");
  }

 private:
  Bytes LargeImage(const std::string& version) {
    std::mt19937 random(7);  // NOLINT(cert-msc32-c,cert-msc51-cpp): the same image in every machine
    std::string kernel(kImageBytes, 0);
    for (char& c : kernel) c = static_cast<char>(random());
    test::SyntheticPe pe;
    pe.sections = {{".osrel", "IMAGE_VERSION=" + version + "\n"},
                   {".linux", kernel},
                   {".pcrpkey", pcr_.signer->public_key().Pem()}};
    return efi::SignImage(pe.Build(), *db_.signer, db_.certificate, "test").value().bytes;
  }
};

using Machines = std::vector<std::unique_ptr<Machine>>;

int AgentCount() {
  const char* const text = std::getenv("SEALIFT_AGENTS");
  return text == nullptr ? 8 : static_cast<int>(std::strtol(text, nullptr, 10));
}

// All of them within ten seconds, the last one once `begun` holds.
std::vector<std::unique_ptr<Process>> StartTogether(
    const Machines& machines, const std::function<bool()>& begun = [] { return true; }) {
  const auto began = std::chrono::steady_clock::now();
  std::vector<std::unique_ptr<Process>> agents;
  for (const auto& machine : machines) {
    while (machine == machines.back() && !begun() && std::chrono::steady_clock::now() < began + seconds(10))
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    agents.push_back(machine->Start());
  }
  EXPECT_LE(std::chrono::steady_clock::now() - began, seconds(10));
  return agents;
}

void AwaitStaged(const Machines& machines) {
  const auto give_up = std::chrono::steady_clock::now() + seconds(60 + 10 * machines.size());
  for (const auto& machine : machines) {
    while (!machine->Staged() && std::chrono::steady_clock::now() < give_up)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ASSERT_TRUE(machine->Staged()) << machine->Told();
  }
}

// What left the controllers. Nothing is staged but what proved itself; here it is the release itself, byte by
// byte.
std::uint64_t ExpectAllHaveIt(const Machines& machines) {
  std::uint64_t left = 0;
  for (const auto& machine : machines) {
    EXPECT_EQ(Sha256(machine->StagedImage()), Sha256(machine->new_image()));
    machine->ExpectBootable("staged");
    left += machine->BytesFromController();
  }
  return left;
}

// How many TCP sockets of this process accept connections, as the kernel tells.
std::size_t Listening(pid_t pid) {
  const fs::path folder = fs::path("/proc") / std::to_string(pid);
  std::set<std::string> own;
  for (const auto& fd : fs::directory_iterator(folder / "fd")) {
    std::error_code gone;
    const std::string target = fs::read_symlink(fd.path(), gone).string();
    if (target.starts_with("socket:[")) own.insert(target.substr(8, target.size() - 9));
  }
  std::size_t count = 0;
  for (const char* table : {"tcp", "tcp6"}) {
    std::ifstream lines(folder / "net" / table);
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      const std::vector<std::string> fields{std::istream_iterator<std::string>(words), {}};
      if (fields.size() > 9 && fields[3] == "0A" && own.contains(fields[9])) ++count;
    }
  }
  return count;
}

TEST(ManyAgents, BehindOneCacheTheyTakeAboutOneReleaseFromTheController) {
  SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup", "swtpm_localca", "nginx");
  ::setenv("TSS2_LOG", "all+NONE", 1);
  const int count = AgentCount();
  const TempDir temp = TempDir::Create("sealift-agents").value();
  // nginx's workers are another user when it is root's.
  fs::permissions(temp.path(), fs::perms(0755));
  const std::uint16_t origin_port = test::FreePort();
  const std::uint16_t cache_port = test::FreePort();
  // A thin line, so that everybody asks while the first is being served.
  const test::Nginx origin(temp.path() / "origin",
                           fmt::format("server {{ listen 127.0.0.1:{}; root {}; limit_rate 2m; }}\n",
                                       origin_port, (temp.path() / "content").string()));
  // As docs/content.md has it.
  const test::Nginx cache(
      temp.path() / "cache",
      fmt::format("proxy_cache_path {} keys_zone=sealift:10m max_size=20g inactive=30d;\n"
                  "server {{ listen 127.0.0.1:{}; location / {{ proxy_pass http://127.0.0.1:{};\n"
                  "slice 1m; proxy_set_header Range $slice_range; proxy_http_version 1.1;\n"
                  "proxy_cache sealift; proxy_cache_key $uri$slice_range; proxy_cache_valid 200 206 30d;\n"
                  "proxy_cache_lock on; proxy_cache_lock_timeout 10m; proxy_cache_lock_age 10m; }} }}\n",
                  (temp.path() / "cached").string(), cache_port, origin_port));
  Machines machines;
  for (int i = 0; i < count; ++i) {
    machines.push_back(std::make_unique<Machine>());
    machines.back()->Prepare(i == 0 ? nullptr : machines.front().get(),
                             fmt::format("mirrors = ['http://127.0.0.1:{}']", cache_port));
    ASSERT_FALSE(testing::Test::HasFatalFailure());
  }
  std::uint64_t release_bytes = 0;
  for (const auto& [digest, bytes] : machines.front()->content()) {
    const fs::path place = temp.path() / "content/objects" / digest.hex().substr(0, 2);
    fs::create_directories(place);
    ASSERT_TRUE(WriteFileAtomically(place / digest.hex(), bytes).ok());
    fs::permissions(place / digest.hex(), fs::perms(0644));
    release_bytes += bytes.size();
  }
  ASSERT_TRUE(origin.WaitUntilItListens(origin_port));
  ASSERT_TRUE(cache.WaitUntilItListens(cache_port));

  const auto agents = StartTogether(machines);
  AwaitStaged(machines);
  ASSERT_FALSE(testing::Test::HasFatalFailure());
  const std::uint64_t left = origin.BytesSent() + ExpectAllHaveIt(machines);
  EXPECT_GE(left, release_bytes);
  EXPECT_LE(static_cast<double>(left), 1.2 * static_cast<double>(release_bytes));
  std::cout << fmt::format("{} agents: {:.2f} releases left the controller\n", count,
                           static_cast<double>(left) / static_cast<double>(release_bytes));
  for (const auto& agent : agents) {
    // Nobody serves who was not told to.
    EXPECT_EQ(Listening(agent->pid()), 0u);
    EXPECT_EQ(agent->End(SIGTERM), 0);
  }
}

// One of its own for each machine and each run of this test: a port that was free a while ago is not any
// more among so many.
std::string LoopbackAddress(int machine) {
  const int run = ::getpid();
  return fmt::format("127.{}.{}.{}", 1 + run / 250 % 250, 1 + run % 250, 1 + machine);
}

// The controllers' common part: one site, whose members are all that ever asked.
class Site final : public v1::SiteService::Service {
 public:
  grpc::Status Locate(grpc::ServerContext* context, const v1::LocateRequest* request,
                      v1::LocateResponse* response) override {
    const auto advice = directory_.Locate(Caller(context), "lab", Digest(request->digest()),
                                          {request->failed().begin(), request->failed().end()},
                                          std::chrono::steady_clock::now());
    ++asked;
    if (advice.holder) {
      response->mutable_holder()->set_node_id(advice.holder->node.text());
      response->mutable_holder()->set_address(advice.holder->address);
    }
    response->set_wait_ms(static_cast<std::uint32_t>(advice.wait.count()));
    return grpc::Status::OK;
  }
  grpc::Status Offer(grpc::ServerContext* context, const v1::OfferRequest* request,
                     v1::OfferResponse*) override {
    for (const std::string& digest : request->digests()) {
      if (request->address().empty()) {
        directory_.Withdraw(Caller(context), "lab", Digest(digest));
      } else {
        directory_.Offer(Caller(context), "lab", Digest(digest), request->address(),
                         std::chrono::steady_clock::now());
      }
    }
    return grpc::Status::OK;
  }
  grpc::Status GetSite(grpc::ServerContext*, const v1::GetSiteRequest*,
                       v1::GetSiteResponse* response) override {
    response->set_node_cas(node_cas);
    return grpc::Status::OK;
  }
  grpc::Status AdmitPeer(grpc::ServerContext*, const v1::AdmitPeerRequest* request,
                         v1::AdmitPeerResponse* response) override {
    const auto certificate = Certificate::FromDer(AsBytes(request->certificate()));
    const std::lock_guard lock(mutex_);
    response->set_admitted(certificate.ok() && certificate->uris().size() == 1 &&
                           members_.contains(certificate->uris().front()));
    return grpc::Status::OK;
  }
  std::string node_cas;
  // How often somebody asked for an object.
  std::atomic<int> asked = 0;

 private:
  NodeId Caller(grpc::ServerContext* context) {
    for (const auto& name : context->auth_context()->GetPeerIdentity()) {
      const std::string uri(name.data(), name.size());
      const auto id = NodeId::Parse(uri.substr(uri.rfind(':') + 1));
      if (!id.ok()) continue;
      const std::lock_guard lock(mutex_);
      members_.insert(uri);
      return *id;
    }
    SEALIFT_CHECK(false);
  }
  static Sha256Digest Digest(const std::string& bytes) {
    return wire::DigestFromWire("digest", bytes).value();
  }
  controller::SiteDirectory directory_;
  std::mutex mutex_;
  std::set<std::string> members_;
};

TEST(ManyAgents, SharingAmongThemselvesTheyTakeAboutOneReleaseFromTheController) {
  SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup", "swtpm_localca");
  ::setenv("TSS2_LOG", "all+NONE", 1);
  const int count = AgentCount();
  Site site;
  Machines machines;
  for (int i = 0; i < count; ++i) {
    machines.push_back(std::make_unique<Machine>());
    machines.back()->Prepare(
        i == 0 ? nullptr : machines.front().get(), "",
        fmt::format("[share]\nlisten = '{}:7445'\n", LoopbackAddress(i + 1 == count ? 0 : i)), &site);
    ASSERT_FALSE(testing::Test::HasFatalFailure());
  }
  site.node_cas = machines.front()->NodeCaPem();
  // The last one can serve nobody: were it the first to ask, it would fetch a release for itself alone.
  const auto agents = StartTogether(machines, [&site] { return site.asked > 0; });
  AwaitStaged(machines);
  ASSERT_FALSE(testing::Test::HasFatalFailure());
  std::uint64_t release_bytes = 0;
  for (const auto& [digest, bytes] : machines.front()->content()) release_bytes += bytes.size();
  const std::uint64_t left = ExpectAllHaveIt(machines);
  EXPECT_GE(left, release_bytes);
  EXPECT_LE(static_cast<double>(left), 1.2 * static_cast<double>(release_bytes));
  for (const auto& machine : machines) {
    if (testing::Test::HasFailure() && machine->BytesFromController() > release_bytes / 10) {
      std::cout << machine->Told() << "\n";
    }
  }
  std::cout << fmt::format("{} agents: {:.2f} releases left the controllers\n", count,
                           static_cast<double>(left) / static_cast<double>(release_bytes));
  // The first and the last want one address: who comes second takes what it needs and serves nobody.
  std::size_t listening = 0;
  for (const auto& agent : agents) {
    listening += Listening(agent->pid());
    EXPECT_EQ(agent->End(SIGTERM), 0);
  }
  EXPECT_EQ(listening, agents.size() - 1);
}

}  // namespace
}  // namespace sealift::agent
