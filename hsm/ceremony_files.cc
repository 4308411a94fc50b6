#include "hsm/ceremony_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <set>

#include "shared/base/files.h"
#include "shared/base/log.h"

namespace sealift::hsm {
namespace {

Status Exists(const std::filesystem::path& folder) {
  return MakeError(Code::kAlreadyExists, Reason::kKeySetExists,
                   fmt::format("write key set '{}': it is already there", folder.string()));
}

// A folder that is removed again unless it was renamed away.
class Scratch {
 public:
  explicit Scratch(std::filesystem::path path) : path_(std::move(path)) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
    if (error) log::Warning("scratch folder stays", {{"path", path_.string()}, {"error", error.message()}});
  }

 private:
  std::filesystem::path path_;
};

mode_t ModeOf(const std::string& path) { return path.ends_with(".key.pem") ? 0600 : 0644; }

Status Fill(const std::filesystem::path& folder, const std::map<std::string, Bytes>& files) {
  for (const auto& [path, content] : files) {
    const auto target = folder / path;
    SEALIFT_RETURN_IF_ERROR(MakeDirectories(target.parent_path()));
    SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(target, content, ModeOf(path)));
  }
  if (chmod(folder.c_str(), 0755) == 0) return OkStatus();
  return ErrnoError(Code::kInternal, Reason::kFileUnwritable,
                    fmt::format("write key set '{}'", folder.string()), "chmod", errno);
}

}  // namespace

Status CheckAbsent(const std::filesystem::path& folder) {
  std::error_code error;
  const auto status = std::filesystem::symlink_status(folder, error);
  return std::filesystem::exists(status) ? Exists(folder) : OkStatus();
}

Status WriteFolderAtOnce(const std::filesystem::path& folder, const std::map<std::string, Bytes>& files) {
  auto target = std::filesystem::absolute(folder).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();  // "keys/"
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(target.parent_path()));
  std::string scratch = target.string() + ".new-XXXXXX";
  if (mkdtemp(scratch.data()) == nullptr) {
    return ErrnoError(Code::kInternal, Reason::kFileUnwritable,
                      fmt::format("write key set '{}'", target.string()), "mkdtemp", errno);
  }
  const Scratch cleanup(scratch);
  SEALIFT_RETURN_IF_ERROR(Fill(scratch, files));
  if (renameat2(AT_FDCWD, scratch.c_str(), AT_FDCWD, target.c_str(), RENAME_NOREPLACE) != 0) {
    if (errno == EEXIST) return Exists(target);
    return ErrnoError(Code::kInternal, Reason::kFileUnwritable,
                      fmt::format("write key set '{}'", target.string()), "renameat2", errno);
  }
  return SyncDirectory(target.parent_path());
}

Status ReplaceFiles(const std::filesystem::path& folder,
                    const std::vector<std::pair<std::string, Bytes>>& files) {
  std::string scratch = (folder / ".replace-XXXXXX").string();
  if (mkdtemp(scratch.data()) == nullptr) {
    return ErrnoError(Code::kInternal, Reason::kFileUnwritable,
                      fmt::format("write key set '{}'", folder.string()), "mkdtemp", errno);
  }
  const Scratch cleanup(scratch);
  for (const auto& [name, content] : files) {
    const auto staged = std::filesystem::path(scratch) / name;
    SEALIFT_RETURN_IF_ERROR(MakeDirectories(staged.parent_path()));
    SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(staged, content, ModeOf(name)));
    SEALIFT_RETURN_IF_ERROR(MakeDirectories((folder / name).parent_path()));
  }
  std::set<std::filesystem::path> folders;
  for (const auto& [name, content] : files) {
    if (&name == &files.back().first) {
      for (const auto& one : folders) SEALIFT_RETURN_IF_ERROR(SyncDirectory(one));
    }
    folders.insert((folder / name).parent_path());
    if (rename((std::filesystem::path(scratch) / name).c_str(), (folder / name).c_str()) == 0) continue;
    return ErrnoError(Code::kInternal, Reason::kFileUnwritable,
                      fmt::format("write key set '{}'", folder.string()), "rename", errno);
  }
  return SyncDirectory((folder / files.back().first).parent_path());
}

Result<FolderLock> FolderLock::Take(const std::filesystem::path& folder) {
  UniqueFd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    return ErrnoError(Code::kNotFound, Reason::kFileUnreadable,
                      fmt::format("open key set '{}'", folder.string()), "open", errno);
  }
  while (flock(fd.get(), LOCK_EX) != 0) {
    if (errno == EINTR) continue;
    return ErrnoError(Code::kInternal, Reason::kFileUnreadable,
                      fmt::format("lock key set '{}'", folder.string()), "flock", errno);
  }
  return FolderLock(std::move(fd));
}

}  // namespace sealift::hsm
