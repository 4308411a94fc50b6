// The agent as a process: real TPM (swtpm), real gRPC on loopback, real signatures, an ESP in a folder. It is
// killed whenever it changes its state, and must end where it was told to go.
#include "tests/integration/node-agent/app/agent_process.h"

#include <algorithm>

namespace sealift::agent {
namespace {

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

// The firmware tried other boot options; the controller knows it by the quote.
TEST_F(AgentProcess, CuresADegradedBootByOneReboot) {
  fs::create_directories(root() / "dmi");
  Put("dmi/sys_vendor", AsBytes("Maker \n"));
  Put("dmi/product_name", AsBytes("R740\n"));
  Put("dmi/bios_version", AsBytes("2.1\n"));
  WriteConfig("/proc", "", fmt::format("dmi = '{}'\n", (root() / "dmi").string()));
  {
    const auto lock = controller_->Lock();
    controller_->answers.check_in.clear_desired();
    controller_->answers.check_in.set_reboot_to_cure(true);
  }
  const auto check_ins = [&] {
    const auto lock = controller_->Lock();
    return controller_->seen.check_ins.size();
  };
  const auto hear = [&](std::size_t more) {
    const std::size_t now = check_ins();
    return Eventually([&] { return check_ins() >= now + more; });
  };
  auto process = Start();
  ASSERT_TRUE(Eventually([&] { return fs::exists(root() / "rebooted"); }));
  EXPECT_TRUE(fs::exists(root() / "state/boot-cure"));
  // Asked again in the same boot, by this process and by the next, it stays.
  fs::remove(root() / "rebooted");
  ASSERT_TRUE(hear(2));
  EXPECT_EQ(process->End(SIGTERM), 0);
  process = Start();
  ASSERT_TRUE(hear(2));
  EXPECT_FALSE(fs::exists(root() / "rebooted"));
  EXPECT_EQ(process->End(SIGTERM), 0);

  // It did not help: still degraded in the next boot. Once is enough.
  Boot("active.conf", "1.0");
  process = Start();
  ASSERT_TRUE(hear(2));
  EXPECT_FALSE(fs::exists(root() / "rebooted"));
  EXPECT_TRUE(fs::exists(root() / "state/boot-cure"));

  // A boot that is trusted and clean makes it forget; the next degraded one is cured again.
  {
    const auto lock = controller_->Lock();
    controller_->answers.check_in.set_reboot_to_cure(false);
  }
  ASSERT_TRUE(hear(2));
  EXPECT_TRUE(fs::exists(root() / "state/boot-cure"));
  {
    const auto lock = controller_->Lock();
    controller_->answers.want_quote = true;
  }
  ASSERT_TRUE(Eventually([&] {
    const auto lock = controller_->Lock();
    return controller_->seen.trusted_quotes > 0;
  }));
  {
    const auto lock = controller_->Lock();
    controller_->answers.want_quote = false;
    ASSERT_TRUE(controller_->seen.hardware.has_value());
    EXPECT_EQ(controller_->seen.hardware->vendor(), "Maker");
    EXPECT_EQ(controller_->seen.hardware->product(), "R740");
    EXPECT_EQ(controller_->seen.hardware->firmware_version(), "2.1");
  }
  ASSERT_TRUE(Eventually([&] { return !fs::exists(root() / "state/boot-cure"); }));
  {
    const auto lock = controller_->Lock();
    controller_->answers.check_in.set_reboot_to_cure(true);
  }
  EXPECT_TRUE(Eventually([&] { return fs::exists(root() / "rebooted"); }));
}

TEST_F(AgentProcess, ADegradedBootWaitsForTheUpdateUnderWayAndForTheStatePartition) {
  {
    const auto lock = controller_->Lock();
    controller_->answers.check_in.set_reboot_to_cure(true);
    auto& content = controller_->answers.content;
    content.erase(std::ranges::max_element(content, {}, [](const auto& one) { return one.second.size(); }));
  }
  auto process = Start();
  // It cannot fetch the image, the largest object there is, and goes on trying.
  ASSERT_TRUE(Eventually([&] { return State() == "FETCHING"; }));
  const auto check_ins = [&] {
    const auto lock = controller_->Lock();
    return controller_->seen.check_ins.size();
  };
  const std::size_t now = check_ins();
  ASSERT_TRUE(Eventually([&] { return check_ins() >= now + 3; }));
  EXPECT_FALSE(fs::exists(root() / "rebooted"));
  EXPECT_FALSE(fs::exists(root() / "state/boot-cure"));
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

// Longer than its certificate lives: nobody has to help it back.
TEST_F(AgentProcess, ComesBackByItselfAfterAnOutageThatOutlivesItsCertificate) {
  const auto set_away = [&](bool away) {
    const auto lock = controller_->Lock();
    controller_->answers.check_in.clear_desired();
    controller_->answers.certificate_life = seconds(3);
    controller_->answers.enrolment_away = away;
    controller_->answers.refuse =
        away ? MakeError(Code::kUnavailable, Reason::kPeerUnreachable, "call: away") : OkStatus();
  };
  const auto not_after = [&] {
    nlohmann::json shown = Shown();
    if (!shown.is_object() || !shown["certificate_not_after"].is_string()) return UnixMillis();
    return ParseRfc3339(shown["certificate_not_after"].get<std::string>()).value_or(UnixMillis());
  };
  set_away(false);
  auto process = Start();
  ASSERT_TRUE(
      Eventually([&] { return Shown().is_object() && Shown().value("controller_reachable", false); }));
  set_away(true);
  ASSERT_TRUE(Eventually([&] {
    return not_after() != UnixMillis() && not_after() < SystemClock().Now() &&
           !Shown().value("controller_reachable", true);
  }));
  set_away(false);
  ASSERT_TRUE(Eventually(
      [&] { return not_after() > SystemClock().Now() && Shown().value("controller_reachable", false); }));
  EXPECT_EQ(process->End(SIGTERM), 0);
}

TEST_F(AgentProcess, BringsTheJoinTokenItWasGivenAndForgetsItOnceItIsIn) {
  {
    const auto lock = controller_->Lock();
    controller_->answers.check_in.clear_desired();
    controller_->answers.enrolment = v1::CompleteResponse::PENDING;
    controller_->answers.enrolment_reason = "EK_NOT_LISTED";
  }
  const auto joined = RunCommand({.argv = {kAgent, "join", "--config", (root() / "node.toml").string()},
                                  .stdin_text = "sealift-join-1234\n"});
  ASSERT_TRUE(joined.ok());
  ASSERT_EQ(joined->exit_code, 0) << joined->err;
  auto process = Start();
  ASSERT_TRUE(Eventually([&] { return Shown().is_object() && Shown().value("enrolment", "") == "pending"; }));
  {
    const auto lock = controller_->Lock();
    EXPECT_EQ(controller_->seen.join_token, "sealift-join-1234");
    controller_->answers.enrolment = v1::CompleteResponse::ISSUED;
  }
  EXPECT_TRUE(fs::exists(root() / "state/join-token"));
  ASSERT_TRUE(Eventually([&] { return Shown().value("controller_reachable", false); }));
  EXPECT_FALSE(fs::exists(root() / "state/join-token"));
  EXPECT_EQ(process->End(SIGTERM), 0);
  EXPECT_EQ(ReadTextFile(root() / "agent.log").value().find("sealift-join-1234"), std::string::npos);
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

// The image has encrypted volumes and nobody says what became of them: whether the next one opens them cannot
// be told.
TEST_F(AgentProcess, ArmsNothingWithoutWordOfTheEarlyBoot) {
  fs::remove(root() / "run/volumes.json");
  auto process = Start();
  ASSERT_TRUE(Eventually([&] { return !ReasonTold("2.0").empty(); })) << State();
  EXPECT_EQ(ReasonTold("2.0"), "VOLUME_WOULD_STAY_LOCKED");
  EXPECT_FALSE(fs::exists(root() / "efi/loader/entries/active+3.conf"));
  EXPECT_FALSE(fs::exists(root() / "rebooted"));
}

TEST_F(AgentProcess, SaysEverythingThatIsWrongWithItsConfiguration) {
  Put("bad.toml", AsBytes("[controller]\naddress = 'nowhere'\nsurprise = 1\n[update]\nboot_tries = 0\n"
                          "[share]\nlisten = '0.0.0.0:22'\naddress = 'host:7445'\nmaximum_rate = 1000\n"));
  const auto checked =
      RunCommand({.argv = {kAgent, "run", "--check-config", "--config", (root() / "bad.toml").string()}});
  ASSERT_TRUE(checked.ok());
  EXPECT_EQ(checked->exit_code, 1);
  for (const char* path :
       {"controller.address", "controller.enrolment_address", "controller.ca_pem", "controller.surprise",
        "tuf.root_json", "update.boot_tries", "share.listen", "share.address", "share.maximum_rate"}) {
    EXPECT_NE(checked->err.find(path), std::string::npos) << path << " in " << checked->err;
  }
  // It would be found out when a recovery key is made, with the disk already wiped.
  WriteConfig("/proc", "[escrow]\npublic_pem = '''\n" +
                           SoftwareSigner::Generate(KeyType::kEcP256).value()->public_key().Pem() + "'''\n");
  const auto unusable =
      RunCommand({.argv = {kAgent, "run", "--check-config", "--config", (root() / "node.toml").string()}});
  ASSERT_TRUE(unusable.ok());
  EXPECT_EQ(unusable->exit_code, 1);
  EXPECT_NE(unusable->err.find("escrow.public_pem: must be an RSA key"), std::string::npos) << unusable->err;
  WriteConfig();
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
