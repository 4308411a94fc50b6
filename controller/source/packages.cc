#include "controller/source/packages.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "shared/base/subprocess.h"

namespace sealift::build {
namespace {

constexpr std::uint64_t kMaxTextBytes = 64u << 20;
constexpr std::uint64_t kMaxRpmDatabaseBytes = 512u << 20;
constexpr std::string_view kDpkg = "var/lib/dpkg";
constexpr const char* kApkDatabases[] = {"lib/apk/db/installed", "usr/lib/apk/db/installed"};
constexpr const char* kRpmDatabases[] = {"usr/lib/sysimage/rpm", "var/lib/rpm"};
// sqlite (Fedora, RHEL 9), ndb (openSUSE), Berkeley DB (older).
constexpr const char* kRpmDatabaseFiles[] = {"rpmdb.sqlite", "Packages.db", "Packages"};

using Entries = std::map<std::string, TreeEntry>;

bool IsFile(const Tree& tree, std::string_view path) {
  const TreeEntry* entry = tree.Find(tree.Resolve(path));
  return entry != nullptr && S_ISREG(entry->mode);
}

// Regular files directly in a folder of the tree.
std::vector<const Entries::value_type*> FilesIn(const Tree& tree, std::string_view folder) {
  std::vector<const Entries::value_type*> found;
  const std::string prefix = tree.Resolve(folder) + "/";
  if (prefix == "/") return found;
  for (auto at = tree.entries().lower_bound(prefix);
       at != tree.entries().end() && at->first.starts_with(prefix); ++at) {
    if (S_ISREG(at->second.mode) && at->first.find('/', prefix.size()) == std::string::npos)
      found.push_back(&*at);
  }
  return found;
}

void SplitLines(std::string_view text, std::vector<std::string>& lines) {
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
}

Status AddDpkg(const Tree& tree, std::vector<PackageFiles>& all) {
  std::vector<PackageFiles> found;
  const auto parse = [&](std::string_view path) -> Status {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes text, tree.ReadFile(path, kMaxTextBytes));
    for (PackageFiles& one : ParseDpkgStatus(AsText(text))) found.push_back(std::move(one));
    return OkStatus();
  };
  const std::string status = fmt::format("{}/status", kDpkg);
  if (IsFile(tree, status)) SEALIFT_RETURN_IF_ERROR(parse(status));
  // Images without dpkg itself have a file for each package.
  for (const auto* item : FilesIn(tree, fmt::format("{}/status.d", kDpkg)))
    if (!item->first.ends_with(".md5sums")) SEALIFT_RETURN_IF_ERROR(parse(item->first));
  for (PackageFiles& one : found) {
    const Package& package = one.package;
    for (const std::string& stem : {package.name, package.name + ":" + package.architecture}) {
      const std::string list = fmt::format("{}/info/{}.list", kDpkg, stem);
      if (!IsFile(tree, list)) continue;
      SEALIFT_ASSIGN_OR_RETURN(const Bytes text, tree.ReadFile(list, kMaxTextBytes));
      SplitLines(AsText(text), one.paths);
      break;
    }
    all.push_back(std::move(one));
  }
  return OkStatus();
}

Status AddApk(const Tree& tree, std::vector<PackageFiles>& all) {
  for (const char* path : kApkDatabases) {
    if (!IsFile(tree, path)) continue;
    SEALIFT_ASSIGN_OR_RETURN(const Bytes text, tree.ReadFile(path, kMaxTextBytes));
    for (PackageFiles& one : ParseApkInstalled(AsText(text))) all.push_back(std::move(one));
    return OkStatus();
  }
  return OkStatus();
}

Status CopyOut(const TreeEntry& entry, const std::filesystem::path& to) {
  SEALIFT_ASSIGN_OR_RETURN(ContentReader reader, Tree::Open(entry));
  UniqueFd file(::open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.valid()) {
    return ErrnoError(Code::kFailedPrecondition, Reason::kFileUnwritable,
                      fmt::format("copy package database to '{}'", to.string()), "open", errno);
  }
  Bytes buffer(128u << 10);
  while (true) {
    SEALIFT_ASSIGN_OR_RETURN(const std::size_t got, reader.Read(buffer));
    if (got == 0) return file.Close();
    SEALIFT_RETURN_IF_ERROR(WriteAll(file.get(), to, ByteView(buffer).first(got)));
  }
}

// The program of that name knows every form of its database; it gets a copy, and runs nothing of the tree.
Status AddRpm(const Tree& tree, std::vector<PackageFiles>& all) {
  for (const char* folder : kRpmDatabases) {
    const auto holds = [&](const char* name) { return IsFile(tree, fmt::format("{}/{}", folder, name)); };
    if (std::none_of(std::begin(kRpmDatabaseFiles), std::end(kRpmDatabaseFiles), holds)) continue;
    SEALIFT_ASSIGN_OR_RETURN(const TempDir copy, TempDir::Create("sealift-rpmdb"));
    std::uint64_t size = 0;
    for (const auto* item : FilesIn(tree, folder)) {
      size += item->second.size;
      if (size > kMaxRpmDatabaseBytes) {
        return MakeError(Code::kInvalidArgument, Reason::kRootfsUnusable,
                         fmt::format("read packages: the database in /{} is larger than 512 MiB", folder));
      }
      const std::string name = item->first.substr(item->first.rfind('/') + 1);
      SEALIFT_RETURN_IF_ERROR(CopyOut(item->second, copy.path() / name));
    }
    // $HOME: no macros of this user's.
    const Result<CommandOutput> output = RunCommandChecked(
        {.argv = {"rpm", "--query", "--all", "--dbpath", copy.path().string(), "--queryformat", kRpmQuery},
         .environment = {{"HOME", copy.path().string()}, {"LC_ALL", "C.UTF-8"}},
         .max_output_bytes = kMaxTextBytes});
    if (!output.ok()) return Annotate(output.status(), "read packages of the rpm database");
    for (PackageFiles& one : ParseRpmQuery(output->out)) all.push_back(std::move(one));
    return OkStatus();
  }
  return OkStatus();
}

// Databases may name /bin/sh where the tree has usr/bin/sh and a link.
class PathFinder {
 public:
  explicit PathFinder(const Tree& tree) : tree_(tree) {}

