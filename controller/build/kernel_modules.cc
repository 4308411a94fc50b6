#include "controller/build/kernel_modules.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <set>

#include "shared/base/subprocess.h"

namespace sealift::build {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxIndexBytes = 64u << 20;

Status Unusable(std::string_view what) {
  return MakeError(Code::kFailedPrecondition, Reason::kRootfsUnusable,
                   fmt::format("make root file system bootable: {}", what));
}

bool IsModule(std::string_view path) {
  for (const std::string_view suffix : {".ko", ".ko.xz", ".ko.zst", ".ko.gz"})
    if (path.ends_with(suffix)) return true;
  return false;
}

bool IsPlainName(std::string_view name) {
  return !name.empty() && name.front() != '.' && name.find('/') == std::string_view::npos;
}

using Entries = std::map<std::string, TreeEntry>;

// Regular files below a folder; the prefix ends with a slash.
std::vector<const Entries::value_type*> FilesBelow(const Tree& tree, const std::string& prefix) {
  std::vector<const Entries::value_type*> files;
  for (auto at = tree.entries().lower_bound(prefix);
       at != tree.entries().end() && at->first.starts_with(prefix); ++at)
    if (S_ISREG(at->second.mode)) files.push_back(&*at);
  return files;
}

// "kernel/fs/fat.ko: kernel/lib/x.ko": the names before the colons.
std::set<std::string> ListedModules(std::string_view text) {
  std::set<std::string> modules;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (const std::size_t colon = line.find(':'); colon != std::string_view::npos)
      modules.emplace(line.substr(0, colon));
  }
  return modules;
}

Status CopyFile(const TreeEntry& entry, const fs::path& to) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(to.parent_path()));
  SEALIFT_ASSIGN_OR_RETURN(ContentReader reader, Tree::Open(entry));
  UniqueFd file(::open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.valid()) {
    return ErrnoError(Code::kFailedPrecondition, Reason::kFileUnwritable,
                      fmt::format("copy kernel module to '{}'", to.string()), "open", errno);
  }
  Bytes buffer(128u << 10);
  while (true) {
    SEALIFT_ASSIGN_OR_RETURN(const std::size_t got, reader.Read(buffer));
    if (got == 0) return file.Close();
    SEALIFT_RETURN_IF_ERROR(WriteAll(file.get(), to, ByteView(buffer).first(got)));
  }
}

Status Compute(Tree& tree, const std::string& folder, const std::string& release) {
  SEALIFT_ASSIGN_OR_RETURN(const TempDir scratch, TempDir::Create("sealift-modules"));
  const fs::path copy = scratch.path() / "lib/modules" / release;
  for (const auto* item : FilesBelow(tree, folder + "/")) {
    const std::string name = item->first.substr(folder.size() + 1);
    const bool input = name == "modules.order" || name.starts_with("modules.builtin");
    if (IsModule(name) || (input && !name.ends_with(".bin")))
      SEALIFT_RETURN_IF_ERROR(CopyFile(item->second, copy / name));
  }
  const Result<CommandOutput> output =
      RunCommandChecked({.argv = {"depmod", "--basedir", scratch.path().string(), release}});
  if (!output.ok()) return Annotate(output.status(), fmt::format("index modules of kernel {}", release));
  for (const auto& item : fs::directory_iterator(copy)) {
    const std::string name = item.path().filename().string();
    if (!name.starts_with("modules.") || !item.is_regular_file()) continue;
    SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(item.path(), kMaxIndexBytes));
    tree.PutFile(fmt::format("{}/{}", folder, name), bytes);
  }
  return OkStatus();
}

}  // namespace

Status EnsureModuleIndex(Tree& tree, const std::string& release, std::vector<std::string>& remarks) {
  const std::string modules = tree.Resolve("lib/modules").empty() ? "usr/lib/modules" : "lib/modules";
  const std::string all = tree.Resolve(modules);
  if (all.empty() || FilesBelow(tree, all + "/").empty()) {
    remarks.push_back("the tree has no kernel modules: only what is built into the kernel will work");
    return OkStatus();
  }
  if (!IsPlainName(release)) {
    remarks.push_back("the kernel does not tell its release: its modules were not checked");
    return OkStatus();
  }
  const std::string folder = tree.Resolve(fmt::format("{}/{}", all, release));
  if (folder.empty()) {
    return Unusable(fmt::format("/{}/{} is missing: install the modules of this kernel", all, release));
  }
  std::set<std::string> present;
  for (const auto* item : FilesBelow(tree, folder + "/"))
    if (IsModule(item->first)) present.insert(item->first.substr(folder.size() + 1));
  const std::string index = folder + "/modules.dep";
  if (tree.Find(index) != nullptr) {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes text, tree.ReadFile(index, kMaxIndexBytes));
    if (ListedModules(AsText(text)) == present) return OkStatus();
    remarks.push_back(fmt::format("/{} did not name the modules that are there: computed anew", index));
  } else {
    remarks.push_back(fmt::format("/{} was missing: computed", index));
  }
  return Compute(tree, folder, release);
}

}  // namespace sealift::build
