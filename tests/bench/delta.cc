// How few bytes bring a node from one release to the next, and what that costs.
//
//   bench_delta                  a pair made here in seconds; judged
//   bench_delta --pair V1 V2     two root file systems (folders with boot/vmlinuz-*), as debian_pair.sh
//                                makes them; judged unless fewer than 20 packages or no kernel changed
//
// 100 % is the new image with a solid zstd-19 initrd. Creating and applying are counted in processes of their
// own; their bars are ratios to the programs `zstd -19` and `zstd -d` with the same initrd in this run.
#include <fmt/format.h>
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "controller/build/initrd.h"
#include "controller/build/uki_builder.h"
#include "controller/delta/image_objects.h"
#include "controller/source/source.h"
#include "node-agent/update/confined.h"
#include "shared/base/subprocess.h"
#include "shared/crypto/hash.h"
#include "shared/delta/apply_delta.h"
#include "tests/bench/delta_others.h"
#include "tests/support/delta_images.h"
#include "tests/support/os_tree.h"
#include "tests/support/tools.h"

using namespace sealift;

namespace {

namespace fs = std::filesystem;

constexpr double kDeltaBar = 8;
constexpr double kFramesBar = 33;
constexpr double kSmallDeltaBar = 2048;
// 0.3 % of an image of 132 MB, whatever the size of this one: the frame that holds the file.
constexpr double kSmallObjectsBar = 396;
constexpr double kCasyncBar = 0.2;
constexpr double kOstreeBar = 1;
constexpr double kCreateBar = 0.4;
constexpr double kApplyBar = 5.5;
constexpr double kCreateMemoryBar = 1024;
constexpr double kApplyMemoryBar = 192;
constexpr std::size_t kLeastPackages = 20;
constexpr const char* kStub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

template <typename T>
T Must(Result<T> result) {
  if (!result.ok()) {
    std::fprintf(stderr, "bench delta: %s\n", Describe(result.status()).c_str());
    std::exit(1);
  }
  return *std::move(result);
}
void Must(const Status& status) {
  if (!status.ok()) Must(Result<int>(status));
}

double ProcessorSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Of those that ended.
double ChildrensProcessorSeconds() {
  rusage usage{};
  getrusage(RUSAGE_CHILDREN, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double PeakMebibytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

// One child of this program: its last line is its numbers.
std::vector<double> Child(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "/proc/self/exe");
  const CommandOutput out =
      Must(RunCommandChecked({.argv = std::move(arguments), .timeout = std::chrono::hours(2)}));
  std::vector<double> numbers;
  for (const char* at = out.out.c_str(); *at != '\0';) {
    char* end = nullptr;
    numbers.push_back(std::strtod(at, &end));
    if (end == at) break;
    at = end;
    while (*at == ' ' || *at == '\n') ++at;
  }
  return numbers;
}

// ---- children ----

struct Image {
  fs::path folder;
  std::string uki() const { return (folder / "uki.efi").string(); }
  std::string frames() const { return (folder / "frames.json").string(); }
  std::string raw() const { return (folder / "initrd.cpio").string(); }
};

content::FrameIndex LoadFrames(const std::string& path) {
  return Must(content::ParseFrameIndex(Must(ReadTextFile(path, 64u << 20))));
}

controller::DeltaImage DeltaImageOf(const Image& image) {
  return {.file = image.uki(), .frames = LoadFrames(image.frames())};
}

// The keys of one fleet.
struct Keys {
  test::TestKey db = test::MakeTestKey("bench db");
  std::unique_ptr<SoftwareSigner> pcr = SoftwareSigner::Generate(KeyType::kRsa).value();
};

// Packs a folder into a signed UKI, with its initrd also as one unpacked archive; gives the number of
// packages.
std::size_t Pack(const std::string& root, const Image& image, const Keys& keys) {
  fs::create_directories(image.folder);
  build::Tree tree = Must(build::ReadSource("dir:" + root)).tree;
  const auto packages = Must(build::ReadPackages(tree));
  std::string kernel;
  for (const auto& [path, entry] : tree.entries())
    if (path.starts_with("boot/vmlinuz-")) kernel = fmt::format("{}/{}", root, path);
  tree.RemoveContents("boot");  // as the builder does
  std::ofstream raw(image.raw(), std::ios::binary);
  for (const build::Frame& frame : Must(build::PlanFrames(tree, packages))) {
    Must(build::WriteFrame(frame, [&raw](ByteView piece) {
      raw.write(reinterpret_cast<const char*>(piece.data()), static_cast<std::streamsize>(piece.size()));
      return OkStatus();
    }));
  }
  std::ofstream initrd(image.folder / "initrd", std::ios::binary);
  const build::Initrd packed = Must(build::PackInitrd(tree, packages, {}, [&initrd](ByteView piece) {
    initrd.write(reinterpret_cast<const char*>(piece.data()), static_cast<std::streamsize>(piece.size()));
    return OkStatus();
  }));
  raw.close();
  initrd.close();
  Must(WriteFileAtomically(image.frames(), AsBytes(content::SerializeFrameIndex(packed.index))));
  const uki::SourceFile linux_source = Must(uki::OpenSource(kernel, 1u << 30));
  const uki::SourceFile initrd_source = Must(uki::OpenSource(image.folder / "initrd", 4ull << 30));
  const Bytes stub = fs::exists(kStub) ? Must(ReadFile(kStub)) : test::FakeStub();
  Must(build::BuildUkiFile({.stub = stub,
                            .kernel = linux_source.source,
                            .initrd = initrd_source.source,
                            .os_release = "ID=bench\nVERSION_ID=" + image.folder.filename().string() + "\n",
                            .command_line = "quiet",
                            .subject = "bench"},
                           {.secure_boot = keys.db.signer.get(),
                            .secure_boot_certificate = keys.db.certificate,
                            .pcr = keys.pcr.get()},
                           image.uki()));
  fs::remove(image.folder / "initrd");
  return packages.packages.size();
}

int Create(const Image& from, const Image& to, const std::string& out) {
  const double began = ProcessorSeconds();
  const controller::BuiltDelta delta =
      Must(controller::BuildDelta(DeltaImageOf(from), DeltaImageOf(to), to.folder));
  const double took = ProcessorSeconds() - began;
  Must(WriteFileAtomically(out, delta.bytes));
  std::printf("%zu %llu %llu %llu %llu %u %u %u %.3f %.1f\n", delta.bytes.size(),
              static_cast<unsigned long long>(delta.control),
              static_cast<unsigned long long>(delta.difference), static_cast<unsigned long long>(delta.extra),
              static_cast<unsigned long long>(delta.patches), delta.copied, delta.patched, delta.opaque, took,
              PeakMebibytes());
  return 0;
}

int Apply(const std::string& delta, const Image& from, const std::string& out) {
  std::ofstream file(out, std::ios::binary);
  const double began = ProcessorSeconds() + ChildrensProcessorSeconds();
  // As a node does it.
  const delta::OpenFile old = Must(delta::OpenFile::Open(from.uki()));
  const delta::OpenFile patch = Must(delta::OpenFile::Open(delta));
  Must(agent::RunConfined(
      {.keep = {old.descriptor(), patch.descriptor()}}, OkStatus,
      [&](const delta::Sink& sink) {
        return delta::ApplyDelta(patch, old, {.work_folder = fs::path(out).parent_path(), .progress = {}},
                                 sink);
      },
      [&](ByteView piece) {
        file.write(reinterpret_cast<const char*>(piece.data()), static_cast<std::streamsize>(piece.size()));
        return OkStatus();
      }));
  rusage child{};
  getrusage(RUSAGE_CHILDREN, &child);
  std::printf("%.3f %.1f\n", ProcessorSeconds() + ChildrensProcessorSeconds() - began,
              std::max(PeakMebibytes(), static_cast<double>(child.ru_maxrss) / 1024));
  return 0;
}

// `zstd -19` of the unpacked initrd and `zstd -d` of that, the programs, from file to file: size and
// processor seconds.
int Solid(const Image& image) {
  const std::string packed = (image.folder / "initrd.zst").string();
  const std::string back = (image.folder / "initrd.back").string();
  const auto zstd = [](std::vector<std::string> arguments) {
    const double before = ChildrensProcessorSeconds();
    arguments.insert(arguments.begin(), {"zstd", "-q", "-f", "-T1"});
    Must(RunCommandChecked({.argv = std::move(arguments), .timeout = std::chrono::hours(2)}));
    return ChildrensProcessorSeconds() - before;
  };
  const double pack = zstd({"-19", image.raw(), "-o", packed});
  const double unpack = zstd({"-d", packed, "-o", back});
  std::printf("%ju %.3f %.3f\n", static_cast<std::uintmax_t>(fs::file_size(packed)), pack, unpack);
  fs::remove(packed);
  fs::remove(back);
  return 0;
}

// Objects that a node lacks which has the older image and takes no delta; their bytes with the index.
int Objects(const Image& from, const Image& to) {
  const fs::path folder = to.folder / "objects";
  fs::create_directories(folder);
  const controller::BuiltObjects built = Must(controller::BuildImageObjects(
      DeltaImageOf(to),
      {.folder = folder, .before = {}, .seeds = {from.uki()}, .threads = 0, .progress = {}}));
  std::uint64_t bytes = built.index_bytes.size();
  for (const delta::ObjectName& object : built.fresh) bytes += object.size;
  std::printf("%llu %zu\n", static_cast<unsigned long long>(bytes), built.index_bytes.size());
  return 0;
}

// ---- the pairs ----

// A bzImage that is a PE image, too: the headers of both do not meet.
Bytes PackedKernel(const std::string& raw) {
  const std::string image =
      test::FakeBzImage(raw, test::Encoded(delta::Encoding::kLz4Legacy, 9, raw), "tail");
  constexpr std::size_t kHeaders = 0x800;
  Bytes kernel =
      test::SyntheticPe{.sections = {{".text", image.substr(kHeaders)}}, .header_bytes = kHeaders}.Build();
  std::copy(image.begin() + 0x1f1, image.begin() + kHeaders, kernel.begin() + 0x1f1);
  kernel[0x20f] = 0x04;  // the release's text lies at 0x600
  std::ranges::copy(std::string_view("6.1.0-bench (bench)"), kernel.begin() + 0x600);
  return kernel;
}

// A tree of this machine's own programs and libraries, 24 MiB; with `change`, as if a package that holds the
// first twelfth of them had been built anew: other addresses in code, other strings, a little more of it.
void MakeTree(const fs::path& root, bool change) {
  std::uint64_t left = 24u << 20;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator("/usr/lib/x86_64-linux-gnu"))
    if (entry.is_regular_file() && !entry.is_symlink() && entry.file_size() < (2u << 20))
      files.push_back(entry.path());
  std::ranges::sort(files);
  const fs::path folder = root / "usr/lib";
  fs::create_directories(folder);
  const std::uint64_t unchanged = left - left / 12;
  std::uint32_t random = 1;
  for (const fs::path& file : files) {
    Bytes bytes = Must(ReadFile(file));
    if (bytes.size() > left) continue;
    left -= bytes.size();
    if (change && left > unchanged) {
      for (std::size_t at = 400; at + 8 < bytes.size();
           at += 300 + (random = random * 1664525 + 1013904223) % 1500)
        bytes[at] = static_cast<std::uint8_t>(bytes[at] + 16);
      const std::string more = "a few more bytes of code of " + file.filename().string();
      bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(bytes.size() / 2), more.begin(), more.end());
    }
    Must(WriteFileAtomically(folder / file.filename(), bytes));
  }
  fs::create_directories(root / "boot");
  Must(WriteFileAtomically(root / "boot/vmlinuz-1",
                           PackedKernel(test::CodeLike(1, 4u << 20) + (change ? "release 2" : "release 1"))));
  fs::create_directories(root / "etc");
  Must(WriteFileAtomically(root / "etc/setting", AsBytes("value=1\n")));
}