  const Entries::value_type* Find(std::string_view path) {
    while (path.starts_with('/')) path.remove_prefix(1);
    auto found = tree_.entries().find(std::string(path));
    if (found == tree_.entries().end()) {
      const std::size_t slash = path.rfind('/');
      if (slash == std::string_view::npos) return nullptr;
      found =
          tree_.entries().find(Folder(std::string(path.substr(0, slash))) + std::string(path.substr(slash)));
    }
    return found == tree_.entries().end() ? nullptr : &*found;
  }

 private:
  const std::string& Folder(const std::string& path) {
    const auto [at, fresh] = folders_.try_emplace(path);
    if (fresh) at->second = tree_.Resolve(path);
    return at->second;
  }

  const Tree& tree_;
  std::unordered_map<std::string, std::string> folders_;
};

}  // namespace

Result<InstalledPackages> ReadPackages(const Tree& tree) {
  std::vector<PackageFiles> all;
  SEALIFT_RETURN_IF_ERROR(AddDpkg(tree, all));
  SEALIFT_RETURN_IF_ERROR(AddRpm(tree, all));
  SEALIFT_RETURN_IF_ERROR(AddApk(tree, all));
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.package < b.package; });
  InstalledPackages installed;
  PathFinder finder(tree);
  for (PackageFiles& one : all) {
    for (const std::string& path : one.paths) {
      const auto* item = finder.Find(path);
      if (item != nullptr && S_ISREG(item->second.mode))
        installed.owners.try_emplace(item->first, installed.packages.size());
    }
    installed.packages.push_back(std::move(one.package));
  }
  return installed;
}

}  // namespace sealift::build
