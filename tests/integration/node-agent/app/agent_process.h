// The agent as a process with all around it: real TPM (swtpm), real gRPC on loopback, an ESP in a folder.
#pragma once

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

namespace fs = std::filesystem;
using std::chrono::seconds;

inline const std::string kAgent = std::string(SEALIFT_BIN_DIR) + "/sealift-agent";

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
  pid_t pid() const { return pid_; }
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
  Bytes Image(const std::string& version, const test::TestKey* signer) const {
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
    fs::create_directories(root() / "run");
    // What an early boot leaves that found no disk.
    Put("run/volumes.json", AsBytes(R"({"volumes":[],"missing":{},"reset":""})"));
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
  // `more`: tables that end it.
  // `node`: lines of the table [node].
  void WriteConfig(const std::string& state_mount = "/proc", const std::string& more = "",
                   const std::string& node = "") {
    const ControllerAddress address = controller_->Address();
    Put("node.toml",
        AsBytes(fmt::format(
            "[controller]\naddress = '{}'\nenrolment_address = '{}'\nca_pem = '''\n{}'''\n"
            "[tuf]\nroot_json = '''{}'''\n"
            "[node]\nlabels = {{ site = 'lab' }}\nos_release = '{}'\nbuild_time = '{}'\nboot_id = '{}'\n{}"
            "[update]\nreboot_command = 'touch {}'\nretry_after_s = 1\n"
            "[health]\nphase = false\nvolumes = false\nboot_complete = false\nfailed_units = false\ncommands "
            "= ['true']\n"
            "[esp]\npath = '{}'\nefivars = '{}'\n"
            "[state]\npath = '{}'\nmount = '{}'\nruntime = '{}'\n"
            "[tpm]\ntcti = '{}'\nevent_log = '{}'\n{}",
            address.node, address.enrolment, address.ca_pem, repository_.FirstRoot(),
            (root() / "os-release").string(), (root() / "built").string(), (root() / "boot-id").string(),
            node, (root() / "rebooted").string(), (root() / "efi").string(), (root() / "efivars").string(),
            (root() / "state").string(), state_mount, (root() / "run").string(), swtpm_->tcti(),
            (root() / "boot-id").string(), more)));
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

}  // namespace sealift::agent