// Packages whose version differs.
std::size_t ChangedPackages(const std::string& first, const std::string& second) {
  const auto read = [](const std::string& root) {
    std::map<std::string, std::string> versions;
    const build::Tree tree = Must(build::ReadSource("dir:" + root)).tree;
    for (const auto& package : Must(build::ReadPackages(tree)).packages)
      versions[package.name] = package.version;
    return versions;
  };
  const auto before = read(first);
  std::size_t changed = 0;
  for (const auto& [name, version] : read(second)) {
    const auto found = before.find(name);
    if (found == before.end() || found->second != version) ++changed;
  }
  return changed;
}

fs::path KernelOf(const std::string& root) {
  fs::path kernel;
  for (const auto& entry : fs::directory_iterator(root + "/boot"))
    if (entry.path().filename().string().starts_with("vmlinuz-")) kernel = entry.path();
  return kernel;
}

bool Line(const char* what, double value, const char* unit, double bar, bool judged) {
  const bool good = value <= bar;
  std::printf("  %-58s %9.2f %-10s bar %.2f%s\n", what, value, unit, bar,
              !judged ? "  not judged"
              : good  ? ""
                      : "  MISSED");
  return good || !judged;
}

int Measure(const std::string& first, const std::string& second, bool real) {
  const TempDir work = Must(TempDir::Create("sealift-bench-delta"));
  const std::string small = (work.path() / "small").string();
  // Trees may hold device nodes, which std::filesystem does not copy.
  Must(RunCommandChecked({.argv = {"cp", "-a", second, small}}).status());
  {
    std::ofstream setting(small + (real ? "/etc/adduser.conf" : "/etc/setting"), std::ios::app);
    setting << "another=1\n";
  }
  const Image v1{work.path() / "v1"};
  const Image v2{work.path() / "v2"};
  const Image v2p{work.path() / "v2p"};
  Child({"--pack", first, v1.folder, second, v2.folder, small, v2p.folder});
  fs::remove_all(small);
  const std::string delta = (work.path() / "delta").string();
  const std::string out = (work.path() / "out").string();
  const auto solid = Child({"--solid", v2.folder});
  const auto created = Child({"--create", v1.folder, v2.folder, delta});
  const auto applied = Child({"--apply", delta, v1.folder, out});
  const bool same = Must(ReadFile(out, 4ull << 30)) == Must(ReadFile(v2.uki(), 4ull << 30));
  fs::remove(out);
  const auto objects = Child({"--objects", v1.folder, v2.folder});
  const auto small_delta = Child({"--create", v2.folder, v2p.folder, delta});
  const auto small_objects = Child({"--objects", v2.folder, v2p.folder});
  std::uint64_t casync = 0;
  std::uint64_t ostree = 0;
  if (real && test::HaveTool("casync")) {
    casync =
        Must(bench::CasyncBytes({{v1.raw(), v2.raw()}, {KernelOf(first), KernelOf(second)}}, work.path()));
  }
  if (real && test::HaveTool("ostree")) ostree = Must(bench::OstreeBytes(first, second, work.path()));

  const auto initrd = content::FrameIndex(LoadFrames(v2.frames())).size;
  const double whole = static_cast<double>(fs::file_size(v2.uki()) - initrd) + solid[0];
  bool judged = true;
  if (real) {
    const std::size_t packages = ChangedPackages(first, second);
    judged = packages >= kLeastPackages && KernelOf(first).filename() != KernelOf(second).filename();
    std::printf("pair %s %s -> %s: %zu packages changed\n", KernelOf(first).c_str(), first.c_str(),
                KernelOf(second).c_str(), packages);
  }
  std::printf("100 %% is %.1f MB, the image with a solid zstd-19 initrd (as built: %.1f MB)\n", whole * 1e-6,
              static_cast<double>(fs::file_size(v2.uki())) * 1e-6);
  std::printf(
      "delta %.0f bytes: control %.0f, difference %.0f, extra %.0f, zstd patches %.0f; parts: %.0f copied, "
      "%.0f patched, %.0f opaque\n",
      created[0], created[1], created[2], created[3], created[4], created[5], created[6], created[7]);
  bool good = same;
  if (!same) std::printf("  the rebuilt image DIFFERS\n");
  good &= Line("bytes with a delta", 100 * created[0] / whole, "%", kDeltaBar, judged);
  good &= Line("bytes without, index included", 100 * objects[0] / whole, "%", kFramesBar, judged);
  good &= Line("one changed file, with a delta", small_delta[0], "bytes", kSmallDeltaBar, true);
  // The made pair has no packages, so that the file shares its frame with others.
  good &= Line("one changed file, without", small_objects[0] * 1e-3, "kB", kSmallObjectsBar, real);
  good &=
      Line("processor time of making it, of zstd -19", created[8] / solid[1], "times", kCreateBar, judged);
  good &= Line("memory of making it", created[9], "MiB", kCreateMemoryBar, true);
  good &=
      Line("processor time of applying it, of zstd -d", applied[0] / solid[2], "times", kApplyBar, judged);
  good &= Line("memory of applying it", applied[1], "MiB", kApplyMemoryBar, true);
  if (casync > 0) {
    good &= Line("bytes with a delta, of casync's", created[0] / static_cast<double>(casync), "times",
                 kCasyncBar, judged);
  }
  if (ostree > 0) {
    good &= Line("bytes with a delta, of an ostree static delta's", created[0] / static_cast<double>(ostree),
                 "times", kOstreeBar, judged);
  }
  return good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.size() >= 3 && args[0] == "--pack") {
    const Keys keys;
    for (std::size_t i = 1; i + 1 < args.size(); i += 2)
      std::printf("%zu\n", Pack(args[i], {args[i + 1]}, keys));
    return 0;
  }
  if (args.size() == 4 && args[0] == "--create") return Create({args[1]}, {args[2]}, args[3]);
  if (args.size() == 4 && args[0] == "--apply") return Apply(args[1], {args[2]}, args[3]);
  if (args.size() == 2 && args[0] == "--solid") return Solid({args[1]});
  if (args.size() == 3 && args[0] == "--objects") return Objects({args[1]}, {args[2]});
  if (args.size() == 3 && args[0] == "--pair") return Measure(args[1], args[2], true);
  if (!args.empty()) {
    std::fprintf(stderr, "usage: bench_delta [--pair V1 V2]\n");
    return 2;
  }
  const TempDir pair = Must(TempDir::Create("sealift-bench-pair"));
  MakeTree(pair.path() / "v1", false);
  MakeTree(pair.path() / "v2", true);
  return Measure((pair.path() / "v1").string(), (pair.path() / "v2").string(), false);
}
