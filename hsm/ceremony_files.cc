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

Status Unwritable(const std::filesystem::path& folder, const char* call) {
  return ErrnoError(Code::kInternal, Reason::kFileUnwritable,
                    fmt::format("write key set '{}'", folder.string()), call, errno);
}

Status Fill(const std::filesystem::path& folder, const std::map<std::string, Bytes>& files) {
  for (const auto& [path, content] : files) {
    const auto target = folder / path;
    SEALIFT_RETURN_IF_ERROR(MakeDirectories(target.parent_path()));
    SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(target, content, ModeOf(path)));
  }
  return chmod(folder.c_str(), 0755) == 0 ? OkStatus() : Unwritable(folder, "chmod");
}

// Folders are made beside the target, so that a full disk leaves none of them empty.
Status Stage(const std::filesystem::path& scratch, const std::vector<std::pair<std::string, Bytes>>& files) {
  for (const auto& [name, content] : files) {
    SEALIFT_RETURN_IF_ERROR(MakeDirectories((scratch / name).parent_path()));
    SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(scratch / name, content, ModeOf(name)));
  }
  return OkStatus();
}

// The outermost folder of `name` that `folder` lacks; `name` itself where it lacks none.
std::filesystem::path FirstMissing(const std::filesystem::path& folder, const std::filesystem::path& name) {
  std::filesystem::path path;
  for (const auto& part : name) {
    path /= part;
    std::error_code error;
    if (!std::filesystem::exists(folder / path, error)) break;
  }
  return path;
}

}  // namespace

Status CheckAbsent(const std::filesystem::path& folder) {
  std::error_code error;
  const auto status = std::filesystem::symlink_status(folder, error);
  return std::filesystem::exists(status) ? Exists(folder) : OkStatus();
}

Written WriteFolderAtOnce(const std::filesystem::path& folder, const std::map<std::string, Bytes>& files) {
  auto target = std::filesystem::absolute(folder).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();  // "keys/"
  if (Status made = MakeDirectories(target.parent_path()); !made.ok()) return {.status = std::move(made)};
  std::string scratch = target.string() + ".new-XXXXXX";
  if (mkdtemp(scratch.data()) == nullptr) return {.status = Unwritable(target, "mkdtemp")};
  const Scratch cleanup(scratch);
  if (Status filled = Fill(scratch, files); !filled.ok()) return {.status = std::move(filled)};
  if (renameat2(AT_FDCWD, scratch.c_str(), AT_FDCWD, target.c_str(), RENAME_NOREPLACE) != 0) {
    return {.status = errno == EEXIST ? Exists(target) : Unwritable(target, "renameat2")};
  }
  return {.status = SyncDirectory(target.parent_path()), .in_place = Written::InPlace::kAll};
}

Written ReplaceFiles(const std::filesystem::path& folder,
                     const std::vector<std::pair<std::string, Bytes>>& files) {
  std::string scratch = (folder / ".replace-XXXXXX").string();
  if (mkdtemp(scratch.data()) == nullptr) return {.status = Unwritable(folder, "mkdtemp")};
  const Scratch cleanup(scratch);
  if (Status staged = Stage(scratch, files); !staged.ok()) return {.status = std::move(staged)};
  Written written;
  std::set<std::filesystem::path> folders;
  for (const auto& [name, content] : files) {
    const bool last = &name == &files.back().first;
    for (const auto& one : folders) {
      if (last && written.status.ok()) written.status = SyncDirectory(one);
    }
    if (!written.status.ok()) return written;
    const std::filesystem::path moved = FirstMissing(folder, name);
    const auto from = std::filesystem::path(scratch) / moved;
    std::error_code error;
    if (!std::filesystem::exists(from, error)) continue;  // went with its folder
    if (rename(from.c_str(), (folder / moved).c_str()) != 0) {
      written.status = Unwritable(folder, "rename");
      return written;
    }
    written.in_place = Written::InPlace::kSome;
    folders.insert((folder / moved).parent_path());
  }
  written.in_place = Written::InPlace::kAll;
  if (!files.empty()) written.status = SyncDirectory((folder / files.back().first).parent_path());
  return written;
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
