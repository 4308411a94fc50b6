#include "controller/publish/content_collector.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

#include "controller/publish/content_lock.h"
#include "shared/delta/content_list.h"
#include "shared/delta/image_index.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;

// Whether it was neither written nor asked for since.
bool IsOld(const struct stat& info, std::chrono::seconds grace) {
  return std::time(nullptr) - info.st_mtime > grace.count();
}

Status AddIndex(const delta::ContentName& name, ContentStore& store, std::set<Sha256Digest>& reachable) {
  reachable.insert(name.digest);
  const Result<Bytes> bytes = store.ReadAll(name.digest, delta::kMaxIndexBytes);
  if (bytes.status().code() == Code::kNotFound) return OkStatus();
  SEALIFT_RETURN_IF_ERROR(bytes.status());
  SEALIFT_ASSIGN_OR_RETURN(const delta::ImageIndex index, delta::ParseImageIndex(*bytes));
  for (const delta::IndexedPart& part : index.parts)
    if (!part.object.none()) reachable.insert(part.object.digest);
  return OkStatus();
}

Status AddList(const tuf::Target& target, ContentStore& store, std::set<Sha256Digest>& reachable) {
  const Result<Bytes> bytes = store.ReadAll(target.sha256, delta::kMaxContentListBytes);
  if (bytes.status().code() == Code::kNotFound) return OkStatus();
  SEALIFT_RETURN_IF_ERROR(bytes.status());
  SEALIFT_ASSIGN_OR_RETURN(const delta::ContentList list, delta::ParseContentList(AsText(*bytes)));
  for (const auto& [image, content] : list.images) {
    if (content.index) SEALIFT_RETURN_IF_ERROR(AddIndex(*content.index, store, reachable));
    for (const auto& [from, name] : content.deltas) reachable.insert(name.digest);
  }
  return OkStatus();
}

Status CollectOne(const fs::path& directory, const fs::path& path, std::chrono::seconds grace, bool dry_run,
                  Collected& collected) {
  // From the look to the removal nobody renews it or writes it anew.
  SEALIFT_ASSIGN_OR_RETURN(const UniqueFd lock, LockContent(directory, ContentLock::kCollection));
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return OkStatus();
  if (!IsOld(info, grace)) {
    ++collected.kept;
    return OkStatus();
  }
  if (!dry_run && ::unlink(path.c_str()) != 0) {
    return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("collect '{}'", path.string()),
                      "unlink", errno);
  }
  ++collected.objects;
  collected.bytes += static_cast<std::uint64_t>(info.st_size);
  return OkStatus();
}

}  // namespace

Result<std::set<Sha256Digest>> ReachableContent(const std::vector<tuf::Targets>& targets,
                                                ContentStore& store) {
  std::set<Sha256Digest> reachable;
  const std::string ending = fmt::format("/{}", delta::kContentListName);
  for (const tuf::Targets& role : targets) {
    for (const auto& [name, target] : role.targets) {
      reachable.insert(target.sha256);
      if (name.ends_with(ending)) SEALIFT_RETURN_IF_ERROR(AddList(target, store, reachable));
    }
  }
  return reachable;
}

Result<Collected> CollectContent(const fs::path& directory, const std::set<Sha256Digest>& reachable,
                                 std::chrono::seconds grace, bool dry_run) {
  Collected collected;
  std::error_code error;
  for (const auto& folder : fs::directory_iterator(directory / "objects", error)) {
    std::error_code inner;
    for (const auto& entry : fs::directory_iterator(folder.path(), inner)) {
      const Result<Sha256Digest> digest = Sha256Digest::FromHex(entry.path().filename().string());
      // Others, as what was put aside as damaged, are for a person.
      if (!digest.ok() || reachable.contains(*digest)) continue;
      SEALIFT_RETURN_IF_ERROR(CollectOne(directory, entry.path(), grace, dry_run, collected));
    }
  }
  if (!error) return collected;
  return MakeError(Code::kUnavailable, Reason::kFileUnreadable,
                   fmt::format("read '{}': {}", (directory / "objects").string(), error.message()));
}

}  // namespace sealift::controller
