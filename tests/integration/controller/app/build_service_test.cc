// Builds by a daemon whose release keys are in a token: as an operator orders them at his shell.
#include <algorithm>
#include <fstream>

#include "tests/integration/controller/app/daemon_fixture.h"
#include "tests/support/os_tree.h"

namespace sealift {
namespace {

using nlohmann::json;

constexpr char kMoment[] = "1767225600";

class BuildServiceTest : public DaemonTest {
 protected:
  void SetUp() override {
    DaemonTest::SetUp();
    std::filesystem::create_directories(Path("images"));
    std::filesystem::create_directory_symlink(os_.path(), Path("images/elsewhere"));
    std::filesystem::copy(
        os_.path(), Path("images/os"),
        std::filesystem::copy_options::recursive | std::filesystem::copy_options::copy_symlinks);
    OfferBuilds({"release"}, 4);
  }
  void OfferBuilds(const std::vector<std::string>& groups, int max_waiting) {
    std::string list;
    for (const std::string& group : groups)
      list += (list.empty() ? "\"" : ", \"") + group + "=" + tokens_[group] + "\"";
    more_config_ = "[build]\ntokens = [" + list + "]\noutput = \"builds\"\nsources = [\"" + Path("images") +
                   "\", \"docker://registry.example/team\"]\nmax_waiting = " + std::to_string(max_waiting) +
                   "\n";
  }

  std::vector<std::string> There(const std::string& profile, const std::vector<std::string>& more) {
    std::vector<std::string> argv = {kSealift, "build-uki", "--at-controller", "--profile", profile};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }
  static CommandOutput Run(const std::vector<std::string>& argv) {
    const auto output = RunCommand({.argv = argv,
                                    .environment = {{"SOURCE_DATE_EPOCH", kMoment}},
                                    .timeout = std::chrono::seconds(120)});
    return output.ok() ? *output : CommandOutput{.exit_code = -1, .err = Describe(output.status())};
  }
  std::string Refusal(const std::string& profile, const std::vector<std::string>& more) {
    std::vector<std::string> argv = There(profile, more);
    argv.insert(argv.end(), {"-o", "json"});
    const CommandOutput output = Run(argv);
    EXPECT_NE(output.exit_code, 0);
    const json answer = json::parse(output.out, nullptr, false);
    return answer.is_discarded() ? output.out + output.err
                                 : answer["error"]["reason"].get<std::string>() + " " +
                                       answer["error"]["message"].get<std::string>();
  }
  std::map<std::string, std::string> Files(const std::string& folder) const {
    std::map<std::string, std::string> files;
    std::error_code error;
    for (const auto& item : std::filesystem::recursive_directory_iterator(Path(folder), error))
      if (item.is_regular_file())
        files[item.path().lexically_relative(Path(folder))] = ToText(ReadFile(item.path()).value());
    return files;
  }
  json Audit() {
    return json::parse(Sealift({"audit", "list", "-o", "json", "--profile", viewer_}))["entries"];
  }
  // Whether it holds within the test's patience.
  static bool Becomes(const std::function<bool()>& condition) {
    const auto give_up = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > give_up) return false;
      SystemClock().SleepFor(std::chrono::milliseconds(20), {});
    }
    return true;
  }
  bool LogSays(const std::string& log, const std::string& text) const {
    const auto read = ReadTextFile(Path(log));
    return read.ok() && read->find(text) != std::string::npos;
  }

  test::OsTree os_;
  std::string viewer_;
};

