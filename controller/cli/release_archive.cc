#include "controller/cli/release_archive.h"

#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "controller/media/tar_file.h"
#include "controller/source/archive_reader.h"
#include "shared/base/files.h"
#include "shared/content/download.h"

namespace sealift::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxEntries = 1u << 20;

Status Invalid(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kReleaseArchiveInvalid,
                   fmt::format("unpack exported release: {}", what));
}

Status Unwritable(const fs::path& path, std::string_view call) {
  return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("write '{}'", path.string()),
                    call, errno);
}

// "metadata/x", "objects/x" or "x" of harmless characters. Folders end with a slash.
bool IsEntryName(std::string_view name) {
  for (const char c : name) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '/';
    if (!plain) return false;
  }
  if (name == "metadata/" || name == "objects/") return true;
  for (const std::string_view folder : {"metadata/", "objects/"})
    if (name.starts_with(folder)) name.remove_prefix(folder.size());
  return !name.empty() && name.find('/') == std::string_view::npos && name != "." && name != "..";
}

build::ByteSource BytesOf(int fd, const fs::path& path) {
  return [fd, path](std::span<std::uint8_t> into) -> Result<std::size_t> {
    while (true) {
      const ssize_t got = ::read(fd, into.data(), into.size());
      if (got >= 0) return static_cast<std::size_t>(got);
      if (errno == EINTR) continue;
      return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable, fmt::format("read '{}'", path.string()),
                        "read", errno);
    }
  };
}

// Refuses to hold more than the archive does: no hole in it becomes a large file.
Status WriteEntry(build::ArchiveReader& reader, const fs::path& path, std::uint64_t& left) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(path.parent_path()));
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd.valid())
    return errno == EEXIST ? Invalid(fmt::format("'{}' is there twice", path.string()))
                           : Unwritable(path, "open");
  std::uint64_t written = 0;
  SEALIFT_RETURN_IF_ERROR(reader.ReadContent([&](std::uint64_t offset, ByteView piece) -> Status {
    if (offset != written || piece.size() > left) return Invalid("a file in it has holes");
    written += piece.size();
    left -= piece.size();
    return WriteAll(fd.get(), path, piece);
  }));
  return fd.Close();
}

}  // namespace

Status PackRelease(const fs::path& folder, const fs::path& file) {
  SEALIFT_ASSIGN_OR_RETURN(const auto files, media::ListFiles(folder));
  const fs::path partial = file.string() + ".partial";
  SEALIFT_RETURN_IF_ERROR(media::WriteTar(partial, files, UnixMillis()).status());
  const UniqueFd written(::open(partial.c_str(), O_RDONLY | O_CLOEXEC));
  if (!written.valid() || ::fsync(written.get()) != 0) return Unwritable(partial, "fsync");
  if (::rename(partial.c_str(), file.c_str()) != 0) return Unwritable(file, "rename");
  return SyncDirectory(fs::absolute(file).parent_path());
}

Status UnpackRelease(const fs::path& file, const fs::path& into) {
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  const off_t size = fd.valid() ? ::lseek(fd.get(), 0, SEEK_END) : -1;
  if (size < 0 || ::lseek(fd.get(), 0, SEEK_SET) != 0) {
    return ErrnoError(Code::kNotFound, Reason::kFileUnreadable, fmt::format("read '{}'", file.string()),
                      "open", errno);
  }
  auto left = static_cast<std::uint64_t>(size);
  build::ArchiveReader reader(BytesOf(fd.get(), file));
  for (std::size_t entries = 0;; ++entries) {
    const Result<archive_entry*> entry = reader.Next();
    if (!entry.ok()) return Invalid(Describe(entry.status()));
    if (*entry == nullptr) break;
    const char* const given = archive_entry_pathname(*entry);
    const std::string name = given == nullptr ? "" : given;
    if (entries >= kMaxEntries || !IsEntryName(name))
      return Invalid("it holds a file that does not belong to it");
    if (archive_entry_filetype(*entry) == AE_IFDIR && name.ends_with('/')) continue;
    if (archive_entry_filetype(*entry) != AE_IFREG || archive_entry_hardlink(*entry) != nullptr)
      return Invalid(fmt::format("'{}' is no file", name));
    const Status written = WriteEntry(reader, into / name, left);
    if (ReasonOf(written) == Reason::kSourceUnusable) return Invalid(Describe(written));
    SEALIFT_RETURN_IF_ERROR(written);
  }
  SEALIFT_ASSIGN_OR_RETURN(const auto files, media::ListFiles(into));
  SEALIFT_ASSIGN_OR_RETURN(const media::WrittenTar expected,
                           media::WriteTar("/dev/null", files, UnixMillis()));
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest found,
                           content::HashFile(file, std::max<std::uint64_t>(expected.bytes, 1)));
  if (found == expected.digest) return OkStatus();
  return Invalid(fmt::format("'{}' is not as it was written", file.string()));
}

}  // namespace sealift::cli
