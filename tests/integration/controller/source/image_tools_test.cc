// Images as tar, umoci and skopeo write them, read by us and unpacked by umoci: both must see one tree.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <map>

#include "controller/source/source.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tools.h"

namespace sealift::build {
namespace {

namespace fs = std::filesystem;
using test::ReasonIdFrom;
using test::RunTool;

// What every reader must agree on.
std::map<std::string, std::string> Facts(const Tree& tree) {
  std::map<std::string, std::string> facts;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::string> first;
  for (const auto& [path, entry] : tree.entries()) {
    std::string fact = std::to_string(entry.mode);
    if (S_ISREG(entry.mode)) fact += " " + ToText(Tree::Contents(entry).value());
    if (S_ISLNK(entry.mode)) fact += " -> " + entry.target;
    if (entry.link_group.has_value())
      fact += " = " + first.try_emplace(*entry.link_group, path).first->second;
    facts.emplace(path, fact);
  }
  return facts;
}

class ImageToolsTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* tool : {"tar", "umoci", "skopeo"}) SEALIFT_NEED_TOOL(tool);
    WriteBase();
    WriteUpper();
    ASSERT_EQ(Run({"umoci", "init", "--layout", Path("layout")}), "");
    ASSERT_EQ(Run({"umoci", "new", "--image", Path("layout:os")}), "");
    for (const char* layer : {"base", "upper"}) {
      const std::string tar = Path(std::string(layer) + ".tar");
      ASSERT_EQ(Run({"tar", "--create", "--sparse", "--format=pax", "--file", tar, "--directory", Path(layer),
                     "."}),
                "");
      ASSERT_EQ(Run({"umoci", "raw", "add-layer", "--image", Path("layout:os"), tar}), "");
    }
  }

  void WriteBase() {
    Write("base/usr/lib/kept", "kept");
    Write("base/usr/lib/gone", "gone");
    Write("base/usr/share/hidden/x", "hidden");
    Write("base/usr/bin/run", "#!/bin/sh\n", 0755);
    Write("base/usr/bin/su", "su", 04755);
    fs::create_hard_link(Path("base/usr/bin/run"), Path("base/usr/bin/run-again"));
    fs::create_symlink("usr/lib", Path("base/lib"));
    fs::create_symlink("/proc/mounts", Path("base/usr/lib/mtab"));
    Write("base/usr/share/f\xc5\x91tan\xc3\xbasitv\xc3\xa1ny-" + std::string(120, 'n'), "long name");
    Write("base/usr/share/sparse", "begin");
    fs::resize_file(Path("base/usr/share/sparse"), 3'000'000);
    std::ofstream(Path("base/usr/share/sparse"), std::ios::app) << "end";
  }
  void WriteUpper() {
    Write("upper/usr/lib/.wh.gone", "");
    Write("upper/usr/share/hidden/.wh..wh..opq", "");
    Write("upper/usr/share/hidden/y", "seen");
    Write("upper/etc/new", "new", 0600);
  }

  std::string Path(const std::string& name) const { return (folder_.path() / name).string(); }
  void Write(const std::string& name, const std::string& text, mode_t mode = 0644) {
    fs::create_directories(fs::path(Path(name)).parent_path());
    std::ofstream(Path(name)) << text;
    ASSERT_EQ(::chmod(Path(name).c_str(), mode), 0);
  }
  // The error, or nothing.
  static std::string Run(const std::vector<std::string>& argv) {
    const CommandOutput output = RunTool(argv);
    return output.exit_code == 0 ? "" : argv[0] + ": " + output.err + output.out;
  }
  static std::map<std::string, std::string> Read(const std::string& source) {
    const auto read = ReadSource(source);
    EXPECT_TRUE(read.ok()) << read.status();
    return read.ok() ? Facts(read->tree) : std::map<std::string, std::string>();
  }

  TempDir folder_ = TempDir::Create("sealift-image").value();
};

TEST_F(ImageToolsTest, UmociUnpacksTheSameTree) {
  ASSERT_EQ(Run({"umoci", "unpack", "--rootless", "--image", Path("layout:os"), Path("bundle")}), "");
  const auto expected = Facts(Tree::Read(Path("bundle/rootfs")).value());
  EXPECT_GT(expected.size(), 15u);
  EXPECT_FALSE(expected.contains("usr/lib/gone"));
  EXPECT_TRUE(expected.contains("usr/share/hidden/y"));
  EXPECT_EQ(Read("oci:" + Path("layout") + ":os"), expected);
}

