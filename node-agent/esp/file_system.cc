#include "node-agent/esp/file_system.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/base/log.h"
#include "shared/crypto/hash.h"

namespace sealift::agent {
namespace {

constexpr int kMaxLeftOver = 16;

}  // namespace

std::string_view ParentOf(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}

Status FileSystem::CheckPath(std::string_view path) {
  const auto refuse = [path] {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("use path '{}' on the ESP: not a plain relative path", path));
  };
  if (path.empty()) return OkStatus();  // the root itself
  if (path.size() > 1024 || path.find('\0') != std::string_view::npos) return refuse();
  std::string_view rest = path;
  while (true) {
    const std::size_t slash = rest.find('/');
    const std::string_view part = rest.substr(0, slash);
    if (part.empty() || part == "." || part == ".." || part.find('\\') != std::string_view::npos) {
      return refuse();
    }
    if (slash == std::string_view::npos) return OkStatus();
    rest.remove_prefix(slash + 1);
  }
}

Result<Bytes> FileSystem::Read(std::string_view path, std::uint64_t max_bytes) {
  Bytes bytes;
  SEALIFT_RETURN_IF_ERROR(ReadPieces(path, [&](ByteView piece) {
    if (bytes.size() + piece.size() > max_bytes) {
      return MakeError(Code::kInvalidArgument, Reason::kFileTooLarge,
                       fmt::format("read '{}': more than {} bytes", path, max_bytes));
    }
    Append(bytes, piece);
    return OkStatus();
  }));
  return bytes;
}

Result<FileSystem::Measured> FileSystem::Measure(std::string_view path) {
  Sha256Hasher hasher;
  Measured measured;
  SEALIFT_RETURN_IF_ERROR(ReadPieces(path, [&](ByteView piece) {
    hasher.Update(piece);
    measured.size += piece.size();
    return OkStatus();
  }));
  measured.digest = hasher.Finish();
  return measured;
}

bool FileSystem::Exists(std::string_view path) {
  const Result<std::vector<DirectoryEntry>> entries = List(ParentOf(path));
  if (!entries.ok()) return false;
  const std::string_view parent = ParentOf(path);
  const std::string_view name = parent.empty() ? path : path.substr(parent.size() + 1);
  const auto same = [](char a, char b) {
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
    return lower(a) == lower(b);
  };
  return std::any_of(entries->begin(), entries->end(), [&](const DirectoryEntry& entry) {
    return std::equal(entry.name.begin(), entry.name.end(), name.begin(), name.end(), same);
  });
}

Status FileSystem::Replace(std::string_view path, ByteView bytes) {
  // One that is there already may share its clusters with a file: see kTemporarySuffix.
  std::string temporary = fmt::format("{}{}", path, kTemporarySuffix);
  for (int i = 1; i <= kMaxLeftOver && Exists(temporary); ++i)
    temporary = fmt::format("{}.{}{}", path, i, kTemporarySuffix);
  const auto write = [&]() -> Status {
    SEALIFT_ASSIGN_OR_RETURN(std::unique_ptr<FileWriter> writer, Create(temporary));
    SEALIFT_RETURN_IF_ERROR(writer->Write(bytes));
    SEALIFT_RETURN_IF_ERROR(writer->Sync());
    return Rename(temporary, path);
  };
  if (Status status = write(); !status.ok()) {
    if (Status removed = Remove(temporary); !removed.ok() && removed.code() != Code::kNotFound) {
      log::Warning("a temporary file stays on the ESP", {{"path", temporary}, {"error", Describe(removed)}});
    }
    return status;
  }
  return SyncDirectory(ParentOf(path));
}

Status FileSystem::MakeDurableDirectory(std::string_view path) {
  if (path.empty() || List(path).ok()) return OkStatus();
  SEALIFT_RETURN_IF_ERROR(MakeDurableDirectory(ParentOf(path)));
  // A cut may leave a folder whose cluster is not its own. So it gets its name only once it is durable, and
  // one that was left over is neither used nor removed.
  std::string temporary;
  Status made = MakeError(Code::kUnavailable, Reason::kEspIo,
                          fmt::format("make directory '{}' on the ESP: too many were left over", path));
  for (int i = 0; i <= kMaxLeftOver; ++i) {
    temporary = i == 0 ? fmt::format("{}{}", path, kTemporarySuffix)
                       : fmt::format("{}.{}{}", path, i, kTemporarySuffix);
    if (Exists(temporary)) continue;
    made = MakeDirectory(temporary);
    // Some that were left over cannot be listed, but their names are taken.
    if (made.code() != Code::kUnavailable) break;
  }
  SEALIFT_RETURN_IF_ERROR(made);
  SEALIFT_RETURN_IF_ERROR(SyncDirectory(ParentOf(path)));
  SEALIFT_RETURN_IF_ERROR(Rename(temporary, path));
  return SyncDirectory(ParentOf(path));
}

}  // namespace sealift::agent
