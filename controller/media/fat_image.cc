#include "controller/media/fat_image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <set>

#include "controller/media/tools.h"
#include "shared/base/files.h"

namespace sealift::media {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMib = 1u << 20;
// With 512-byte clusters FAT32 begins at 65525 of them, about 33 MiB.
constexpr std::uint64_t kSmallest = 64 * kMib;
constexpr std::uint64_t kLargestCluster = 32u << 10;

// Files rounded up to clusters, the two tables (a 4-byte entry a cluster, at most 1/64 each with 512-byte
// clusters) and room for folders.
std::uint64_t SizeFor(const std::vector<MediaFile>& files) {
  std::uint64_t bytes = 4 * kMib;
  for (const MediaFile& file : files) {
    std::error_code unknown;
    const std::uintmax_t size = fs::file_size(file.source, unknown);
    if (!unknown) bytes += (size + kLargestCluster - 1) / kLargestCluster * kLargestCluster;
  }
  bytes += bytes / 32;
  return std::max(kSmallest, (bytes + kMib - 1) / kMib * kMib);
}

// A file that is not sparse: that the disk is full shows now.
Status Allocate(const fs::path& out, std::uint64_t bytes) {
  UniqueFd fd(::open(out.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  const int error = !fd.valid() ? errno : ::posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes));
  if (error == 0) return OkStatus();
  return ErrnoError(Code::kFailedPrecondition, error == ENOSPC ? Reason::kDiskFull : Reason::kFileUnwritable,
                    fmt::format("write '{}'", out.string()), "posix_fallocate", error);
}

// Every folder above a file, parents first.
std::set<std::string> Folders(const std::vector<MediaFile>& files) {
  std::set<std::string> folders;
  for (const MediaFile& file : files)
    for (std::size_t at = file.path.find('/'); at != std::string::npos; at = file.path.find('/', at + 1))
      folders.insert(file.path.substr(0, at));
  return folders;
}

}  // namespace

Status WriteFatImage(const fs::path& out, const std::vector<MediaFile>& files, const Stamp& stamp) {
  SEALIFT_CHECK(stamp.id.size() >= 8);
  SEALIFT_RETURN_IF_ERROR(Allocate(out, SizeFor(files)));
  SEALIFT_RETURN_IF_ERROR(RunMediaTool(
      {"mkfs.vfat", "-F", "32", "-n", "ESP", "--invariant", "-i", stamp.id.substr(0, 8), out.string()},
      stamp));
  std::vector<std::string> folders = {"mmd", "-i", out.string()};
  for (const std::string& folder : Folders(files)) folders.push_back("::/" + folder);
  if (folders.size() > 3) SEALIFT_RETURN_IF_ERROR(RunMediaTool(std::move(folders), stamp));
  for (const MediaFile& file : files) {
    SEALIFT_RETURN_IF_ERROR(
        RunMediaTool({"mcopy", "-i", out.string(), "-Q", file.source.string(), "::/" + file.path}, stamp));
  }
  return OkStatus();
}

}  // namespace sealift::media