TEST_F(BuildServiceTest, GivesTheBytesOfALocalBuildAndTheJournalNamesTheOperator) {
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  viewer_ = Profile("viewer");
  const std::string operator_profile = Profile("operator");
  ASSERT_TRUE(WriteFileAtomically(Path("node.toml"), AsBytes("[update]\n")).ok());
  const std::vector<std::string> options = {"dir:" + Path("images/os"),
                                            "--single-efi-cmdline",
                                            "Debug: rd.debug",
                                            "--node-config",
                                            Path("node.toml"),
                                            "--zstd-level",
                                            "1"};
  std::vector<std::string> argv = There(operator_profile, options);
  argv.insert(argv.end(), {"-d", "1.2", "--publish", "stable", "-o", "json"});
  const CommandOutput built = Run(argv);
  ASSERT_EQ(built.exit_code, 0) << built.out << built.err << Log();
  const json result = json::parse(built.out);
  EXPECT_EQ(result["out"], Path("builds/1.2"));

  argv = {kSealift, "build-uki",  "-d",      Path("local"),
          "--keys", Path("keys"), "--token", "release=" + tokens_["release"],
          "-o",     "json"};
  argv.insert(argv.end(), options.begin(), options.end());
  const CommandOutput local = Run(argv);
  ASSERT_EQ(local.exit_code, 0) << local.out << local.err;
  const auto files = Files("builds/1.2");
  EXPECT_EQ(files.size(), 12u);
  EXPECT_TRUE(files == Files("local"));
  EXPECT_EQ(result["release"], json::parse(local.out)["release"]);
  EXPECT_EQ(result["findings"], json::parse(local.out)["findings"]);

  // Each use of a release key, with the person and the build; the targets as well.
  const std::string who = " for anna, build " + result["build"].get<std::string>();
  const json journal = json::parse(Sealift({"journal", "list", Path("state/journal"), "-o", "json"}));
  std::map<std::string, int> uses;
  for (const json& record : journal["records"]) {
    const std::string intent = record.value("intent", "");
    if (intent.find(who) != std::string::npos) ++uses[record["key"].get<std::string>()];
  }
  EXPECT_GE(uses["db-1"], 3) << journal.dump(1);
  EXPECT_GE(uses["pcr-1"], 1);
  EXPECT_EQ(uses["tuf-targets-1"], 1);

  const json releases = json::parse(Sealift({"release", "list", "-o", "json", "--profile", viewer_}));
  ASSERT_EQ(releases["releases"].size(), 1u);
  EXPECT_EQ(releases["releases"][0]["release_id"], result["published"]["release_id"]);
  const json audit = Audit();
  ASSERT_EQ(audit.size(), 1u);
  EXPECT_EQ(audit[0]["operator"], "anna");
  EXPECT_NE(audit[0]["request"].get<std::string>().find(result["build"].get<std::string>()),
            std::string::npos);

  // A version is published once; a medium is one file in its folder; preflight needs no name.
  argv = There(operator_profile, {options[0], "--publish", "stable", "-o", "json"});
  EXPECT_EQ(json::parse(Run(argv).out)["error"]["reason"], "RELEASE_EXISTS");
  const CommandOutput medium =
      Run(There(operator_profile, {options[0], "-t", "container", "-d", "media", "-n", "os"}));
  EXPECT_EQ(medium.exit_code, 0) << medium.out << medium.err;
  EXPECT_EQ(Files("builds/media").size(), 1u);
  EXPECT_TRUE(std::filesystem::exists(Path("builds/media/os.tar")));
  const CommandOutput preflight = Run(There(operator_profile, {options[0], "--preflight-only"}));
  EXPECT_EQ(preflight.exit_code, 0) << preflight.err;
  EXPECT_NE(preflight.out.find("the image may be built"), std::string::npos) << preflight.out;
}

