#include "controller/source/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

namespace sealift::build {
namespace {

constexpr std::size_t kMaxEntries = 1'000'000;
constexpr int kMaxLinks = 40;
constexpr std::array<std::string_view, 5> kEmptied = {"dev", "proc", "run", "sys", "tmp"};

Status Unusable(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kRootfsUnusable,
                   fmt::format("read root file system: {}", what));
}

Status SystemError(std::string_view path, std::string_view call) {
  return ErrnoError(Code::kFailedPrecondition, Reason::kFileUnreadable,
                    fmt::format("read root file system: '{}'", path), call, errno);
}

// Never through a symbolic link and never out of the tree.
int OpenBeneath(int root, const std::string& path, int flags) {
  struct open_how how {};
  how.flags = static_cast<__u64>(flags | O_CLOEXEC | O_NOFOLLOW);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  return static_cast<int>(::syscall(SYS_openat2, root, path.c_str(), &how, sizeof(how)));
}

// By way of /proc, since there is no call for a name below an open folder. Of the last part no link is
// followed.
bool HasCapability(int folder, const char* name) {
  const std::string path = fmt::format("/proc/self/fd/{}/{}", folder, name);
  return ::lgetxattr(path.c_str(), "security.capability", nullptr, 0) > 0;
}

std::string Join(std::string_view folder, std::string_view name) {
  return folder.empty() ? std::string(name) : fmt::format("{}/{}", folder, name);
}

bool HasControlCharacter(std::string_view name) {
  return std::any_of(name.begin(), name.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

}  // namespace

// Walks one folder after the other.
class TreeReader {
 public:
  TreeReader(Tree& tree, std::shared_ptr<const UniqueFd> root)
      : tree_(tree), store_(std::move(root)), root_(store_->get()), own_(::geteuid()) {}

  Status ReadAll() {
    std::vector<std::string> folders = {""};
    while (!folders.empty()) {
      const std::string folder = std::move(folders.back());
      folders.pop_back();
      SEALIFT_RETURN_IF_ERROR(ReadFolder(folder, folders));
    }
    return OkStatus();
  }

 private:
  Status ReadFolder(const std::string& folder, std::vector<std::string>& folders) {
    UniqueFd fd(OpenBeneath(root_, folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY));
    if (!fd.valid()) return SystemError(folder, "openat2");
    const int listing_fd = ::dup(fd.get());
    const std::unique_ptr<DIR, int (*)(DIR*)> listing(::fdopendir(listing_fd), ::closedir);
    if (listing == nullptr) return SystemError(folder, "fdopendir");
    while (true) {
      errno = 0;
      const dirent* item = ::readdir(listing.get());
      if (item == nullptr && errno != 0) return SystemError(folder, "readdir");
      if (item == nullptr) return OkStatus();
      const std::string_view name = item->d_name;
      if (name == "." || name == "..") continue;
      const std::string path = Join(folder, name);
      if (HasControlCharacter(name))
        return Unusable(fmt::format("a name with a control character in '{}'", folder));
      SEALIFT_RETURN_IF_ERROR(ReadEntry(fd.get(), item->d_name, path));
      if (tree_.entries_.size() > kMaxEntries) return Unusable("more than a million entries");
      const TreeEntry* entry = tree_.Find(path);
      const bool emptied = std::find(kEmptied.begin(), kEmptied.end(), path) != kEmptied.end();
      if (entry != nullptr && S_ISDIR(entry->mode) && !emptied) folders.push_back(path);
    }
  }

  Status ReadEntry(int folder, const char* name, const std::string& path) {
    struct stat info {};
    if (::fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW) != 0) return SystemError(path, "fstatat");
    if (S_ISSOCK(info.st_mode)) return OkStatus();
    TreeEntry entry{.mode = info.st_mode, .uid = Owner(info.st_uid), .gid = Owner(info.st_gid)};
    if (S_ISREG(info.st_mode)) {
      entry.size = static_cast<std::uint64_t>(info.st_size);
      if (entry.size > UINT32_MAX) return Unusable(fmt::format("'{}' is larger than 4 GiB", path));
      entry.store = store_;
      entry.source = path;
      entry.has_capability = (info.st_mode & 0111) != 0 && HasCapability(folder, name);
      if (info.st_nlink > 1) entry.link_group = {info.st_dev, info.st_ino};
    } else if (S_ISLNK(info.st_mode)) {
      std::array<char, 4096> target{};
      const ssize_t size = ::readlinkat(folder, name, target.data(), target.size());
      if (size < 0) return SystemError(path, "readlinkat");
      entry.target.assign(target.data(), static_cast<std::size_t>(size));
    } else if (S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode)) {
      entry.device_major = major(info.st_rdev);
      entry.device_minor = minor(info.st_rdev);
    }
    tree_.entries_.insert_or_assign(path, std::move(entry));
    return OkStatus();
  }

