// Many agents, each a process with its own TPM and empty store, started at once behind one nginx cache: what
// leaves the controller is about one release. 8 of them, or as many as SEALIFT_AGENTS says.
#include <random>

#include "tests/integration/node-agent/app/agent_process.h"
#include "tests/support/nginx.h"

namespace sealift::agent {
namespace {

constexpr std::size_t kImageBytes = 6u << 20;

// One of the machines: they share the keys of their image and the release, nothing else.
class Machine final : public AgentProcess {
 public:
  void TestBody() override {}

  void Prepare(const Machine* first, const std::string& mirror) {
    swtpm_ = test::Swtpm::Start({.ek_certificate = true});
    controller_ = std::make_unique<test::TestController>();
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
    WriteConfig();
    std::string config = ReadTextFile(root() / "node.toml").value();
    const std::string table = "[update]\n";
    config.insert(config.find(table) + table.size(), "mirrors = ['" + mirror + "']\n");
    Put("node.toml", AsBytes(config));
  }

  using AgentProcess::ExpectBootable;
  using AgentProcess::Start;
  const std::map<Sha256Digest, Bytes>& content() const { return controller_->answers.content; }
  bool Staged() const { return fs::exists(root() / "rebooted"); }
  Bytes StagedImage() const {
    return ReadFile(root() / "efi" / ImageFilePath("2.0", Sha256(new_image_))).value_or(Bytes());
  }
  const Bytes& new_image() const { return new_image_; }
  // What it took from its controller over gRPC, as if each stream had gone to its end.
  std::uint64_t BytesFromController() {
    const auto lock = controller_->Lock();
    return controller_->seen.offsets.size() * new_image_.size();
  }
  std::string Told() const {
    return State() + "\n" + ReadTextFile(root() / "agent.log").value_or("(no log)");
  }

 private:
  Bytes LargeImage(const std::string& version) {
    std::mt19937 random(7);
    std::string kernel(kImageBytes, 0);
    for (char& c : kernel) c = static_cast<char>(random());
    test::SyntheticPe pe;
    pe.sections = {{".osrel", "IMAGE_VERSION=" + version + "\n"},
                   {".linux", kernel},
                   {".pcrpkey", pcr_.signer->public_key().Pem()}};
    return efi::SignImage(pe.Build(), *db_.signer, db_.certificate, "test").value().bytes;
  }
};

TEST(ManyAgents, BehindOneCacheTheyTakeAboutOneReleaseFromTheController) {
  SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup", "swtpm_localca", "nginx");
  ::setenv("TSS2_LOG", "all+NONE", 1);
  const char* text = std::getenv("SEALIFT_AGENTS");
  const int count = text == nullptr ? 8 : std::atoi(text);
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
  std::vector<std::unique_ptr<Machine>> machines;
  for (int i = 0; i < count; ++i) {
    machines.push_back(std::make_unique<Machine>());
    machines.back()->Prepare(i == 0 ? nullptr : machines.front().get(),
                             fmt::format("http://127.0.0.1:{}", cache_port));
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

  const auto began = std::chrono::steady_clock::now();
  std::vector<std::unique_ptr<Process>> agents;
  for (const auto& machine : machines) agents.push_back(machine->Start());
  EXPECT_LE(std::chrono::steady_clock::now() - began, seconds(10));
  const auto give_up = began + seconds(60 + 10 * count);
  for (const auto& machine : machines) {
    while (!machine->Staged() && std::chrono::steady_clock::now() < give_up)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ASSERT_TRUE(machine->Staged()) << machine->Told();
  }
  std::uint64_t left = origin.BytesSent();
  for (const auto& machine : machines) {
    // Nothing is staged but what proved itself; here it is the release itself, byte by byte.
    EXPECT_EQ(Sha256(machine->StagedImage()), Sha256(machine->new_image()));
    machine->ExpectBootable("staged");
    left += machine->BytesFromController();
  }
  EXPECT_GE(left, release_bytes);
  EXPECT_LE(static_cast<double>(left), 1.2 * static_cast<double>(release_bytes));
  std::cout << fmt::format("{} agents: {:.2f} releases left the controller\n", count,
                           static_cast<double>(left) / static_cast<double>(release_bytes));
  for (const auto& agent : agents) EXPECT_EQ(agent->End(SIGTERM), 0);
}

}  // namespace
}  // namespace sealift::agent
