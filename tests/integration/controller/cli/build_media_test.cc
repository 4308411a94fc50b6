// Install ISO and container archive, looked at with other people's programs.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/integration/controller/cli/build_fixture.h"

namespace sealift::cli {
namespace {

using nlohmann::json;
using test::RunTool;

class BuildMediaTest : public BuildFixture {
 protected:
  void SetUp() override {
    BuildFixture::SetUp();
    Write("overlay/data/hello.txt", "hello");
    Write("overlay/readme", "read me");
  }
  std::string Iso(const std::string& out, std::vector<std::string> more = {}) const {
    more.insert(more.begin(), {"-t", "iso", "--overlay-iso", Path("overlay")});
    const CommandOutput built = Build(out, more);
    EXPECT_EQ(built.exit_code, 0) << built.err;
    return Path(out) + "/kairos_1.2.iso";
  }
};

TEST_F(BuildMediaTest, IsoIsBothACdAndADiskWithTheSamePartition) {
  SEALIFT_NEED_TOOL("xorriso");
  SEALIFT_NEED_TOOL("sfdisk");
  SEALIFT_NEED_TOOL("mdir");
  const std::string iso = Iso("out");
  EXPECT_EQ(Names("out"), std::vector<std::string>{"kairos_1.2.iso"});

  const CommandOutput report = RunTool({"xorriso", "-indev", iso, "-pvd_info", "-report_el_torito", "plain"});
  EXPECT_NE(report.out.find("Volume Id    : UKI_ISO_INSTALL"), std::string::npos) << report.out << report.err;
  const std::size_t boot = report.out.find("El Torito boot img :");
  ASSERT_NE(boot, std::string::npos) << report.out;
  const std::string line = report.out.substr(boot, report.out.find('\n', boot) - boot);
  EXPECT_NE(line.find("UEFI  y"), std::string::npos) << line;
  EXPECT_NE(report.out.find("/efiboot.img"), std::string::npos);
  const unsigned long block = std::stoul(line.substr(line.rfind(' ')));

  const CommandOutput table = RunTool({"sfdisk", "-J", iso});
  ASSERT_EQ(table.exit_code, 0) << table.err;
  const json partitions = json::parse(table.out).at("partitiontable");
  EXPECT_EQ(partitions.at("label"), "gpt");
  std::size_t esp_start = 0;
  for (const json& partition : partitions.at("partitions"))
    if (partition.at("type") == "C12A7328-F81F-11D2-BA4B-00A0C93EC93B") esp_start = partition.at("start");
  EXPECT_EQ(esp_start, block * 4) << "El Torito and the GPT name different blocks";

  const std::string drive = iso + "@@" + std::to_string(esp_start * 512);
  const CommandOutput listed = RunTool({"mdir", "-i", drive, "-b", "-/", "::"});
  ASSERT_EQ(listed.exit_code, 0) << listed.err;
  for (const char* name : {"::/EFI/BOOT/BOOTX64.EFI", "::/EFI/kairos/norole.efi", "::/loader/loader.conf",
                           "::/loader/entries/norole.conf", "::/loader/keys/auto/PK.auth", "::/keys/db.der",
                           "::/keys/KEK.esl", "::/keys/PK.auth", "::/release.json"})
    EXPECT_NE(listed.out.find(name), std::string::npos) << name << " is not in\n" << listed.out;
  const CommandOutput checked =
      RunTool({"sh", "-c", "dd if=\"$0\" of=\"$1\" bs=2048 skip=$2 status=none && fsck.vfat -n \"$1\"", iso,
               Path("esp.img"), std::to_string(block)});
  EXPECT_EQ(checked.exit_code, 0) << checked.out << checked.err;

  // What the medium carries is what a tree build writes.
  ASSERT_EQ(Build("tree").exit_code, 0);
  ASSERT_EQ(RunTool({"mcopy", "-i", drive, "::/EFI/kairos/norole.efi", Path("norole.efi")}).exit_code, 0);
  EXPECT_EQ(ReadFile(Path("norole.efi")).value(), ReadFile(Path("tree/EFI/kairos/norole.efi")).value());
}

TEST_F(BuildMediaTest, OverlayLiesInTheRootOfTheIso) {
  SEALIFT_NEED_TOOL("xorriso");
  const std::string iso = Iso("out", {"-n", "site-7"});
  const std::string named = Path("out/site-7.iso");
  ASSERT_EQ(RunTool({"xorriso", "-osirrox", "on", "-indev", named, "-extract", "/", Path("root")}).exit_code,
            0);
  RunTool({"chmod", "-R", "u+w", Path("root")});
  const std::map<std::string, std::string> files = Files("root");
  EXPECT_EQ(files.at("data/hello.txt"), "hello");
  EXPECT_EQ(files.at("readme"), "read me");
  EXPECT_EQ(files.at("keys/db.der"), ToText(ReadFile(Keys() + "/db.der").value()));
  EXPECT_EQ(files.at("keys/PK.esl"), ToText(ReadFile(Keys() + "/PK.esl").value()));
  EXPECT_EQ(files.at("keys/KEK.auth"), ToText(ReadFile(Keys() + "/KEK.auth").value()));
  EXPECT_EQ(files.count("release.json"), 1u);
  EXPECT_EQ(files.count("efiboot.img"), 1u);
}

TEST_F(BuildMediaTest, OverlaysThatFatCannotHoldOrThatHideOursAreRefused) {
  const auto reason = [&](const std::string& name) {
    Write(name, "x");
    const CommandOutput refused = Build("out", {"-t", "iso", "--overlay-iso", Path("overlay"), "-o", "json"});
    std::filesystem::remove(Path(name));
    EXPECT_EQ(refused.exit_code, 1) << refused.out;
    return json::parse(refused.out).at("error").at("reason").get<std::string>();
  };
  EXPECT_EQ(reason("overlay/README"), "FILE_NAME_CLASH");
  EXPECT_EQ(reason("overlay/Data/x"), "FILE_NAME_CLASH");
  std::filesystem::remove(Path("overlay/Data"));
  EXPECT_EQ(reason("overlay/efiboot.img"), "FILE_NAME_CLASH");
  EXPECT_EQ(reason("overlay/sbom.spdx.json"), "FILE_NAME_CLASH");
  EXPECT_EQ(reason("overlay/keys/db.der"), "FILE_NAME_CLASH");
  EXPECT_EQ(reason("overlay/what?"), "FILE_NAME_CLASH");
  ASSERT_EQ(::symlink("/etc/passwd", Path("overlay/link").c_str()), 0);
  const CommandOutput link = Build("out", {"-t", "iso", "--overlay-iso", Path("overlay")});
  EXPECT_EQ(link.exit_code, 2) << link.err;
  EXPECT_FALSE(std::filesystem::exists(Path("out")));
}

TEST_F(BuildMediaTest, TwoBuildsInDifferentFoldersAreEqual) {
  SEALIFT_NEED_TOOL("xorriso");
  const std::string first = Iso("one");
  // What a rebuild elsewhere does not share: times and modes of the overlay.
  struct timespec times[2] = {{1'600'000'000, 0}, {1'600'000'000, 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, Path("overlay/readme").c_str(), times, 0), 0);
  ASSERT_EQ(::chmod(Path("overlay/readme").c_str(), 0600), 0);
  EXPECT_EQ(RunTool({"cmp", first, Iso("two/deeper")}).out, "");
  ASSERT_EQ(Build("three", {"-t", "container"}).exit_code, 0);
  ASSERT_EQ(Build("four", {"-t", "container"}).exit_code, 0);
  EXPECT_TRUE(ReadFile(Path("three/kairos_uki_1.2.tar")).value() ==
              ReadFile(Path("four/kairos_uki_1.2.tar")).value());
  ASSERT_EQ(Build("tree-a", {"--extra-cmdline", "a=1"}).exit_code, 0);
  ASSERT_EQ(Build("tree-b", {"--extra-cmdline", "a=1"}).exit_code, 0);
  EXPECT_EQ(Files("tree-a"), Files("tree-b"));
}

TEST_F(BuildMediaTest, ADiskThatIsFullLeavesNoMedium) {
  SEALIFT_NEED_TOOL("xorriso");
  for (const char* type : {"iso", "container"}) {
    // Files may grow to 4 MiB: the tree fits, the medium does not.
    os_.Write("usr/share/random", AsText(RandomBytes(5u << 19)));
    std::vector<std::string> argv = {"sh", "-c", "trap '' XFSZ; ulimit -f 8192; exec \"$@\"", "sh"};
    for (const std::string& word : Command("out", {"-t", type, "--extra-cmdline", "a=1"}))
      argv.push_back(word);
    const CommandOutput refused = RunTool(argv);
    EXPECT_EQ(refused.exit_code, 1) << refused.err;
    EXPECT_NE(refused.err.find("FILE_UNWRITABLE"), std::string::npos) << refused.err;
    EXPECT_TRUE(Names("out").empty()) << type;
  }
}

TEST_F(BuildMediaTest, SkopeoReadsTheContainerAsBothKindsOfArchive) {
  SEALIFT_NEED_TOOL("skopeo");
  ASSERT_EQ(Build("out", {"-t", "container"}).exit_code, 0);
  const std::string file = Path("out/kairos_uki_1.2.tar");
  for (const char* transport : {"oci-archive:", "docker-archive:"}) {
    const CommandOutput shown = RunTool({"skopeo", "inspect", transport + file});
    ASSERT_EQ(shown.exit_code, 0) << transport << shown.err;
    const json image = json::parse(shown.out);
    EXPECT_EQ(image.at("Architecture"), "amd64");
    EXPECT_EQ(image.at("Layers").size(), 1u);
    EXPECT_EQ(image.at("Created"), "2026-01-01T00:00:00Z");
    EXPECT_EQ(image.at("Labels").at("org.opencontainers.image.version"), "1.2");
  }
  // What comes out again is the tree.
  ASSERT_EQ(RunTool({"skopeo", "copy", "--quiet", "oci-archive:" + file, "dir:" + Path("copied")}).exit_code,
            0);
  const json manifest = json::parse(Files("copied").at("manifest.json"));
  const std::string layer = manifest.at("layers").at(0).at("digest").get<std::string>().substr(7);
  ASSERT_TRUE(MakeDirectories(Path("unpacked")).ok());
  ASSERT_EQ(RunTool({"tar", "-xf", Path("copied/" + layer), "-C", Path("unpacked")}).exit_code, 0);
  ASSERT_EQ(Build("tree").exit_code, 0);
  EXPECT_EQ(Files("unpacked"), Files("tree"));
}

}  // namespace
}  // namespace sealift::cli