  std::uint32_t Owner(std::uint32_t id) const {
    return own_ != 0 && (id == own_ || id == ::getegid()) ? 0 : id;
  }

  Tree& tree_;
  std::shared_ptr<const UniqueFd> store_;
  int root_;
  std::uint32_t own_;
};

Result<Tree> Tree::ReadFolder(const std::filesystem::path& folder) {
  Tree tree;
  auto root = std::make_shared<UniqueFd>(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root->valid()) return SystemError(folder.string(), "open");
  SEALIFT_RETURN_IF_ERROR(TreeReader(tree, std::move(root)).ReadAll());
  return tree;
}

Result<Tree> Tree::Read(const std::filesystem::path& folder) {
  SEALIFT_ASSIGN_OR_RETURN(Tree tree, ReadFolder(folder));
  const Status status = tree.CheckHasUsr();
  if (!status.ok()) return Annotate(status, fmt::format("read '{}'", folder.string()));
  return tree;
}

Result<TreeEntry> Tree::FileAt(const std::filesystem::path& path) {
  auto file = std::make_shared<UniqueFd>(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file->valid()) return SystemError(path.string(), "open");
  struct stat info {};
  if (::fstat(file->get(), &info) != 0) return SystemError(path.string(), "fstat");
  if (!S_ISREG(info.st_mode)) {
    return MakeError(Code::kFailedPrecondition, Reason::kFileUnreadable,
                     fmt::format("read '{}': it is no regular file", path.string()));
  }
  return TreeEntry{
      .mode = info.st_mode, .size = static_cast<std::uint64_t>(info.st_size), .store = std::move(file)};
}

Status Tree::CheckHasUsr() const {
  const TreeEntry* usr = Find("usr");
  return usr != nullptr && S_ISDIR(usr->mode) ? OkStatus() : Unusable("it has no folder /usr");
}

const TreeEntry* Tree::Find(std::string_view path) const {
  const auto found = entries_.find(std::string(path));
  return found == entries_.end() ? nullptr : &found->second;
}

std::string Tree::Resolve(std::string_view path) const {
  std::vector<std::string> pending;
  const auto push = [&](std::string_view text) {
    std::vector<std::string> parts;
    while (!text.empty()) {
      const std::size_t slash = text.find('/');
      if (slash != 0) parts.emplace_back(text.substr(0, slash));
      text.remove_prefix(slash == std::string_view::npos ? text.size() : slash + 1);
    }
    pending.insert(pending.end(), parts.rbegin(), parts.rend());
  };
  push(path);
  std::string at;
  int links = 0;
  while (!pending.empty()) {
    const std::string part = std::move(pending.back());
    pending.pop_back();
    if (part == ".") continue;
    if (part == "..") {
      const std::size_t slash = at.rfind('/');
      at = slash == std::string::npos ? "" : at.substr(0, slash);
      continue;
    }
    const std::string next = Join(at, part);
    const TreeEntry* entry = Find(next);
    if (entry == nullptr) return {};
    if (!S_ISLNK(entry->mode)) {
      at = next;
      continue;
    }
    if (++links > kMaxLinks) return {};
    if (entry->target.starts_with('/')) at.clear();
    push(entry->target);
  }
  return at;
}

Result<Bytes> Tree::ReadFile(std::string_view path, std::uint64_t max_bytes) const {
  const TreeEntry* entry = Find(Resolve(path));
  if (entry == nullptr || !S_ISREG(entry->mode)) {
    return MakeError(Code::kNotFound, Reason::kRootfsUnusable,
                     fmt::format("read root file system: it has no file /{}", path));
  }
  if (entry->size > max_bytes) {
    return MakeError(Code::kInvalidArgument, Reason::kFileTooLarge,
                     fmt::format("read root file system: /{} is larger than {} bytes", path, max_bytes));
  }
  return Contents(*entry);
}