TEST_F(ImageToolsTest, EveryFormSkopeoWritesIsTheSameTree) {
  const auto expected = Read("oci:" + Path("layout") + ":os");
  const std::string from = "oci:" + Path("layout") + ":os";
  ASSERT_EQ(Run({"skopeo", "copy", "--quiet", from, "oci-archive:" + Path("oci.tar") + ":os"}), "");
  EXPECT_EQ(Read("oci-archive:" + Path("oci.tar")), expected);
  EXPECT_EQ(Read("oci-archive:" + Path("oci.tar") + ":os"), expected);
  ASSERT_EQ(
      Run({"skopeo", "copy", "--quiet", from, "docker-archive:" + Path("docker.tar") + ":example.org/os:1"}),
      "");
  EXPECT_EQ(Read("docker-archive:" + Path("docker.tar")), expected);
  EXPECT_EQ(Read("docker-archive:" + Path("docker.tar") + ":example.org/os:1"), expected);
  EXPECT_EQ(ReasonIdFrom(ReadSource("docker-archive:" + Path("docker.tar") + ":other:1")), "SOURCE_UNUSABLE");
  ASSERT_EQ(Run({"skopeo", "copy", "--quiet", "--dest-compress-format", "zstd", "--dest-compress", from,
                 "oci:" + Path("zstd") + ":os"}),
            "");
  EXPECT_EQ(Read("oci:" + Path("zstd")), expected);
  // A whole archive may be compressed, too.
  ASSERT_EQ(Run({"gzip", Path("docker.tar")}), "");
  EXPECT_EQ(Read("docker-archive:" + Path("docker.tar.gz")), expected);
}

TEST_F(ImageToolsTest, DamagedArchivesAreRefused) {
  const std::string from = "oci:" + Path("layout") + ":os";
  ASSERT_EQ(Run({"skopeo", "copy", "--quiet", from, "docker-archive:" + Path("docker.tar") + ":os:1"}), "");
  std::string text = ReadTextFile(Path("docker.tar")).value();
  const std::size_t at = text.find("kept", text.find("usr/lib/kept") + 20);
  ASSERT_NE(at, std::string::npos);
  text[at] = 'K';
  Write("bad.tar", text);
  const auto bad = ReadSource("docker-archive:" + Path("bad.tar"));
  EXPECT_EQ(ReasonIdFrom(bad), "SOURCE_UNUSABLE");
  EXPECT_NE(MessageOf(bad.status()).find("digest differs"), std::string::npos) << bad.status();
  Write("short.tar", text.substr(0, text.size() / 2));
  EXPECT_EQ(ReasonIdFrom(ReadSource("docker-archive:" + Path("short.tar"))), "SOURCE_UNUSABLE");
}

// The pulling half of the distribution API, from an OCI layout, on the loopback interface.
constexpr char kRegistry[] = R"(
import http.server, json, pathlib, sys
layout = pathlib.Path(sys.argv[1])
index = json.loads((layout / "index.json").read_text())
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self, body=True):
        kind, name = self.path.split("/")[-2:]
        data, media = b"{}", "application/json"
        if kind == "manifests":
            name, media = index["manifests"][0]["digest"], index["manifests"][0]["mediaType"]
        if kind in ("manifests", "blobs"):
            data = (layout / "blobs" / name.replace(":", "/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)
    def do_HEAD(self):
        self.do_GET(False)
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
)";

class Registry {
 public:
  explicit Registry(const std::string& layout) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return;
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(ends[1], STDOUT_FILENO);
      ::execlp("python3", "python3", "-c", kRegistry, layout.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(ends[1]);
    char c = 0;
    while (::read(ends[0], &c, 1) == 1 && c != '\n') port_ += c;
    ::close(ends[0]);
  }
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;
  ~Registry() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
  }
  const std::string& port() const { return port_; }

 private:
  pid_t pid_ = -1;
  std::string port_;
};

TEST_F(ImageToolsTest, RegistriesAreReadThroughSkopeo) {
  SEALIFT_NEED_TOOL("python3");
  const Registry registry(Path("layout"));
  ASSERT_FALSE(registry.port().empty());
  const std::string host = "127.0.0.1:" + registry.port();
  // skopeo's own configuration says that this one speaks no TLS.
  Write("home/.config/containers/registries.conf",
        "[[registry]]\nlocation = \"" + host + "\"\ninsecure = true\n");
  Write("home/.config/containers/policy.json", R"({"default":[{"type":"insecureAcceptAnything"}]})");
  const char* home = ::getenv("HOME");
  const std::string before = home == nullptr ? "" : home;
  ::setenv("HOME", Path("home").c_str(), 1);
  const auto read = ReadSource("docker://" + host + "/fleet/os:1");
  const auto refused = ReadSource("docker://127.0.0.1:1/fleet/os:1");
  ::setenv("HOME", before.c_str(), 1);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(Facts(read->tree), Read("oci:" + Path("layout") + ":os"));
  EXPECT_EQ(ReasonIdFrom(refused), "TOOL_FAILED");
}

}  // namespace
}  // namespace sealift::build