TEST_F(BuildServiceTest, ReadsFromListedPlacesAndForOperatorsOnly) {
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  viewer_ = Profile("viewer");
  const std::string anna = Profile("operator");
  const std::string os = "dir:" + Path("images/os");
  for (const std::vector<std::string>& one :
       std::vector<std::vector<std::string>>{{"dir:" + os_.path().string()},
                                             {"dir:" + Path("images/elsewhere")},
                                             {"dir:" + Path("images/../keys")},
                                             {"dir:" + Path("images2")},
                                             {"dir:images/os"},
                                             {"docker://registry.example/teammate/os"},
                                             {"docker://registry.example:5000/team/os"},
                                             {os, "--overlay-rootfs", Path("keys")},
                                             {os, "--kernel", Path("images/elsewhere/boot/vmlinuz")},
                                             {os, "-t", "iso", "--overlay-iso", "/etc"}}) {
    EXPECT_EQ(Refusal(anna, one).rfind("BUILD_SOURCE_FORBIDDEN", 0), 0u) << one.back();
  }
  for (const char* name : {"../keys", "a/b", ".hidden", "/tmp/x"})
    EXPECT_EQ(Refusal(anna, {os, "-d", name}).rfind("INVALID_ARGUMENT", 0), 0u) << name;
  EXPECT_EQ(Refusal(viewer_, {os}).rfind("RPC_NOT_PERMITTED", 0), 0u);
  EXPECT_EQ(Refusal(Profile("custodian"), {os}).rfind("RPC_NOT_PERMITTED", 0), 0u);
  EXPECT_FALSE(std::filesystem::exists(Path("builds")));
  EXPECT_GE(Audit().size(), 14u);
}

TEST_F(BuildServiceTest, OneAtATimeInAShortQueueAndAClientThatLeavesEndsItsBuild) {
  OfferBuilds({"release"}, 1);
  std::filesystem::copy(
      Path("images/os"), Path("images/long"),
      std::filesystem::copy_options::recursive | std::filesystem::copy_options::copy_symlinks);
  for (int i = 0; i < 64; ++i) {
    const Bytes noise = RandomBytes(1u << 20);
    std::ofstream(Path("images/long/usr/lib/noise" + std::to_string(i)), std::ios::binary) << AsText(noise);
  }
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  viewer_ = Profile("viewer");
  const std::string anna = Profile("operator");
  auto leaving = std::make_unique<Daemon>(
      There(anna, {"dir:" + Path("images/long"), "--zstd-level", "19", "-d", "long"}), Path("leaving.log"));
  ASSERT_TRUE(Becomes([&] { return LogSays("leaving.log", "pack"); }))
      << Log() << *ReadTextFile(Path("leaving.log"));
  Daemon waiting(There(anna, {"dir:" + Path("images/os"), "-d", "short"}), Path("waiting.log"));
  ASSERT_TRUE(Becomes([&] { return LogSays("waiting.log", "wait for 1 other builds"); })) << Log();
  EXPECT_EQ(Refusal(anna, {"dir:" + Path("images/os")}).rfind("SERVER_BUSY", 0), 0u);

  leaving.reset();
  EXPECT_EQ(waiting.Wait(), 0) << *ReadTextFile(Path("waiting.log"));
  EXPECT_TRUE(Becomes([&] {
    const json audit = Audit();
    return std::any_of(audit.begin(), audit.end(),
                       [](const json& one) { return one["outcome"] == "CANCELLED"; });
  }));
  std::vector<std::string> left;
  for (const auto& item : std::filesystem::directory_iterator(Path("builds")))
    left.push_back(item.path().filename());
  EXPECT_EQ(left, std::vector<std::string>{"short"});
}

TEST_F(BuildServiceTest, WithoutAReleaseTokenNothingIsBuiltAndNoOtherTokenHelps) {
  more_config_.clear();
  {
    const auto daemon = StartDaemon({"online"});
    ASSERT_NE(daemon, nullptr) << Log();
    EXPECT_EQ(Refusal(Profile("operator"), {"dir:" + Path("images/os")}).rfind("BUILD_NOT_OFFERED", 0), 0u);
  }
  for (const char* group : {"root", "custody"}) {
    OfferBuilds({"release", group}, 4);
    EXPECT_EQ(StartDaemon({"online"}), nullptr);
    EXPECT_TRUE(LogSays("log", "TOKEN_GROUP_FORBIDDEN")) << Log();
    std::filesystem::remove(Path("log"));
  }
  OfferBuilds({"online"}, 4);
  EXPECT_EQ(StartDaemon({"online"}), nullptr);
  EXPECT_TRUE(LogSays("log", "HSM_KEY_MISSING")) << Log();
}

}  // namespace
}  // namespace sealift