Result<ContentReader> Tree::Open(const TreeEntry& entry) {
  UniqueFd opened;
  if (entry.store != nullptr && !entry.source.empty()) {
    opened = UniqueFd(OpenBeneath(entry.store->get(), entry.source, O_RDONLY));
    if (!opened.valid()) return SystemError(entry.source, "openat2");
  }
  return ContentReader(entry, std::move(opened));
}

Result<Bytes> Tree::Contents(const TreeEntry& entry) {
  SEALIFT_ASSIGN_OR_RETURN(ContentReader reader, Open(entry));
  Bytes bytes(entry.size);
  SEALIFT_RETURN_IF_ERROR(reader.Read(bytes).status());
  std::uint8_t more = 0;
  SEALIFT_RETURN_IF_ERROR(reader.Read({&more, 1}).status());
  return bytes;
}

ContentReader::ContentReader(const TreeEntry& entry, UniqueFd opened)
    : entry_(entry), opened_(std::move(opened)) {}

Result<std::size_t> ContentReader::Read(std::span<std::uint8_t> into) {
  const auto changed = [&] {
    return MakeError(Code::kFailedPrecondition, Reason::kFileUnreadable,
                     fmt::format("read root file system: '{}' changed while it was packed", entry_.source));
  };
  const std::uint64_t left = entry_.size - done_;
  if (left == 0 && opened_.valid()) {
    std::uint8_t more = 0;
    SEALIFT_ASSIGN_OR_RETURN(const std::size_t grown, ReadAt({&more, 1}));
    if (grown != 0) return changed();
  }
  into = into.first(static_cast<std::size_t>(std::min<std::uint64_t>(into.size(), left)));
  if (entry_.store == nullptr) {
    std::copy_n(entry_.content.begin() + static_cast<std::ptrdiff_t>(done_), into.size(), into.begin());
  } else {
    SEALIFT_ASSIGN_OR_RETURN(const std::size_t got, ReadAt(into));
    if (got != into.size()) return changed();
  }
  done_ += into.size();
  return into.size();
}

Result<std::size_t> ContentReader::ReadAt(std::span<std::uint8_t> into) const {
  const int fd = opened_.valid() ? opened_.get() : entry_.store->get();
  std::size_t size = 0;
  while (size < into.size()) {
    const ssize_t got =
        ::pread(fd, into.data() + size, into.size() - size, static_cast<off_t>(entry_.offset + done_ + size));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError(entry_.source, "pread");
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  return size;
}

void Tree::Put(std::string_view path, TreeEntry entry) {
  const std::size_t slash = path.rfind('/');
  if (slash != std::string_view::npos && Find(path.substr(0, slash)) == nullptr)
    PutDirectory(path.substr(0, slash));
  entries_.insert_or_assign(std::string(path), std::move(entry));
}

void Tree::PutFile(std::string_view path, ByteView content, mode_t permissions) {
  Put(path, {.mode = S_IFREG | permissions, .size = content.size(), .content = ToBytes(content)});
}

void Tree::PutLink(std::string_view path, std::string_view target) {
  Put(path, {.mode = S_IFLNK | 0777, .target = std::string(target)});
}

void Tree::PutDirectory(std::string_view path, mode_t permissions) {
  Put(path, {.mode = S_IFDIR | permissions});
}

void Tree::Remove(std::string_view path) {
  RemoveContents(path);
  entries_.erase(std::string(path));
}

void Tree::RemoveVolatileContents() {
  for (const std::string_view folder : kEmptied) RemoveContents(folder);
}

void Tree::RemoveContents(std::string_view path) {
  if (path.empty()) {
    entries_.clear();
    return;
  }
  const std::string prefix = std::string(path) + "/";
  auto from = entries_.lower_bound(prefix);
  auto to = from;
  while (to != entries_.end() && to->first.starts_with(prefix)) ++to;
  entries_.erase(from, to);
}

}  // namespace sealift::build
