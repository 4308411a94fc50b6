#include "controller/publish/content_collector.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

#include "shared/delta/content_list.h"
#include "shared/delta/image_index.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;

Status MoveError(const fs::path& path, std::string_view call) {
  return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("collect '{}'", path.string()),
                    call, errno);
}

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

// A killed collection's.
Status PutBack(const fs::path& directory, const fs::path& aside) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(aside, error)) {
    const std::string name = entry.path().filename().string();
    const fs::path place = directory / "objects" / name.substr(0, 2) / name;
    if (::rename(entry.path().c_str(), place.c_str()) != 0 && errno != ENOENT)
      return MoveError(place, "rename");
  }
  return OkStatus();
}

Status CollectOne(const fs::path& path, const fs::path& aside, std::chrono::seconds grace,
                  Collected& collected) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return OkStatus();
  if (!IsOld(info, grace)) {
    ++collected.kept;
    return OkStatus();
  }
  const fs::path moved = aside / path.filename();
  if (::rename(path.c_str(), moved.c_str()) != 0)
    return errno == ENOENT ? OkStatus() : MoveError(path, "rename");
  // Between the look and the move somebody may have asked for it. From now on he is told that it is not here.
  if (::lstat(moved.c_str(), &info) == 0 && !IsOld(info, grace)) {
    ++collected.kept;
    return ::rename(moved.c_str(), path.c_str()) == 0 ? OkStatus() : MoveError(path, "rename");
  }
  if (::unlink(moved.c_str()) != 0) return MoveError(moved, "unlink");
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
                                 std::chrono::seconds grace) {
  const fs::path aside = directory / "collecting";
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(aside));
  SEALIFT_RETURN_IF_ERROR(PutBack(directory, aside));
  Collected collected;
  std::error_code error;
  for (const auto& folder : fs::directory_iterator(directory / "objects", error)) {
    std::error_code inner;
    for (const auto& entry : fs::directory_iterator(folder.path(), inner)) {
      const Result<Sha256Digest> digest = Sha256Digest::FromHex(entry.path().filename().string());
      // Others, as what was put aside as damaged, are for a person.
      if (!digest.ok() || reachable.contains(*digest)) continue;
      SEALIFT_RETURN_IF_ERROR(CollectOne(entry.path(), aside, grace, collected));
    }
  }
  if (!error) return collected;
  return MakeError(Code::kUnavailable, Reason::kFileUnreadable,
                   fmt::format("read '{}': {}", (directory / "objects").string(), error.message()));
}

}  // namespace sealift::controller
