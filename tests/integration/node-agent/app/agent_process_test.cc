// The agent as a process: real TPM (swtpm), real gRPC on loopback, real signatures, an ESP in a folder. It is
// killed whenever it changes its state, and must end where it was told to go.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>
#include <tuple>

#include "node-agent/esp/boot_entries.h"
#include "node-agent/esp/efi_variables.h"
#include "node-agent/esp/esp_stager.h"
#include "shared/efi/authenticode.h"
#include "shared/efi/signature_list.h"
#include "shared/release/release_targets.h"
#include "tests/support/places.h"
#include "tests/support/swtpm.h"
#include "tests/support/synthetic_pe.h"
#include "tests/support/test_controller.h"
#include "tests/support/test_keys.h"
#include "tests/unit/shared/tuf/test_repository.h"

namespace sealift::agent {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

const std::string kAgent = std::string(SEALIFT_BIN_DIR) + "/sealift-agent";

class Process {
 public:
  explicit Process(const fs::path& config, const fs::path& log) {
    std::vector<std::string> argv{kAgent, "run", "--config", config.string()};
    std::vector<char*> pointers;
    for (std::string& word : argv) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    EXPECT_EQ(::posix_spawn(&pid_, kAgent.c_str(), &actions, nullptr, pointers.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Process() {
    if (pid_ > 0) End(SIGKILL);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  // The exit code, or minus the signal that ended it.
  int End(int signal_number) {
    ::kill(pid_, signal_number);
    return Wait();
  }
  int Wait() {
    int state = 0;
    while (::waitpid(pid_, &state, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return WIFEXITED(state) ? WEXITSTATUS(state) : -WTERMSIG(state);
  }

 private:
  pid_t pid_ = -1;
};

class AgentProcess : public testing::Test {
 protected:
  void SetUp() override {
    SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup", "swtpm_localca");
    ::setenv("TSS2_LOG", "all+NONE", 1);
    swtpm_ = test::Swtpm::Start({.ek_certificate = true});
    controller_ = std::make_unique<test::TestController>();
    for (const char* folder : {"efi/loader/entries", "efi/EFI/kairos", "efivars", "run", "state"}) {
      fs::create_directories(root() / folder);
    }
    db_ = test::MakeTestKey("db");
    pcr_ = test::MakeTestKey("pcr");
    const efi::SignatureLists lists = {efi::X509SignatureList(efi::kGlobalVariable, db_.certificate)};
    PutVariable("db", kImageSecurityVendor, efi::SerializeSignatureLists(lists));
    PutVariable("SecureBoot", kGlobalVendor, {1});
    old_image_ = Image("1.0", &db_);
    new_image_ = Image("2.0", &db_);
    PutImage("1.0", old_image_);
    PutEntry("active.conf", BootRole::kActive, "1.0", old_image_);
    PutEntry("passive.conf", BootRole::kPassive, "1.0", old_image_);
    Boot("active.conf", "1.0");
    PublishRelease("2.0", new_image_);
    WriteConfig();
  }
  void TearDown() override {
    if (HasFailure()) std::cout << ReadTextFile(root() / "agent.log").value_or("(no log)") << "\n";
  }

  fs::path root() const { return temp_.path(); }
  void Put(const fs::path& path, ByteView bytes) {
    ASSERT_TRUE(WriteFileAtomically(root() / path, bytes).ok());
  }
  void PutVariable(std::string_view name, std::string_view vendor, const Bytes& value) {
    Bytes content = {7, 0, 0, 0};
    Append(content, value);
    Put(fmt::format("efivars/{}-{}", name, vendor), content);
  }
  Bytes Image(const std::string& version, const test::TestKey* signer) {
    test::SyntheticPe pe;
    pe.sections = {{".osrel", "IMAGE_VERSION=" + version + "\n"},
                   {".linux", std::string(300'000, 'k') + version},
                   {".pcrpkey", pcr_.signer->public_key().Pem()}};
    if (signer == nullptr) return pe.Build();
    return efi::SignImage(pe.Build(), *signer->signer, signer->certificate, "test").value().bytes;
  }
  void PutImage(const std::string& version, const Bytes& image) {
    Put("efi/" + ImageFilePath(version, Sha256(image)), image);
  }
  void PutEntry(const std::string& name, BootRole role, const std::string& version, const Bytes& image) {
    Put("efi/loader/entries/" + name,
        AsBytes(FormatEntry({.title = "Test",
                             .role = role,
                             .version = version,
                             .image_path = "/" + ImageFilePath(version, Sha256(image))})));
  }
  // The machine starts: firmware chose `entry`, whose image is of `version`.
  void Boot(const std::string& entry, const std::string& version) {
    Bytes text = Utf16Le(entry);
    text.insert(text.end(), 2, 0);
    PutVariable("LoaderEntrySelected", kLoaderVendor, text);
    Put("built", AsBytes("2026-01-01T00:00:00Z\n"));
    Put("os-release", AsBytes("IMAGE_VERSION=" + version + "\n"));
    Put("boot-id", AsBytes(fmt::format("boot-{}\n", ++boots_)));
    fs::remove_all(root() / "run");
    fs::remove(root() / "rebooted");
  }

  // Signed metadata lists the release, the controller has its content and wants it to run.
  void PublishRelease(const std::string& version, const Bytes& image) {
    const auto parsed = efi::PeImage::Parse(image);
    Manifest manifest{
        .channel = "stable",
        .version = version,
        .minimum_agent_version = "0.0.1",
        .hardware_class = "generic-x86_64",
        .built = SystemClock().Now(),
        .files = {{.path = "EFI/kairos/norole.efi",
                   .role = FileRole::kUki,
                   .digest = Sha256(image),
                   .size = image.size(),
                   .authenticode = parsed.ok() ? efi::AuthenticodeDigest(*parsed) : Sha256(image)}},
        .pcr11 = {{.phase = "", .pcr11 = Sha256({})}},
        .stub_version = "252",
        .secure_boot_certificates = {Sha256(db_.certificate)},
        .pcr_keys = {pcr_.signer->public_key().key_id()}};
    const std::string json = SerializeManifest(manifest);
    ASSERT_TRUE(ParseManifest(json).ok()) << Describe(ParseManifest(json).status());
    for (const auto& [name, target] : TargetsOfRelease(manifest, json, manifest.built)) {
      repository_.targets.targets[name] = target;
    }
    repository_.timestamp.signed_at = SystemClock().Now();
    repository_.PublishNext();
    const auto lock = controller_->Lock();
    controller_->answers.metadata = repository_.source.files;
    controller_->answers.content[Sha256(AsBytes(json))] = ToBytes(json);
    controller_->answers.content[Sha256(image)] = image;
    controller_->answers.check_in.set_poll_after_ms(100);
    controller_->answers.check_in.mutable_desired()->set_channel("stable");
    controller_->answers.check_in.mutable_desired()->set_version(version);
    controller_->answers.check_in.mutable_desired()->set_release_id(ToText(Sha256(AsBytes(json)).view()));
  }
  // The reason that the controller was told for giving up `version`; empty when it was told none.
  std::string ReasonTold(const std::string& version) {
    const auto lock = controller_->Lock();
    for (const v1::ReportRequest& report : controller_->seen.reports) {
      if (report.version() == version && !report.reason().empty()) return report.reason();
    }
    return "";
  }

  // `/proc` is a mounted file system on every Linux; the state itself lies in the test's folder.
  void WriteConfig(const std::string& state_mount = "/proc") {
    const ControllerAddress address = controller_->Address();
    Put("node.toml",
        AsBytes(fmt::format(
            "[controller]\naddress = '{}'\nenrolment_address = '{}'\nca_pem = '''\n{}'''\n"
            "[tuf]\nroot_json = '''{}'''\n"
            "[node]\nlabels = {{ site = 'lab' }}\nos_release = '{}'\nbuild_time = '{}'\nboot_id = '{}'\n"
            "[update]\nreboot_command = 'touch {}'\nretry_after_s = 1\n"
            "[health]\ncommands = ['true']\n"
            "[esp]\npath = '{}'\nefivars = '{}'\n"
            "[state]\npath = '{}'\nmount = '{}'\nruntime = '{}'\n"
            "[tpm]\ntcti = '{}'\nevent_log = '{}'\n",
            address.node, address.enrolment, address.ca_pem, repository_.FirstRoot(),
            (root() / "os-release").string(), (root() / "built").string(), (root() / "boot-id").string(),
            (root() / "rebooted").string(), (root() / "efi").string(), (root() / "efivars").string(),
            (root() / "state").string(), state_mount, (root() / "run").string(), swtpm_->tcti(),
            (root() / "boot-id").string())));
  }
  std::unique_ptr<Process> Start() {
    return std::make_unique<Process>(root() / "node.toml", root() / "agent.log");
  }
  nlohmann::json Shown() const {
    const auto text = ReadTextFile(root() / "run/status.json");
    return text.ok() ? nlohmann::json::parse(*text, nullptr, false) : nlohmann::json();
  }
  std::string State() const {
    const nlohmann::json shown = Shown();
    return shown.is_object() ? shown.value("state", "") : "";
  }
  // Waits for a condition, not for a time.
  template <typename Condition>
  bool Eventually(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + seconds(60);
    while (std::chrono::steady_clock::now() < deadline) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return false;
  }

  // Each entry names a whole image, and one of them is not used up.
  void ExpectBootable(const std::string& where) {
    PosixFileSystem esp(root() / "efi");
    auto disk = LoadBootEntries(esp);
    ASSERT_TRUE(disk.ok()) << where;
    bool bootable = false;
    for (const RoleEntry& entry : disk->entries) {
      auto measured = esp.Measure(RelativePath(entry.image_path));
      ASSERT_TRUE(measured.ok()) << where << ": " << entry.file_name;
      EXPECT_EQ(measured->digest, Sha256(entry.version == "2.0" ? new_image_ : old_image_)) << where;
      bootable = bootable || !entry.exhausted();
    }
    EXPECT_TRUE(bootable) << where;
  }

  TempDir temp_ = TempDir::Create("sealift-agent").value();
  std::unique_ptr<test::Swtpm> swtpm_;
  std::unique_ptr<test::TestController> controller_;
  tuf::TestRepository repository_;
  test::TestKey db_;
  test::TestKey pcr_;
  Bytes old_image_;
  Bytes new_image_;
  int boots_ = 0;
};

TEST_F(AgentProcess, UpgradesThoughItIsKilledAtEveryChangeOfState) {
  std::set<std::string> killed_in;
  for (int lives = 0; lives < 40 && !fs::exists(root() / "rebooted"); ++lives) {
    auto process = Start();
    std::string state;
    ASSERT_TRUE(Eventually([&] {
      state = State();
      return fs::exists(root() / "rebooted") || (!state.empty() && !killed_in.contains(state));
    })) << "stuck in "
        << state;
    EXPECT_EQ(process->End(SIGKILL), -SIGKILL);
    killed_in.insert(state);
    ExpectBootable("killed in " + state);
    // A process behind /dev/tpmrm0 leaves nothing in the TPM; here there is no such manager.
    swtpm_->PowerCycle();
    WriteConfig();
  }
  EXPECT_GE(killed_in.size(), 3u);
  ASSERT_TRUE(fs::exists(root() / "rebooted"));
  ASSERT_TRUE(fs::exists(root() / "efi/loader/entries/active+3.conf"));

  // What the boot loader does.
  fs::rename(root() / "efi/loader/entries/active+3.conf", root() / "efi/loader/entries/active+2-1.conf");
  Boot("active+3.conf", "2.0");
  auto process = Start();
  ASSERT_TRUE(Eventually([&] { return fs::exists(root() / "efi/loader/entries/active.conf"); }));
  ASSERT_TRUE(Eventually([&] { return State() == "IDLE"; })) << State();
  EXPECT_EQ(process->End(SIGTERM), 0);
  ExpectBootable("blessed");
  const auto lock = controller_->Lock();
  const auto blessed = std::find_if(controller_->seen.reports.begin(), controller_->seen.reports.end(),
                                    [](const auto& report) { return report.state() == v1::ASSESSING; });
  ASSERT_NE(blessed, controller_->seen.reports.end());
  EXPECT_EQ(blessed->version(), "2.0");
  EXPECT_EQ(controller_->seen.check_ins.back().running().version(), "2.0");
}

// Signed metadata is no excuse: the firmware would not start these images, so they never reach the ESP.
TEST_F(AgentProcess, RefusesBadImagesWithTheirReasonsAndLeavesTheEspAlone) {
  const test::TestKey other = test::MakeTestKey("other db");
  Bytes tampered = Image("2.2", &db_);
  tampered[efi::PeImage::Parse(tampered)->sections()[1].raw_offset + 5] ^= 1;
  const Bytes whole = Image("2.4", &db_);
  const Bytes truncated(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(whole.size() / 2));
  const std::vector<std::tuple<std::string, Bytes, std::string>> bad = {
      {"2.1", Image("2.1", nullptr), "IMAGE_UNSIGNED"},
      {"2.2", tampered, "IMAGE_SIGNATURE_INVALID"},
      {"2.3", Image("2.3", &other), "IMAGE_SIGNER_UNKNOWN"},
      {"2.4", truncated, "IMAGE_TRUNCATED"},
  };
  const auto entries_before = fs::last_write_time(root() / "efi/loader/entries");
  const auto images_before = fs::last_write_time(root() / "efi/EFI/kairos");
  std::unique_ptr<Process> process;
  for (const auto& [version, image, reason] : bad) {
    PublishRelease(version, image);
    if (process == nullptr) process = Start();
    ASSERT_TRUE(Eventually([&] { return !ReasonTold(version).empty(); })) << version << " " << State();
    EXPECT_EQ(ReasonTold(version), reason) << version;
  }
  ASSERT_TRUE(Eventually([&] { return Shown().is_object() && Shown().at("failures").size() == bad.size(); }));
  EXPECT_EQ(process->End(SIGTERM), 0);
  EXPECT_EQ(fs::last_write_time(root() / "efi/loader/entries"), entries_before);
  EXPECT_EQ(fs::last_write_time(root() / "efi/EFI/kairos"), images_before);
  EXPECT_FALSE(fs::exists(root() / "rebooted"));
  ExpectBootable("bad images");
}

TEST_F(AgentProcess, AttestsWhenAskedAndShowsIt) {
  {
    const auto lock = controller_->Lock();
    controller_->answers.check_in.clear_desired();
    controller_->answers.want_quote = true;
  }
  auto process = Start();
  ASSERT_TRUE(
      Eventually([&] { return Shown().is_object() && Shown().value("attestation", "") == "trusted"; }));
  const auto shown =
      RunCommand({.argv = {kAgent, "status", "-o", "json", "--runtime", (root() / "run").string()}});
  ASSERT_TRUE(shown.ok());
  EXPECT_EQ(shown->exit_code, 0) << shown->err;
  const nlohmann::json json = nlohmann::json::parse(shown->out);
  EXPECT_EQ(json.at("enrolment"), "enrolled");
  EXPECT_EQ(json.at("running").at("version"), "1.0");
  EXPECT_EQ(json.at("running").at("role"), "active");

  // A second agent keeps its hands off.
  Process second(root() / "node.toml", root() / "second.log");
  EXPECT_EQ(second.Wait(), 1);
  EXPECT_NE(ReadTextFile(root() / "second.log").value().find("AGENT_RUNNING"), std::string::npos);
  EXPECT_EQ(process->End(SIGTERM), 0);
  const auto gone = RunCommand({.argv = {kAgent, "status", "--runtime", (root() / "run").string()}});
  ASSERT_TRUE(gone.ok());
  EXPECT_EQ(gone->exit_code, 3);
}

TEST_F(AgentProcess, WaitsForAdmissionAndForALostController) {
  {
    const auto lock = controller_->Lock();
    controller_->answers.check_in.clear_desired();
    controller_->answers.enrolment = v1::CompleteResponse::PENDING;
    controller_->answers.enrolment_reason = "EK_NOT_ADMITTED";
  }
  auto process = Start();
  ASSERT_TRUE(Eventually([&] { return Shown().is_object() && Shown().value("enrolment", "") == "pending"; }));
  {
    const auto lock = controller_->Lock();
    controller_->answers.enrolment = v1::CompleteResponse::ISSUED;
  }
  ASSERT_TRUE(Eventually([&] { return Shown().value("controller_reachable", false); }));
  {
    const auto lock = controller_->Lock();
    controller_->answers.refuse = MakeError(Code::kUnavailable, Reason::kPeerUnreachable, "call: away");
  }
  ASSERT_TRUE(Eventually([&] { return !Shown().value("controller_reachable", true); }));
  {
    const auto lock = controller_->Lock();
    controller_->answers.refuse = OkStatus();
  }
  ASSERT_TRUE(Eventually([&] { return Shown().value("controller_reachable", false); }));
  EXPECT_EQ(process->End(SIGINT), 0);
  ExpectBootable("after an outage");
}

TEST_F(AgentProcess, WithoutTheStatePartitionItReportsAndChangesNothing) {
  WriteConfig((root() / "state").string());  // nothing is mounted there
  const auto before = fs::last_write_time(root() / "efi/loader/entries");
  auto process = Start();
  ASSERT_TRUE(Eventually([&] {
    const auto lock = controller_->Lock();
    return controller_->seen.check_ins.size() >= 3;
  }));
  EXPECT_EQ(process->End(SIGTERM), 0);
  const auto lock = controller_->Lock();
  EXPECT_EQ(controller_->seen.check_ins.back().state(), v1::STATE_MISSING);
  EXPECT_EQ(controller_->seen.check_ins.back().running().version(), "1.0");
  EXPECT_EQ(fs::last_write_time(root() / "efi/loader/entries"), before);
  EXPECT_TRUE(fs::is_empty(root() / "state"));
}

TEST_F(AgentProcess, SaysEverythingThatIsWrongWithItsConfiguration) {
  Put("bad.toml", AsBytes("[controller]\naddress = 'nowhere'\nsurprise = 1\n[update]\nboot_tries = 0\n"));
  const auto checked =
      RunCommand({.argv = {kAgent, "run", "--check-config", "--config", (root() / "bad.toml").string()}});
  ASSERT_TRUE(checked.ok());
  EXPECT_EQ(checked->exit_code, 1);
  for (const char* path : {"controller.address", "controller.enrolment_address", "controller.ca_pem",
                           "controller.surprise", "tuf.root_json", "update.boot_tries"}) {
    EXPECT_NE(checked->err.find(path), std::string::npos) << path << " in " << checked->err;
  }
  const auto good =
      RunCommand({.argv = {kAgent, "run", "--check-config", "--config", (root() / "node.toml").string()}});
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(good->exit_code, 0) << good->err;
  const auto usage = RunCommand({.argv = {kAgent, "dance"}});
  ASSERT_TRUE(usage.ok());
  EXPECT_EQ(usage->exit_code, 2);
}

}  // namespace
}  // namespace sealift::agent
