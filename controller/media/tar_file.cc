#include "controller/media/tar_file.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <set>

#include "shared/base/files.h"
#include "shared/crypto/hash.h"

namespace sealift::media {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBuffer = 1u << 20;

// What libarchive writes to: hashed on the way. libarchive's callbacks may not throw and do not.
struct Sink {
  fs::path path;
  UniqueFd fd;
  Sha256Hasher hasher;
  std::uint64_t bytes = 0;
  Status status;

  static la_ssize_t Write(struct archive*, void* self, const void* buffer, std::size_t size) {
    Sink& sink = *static_cast<Sink*>(self);
    const ByteView view(static_cast<const std::uint8_t*>(buffer), size);
    sink.status = WriteAll(sink.fd.get(), sink.path, view);
    if (!sink.status.ok()) return -1;
    sink.hasher.Update(view);
    sink.bytes += size;
    return static_cast<la_ssize_t>(size);
  }
};

class TarWriter {
 public:
  TarWriter(Sink& sink, UnixMillis time)
      : sink_(sink), seconds_(static_cast<time_t>(ToUnixMs(time) / 1000)) {}

  Status Open() {
    if (archive_write_set_format_ustar(archive_.get()) != ARCHIVE_OK ||
        archive_write_open(archive_.get(), &sink_, nullptr, &Sink::Write, nullptr) != ARCHIVE_OK)
      return Failed();
    return OkStatus();
  }

  Status AddFolder(const std::string& path) { return Header(path + "/", AE_IFDIR, 0755, 0); }

  Status AddFile(const MediaFile& file) {
    const UniqueFd fd(::open(file.source.c_str(), O_RDONLY | O_CLOEXEC));
    const off_t size = fd.valid() ? ::lseek(fd.get(), 0, SEEK_END) : -1;
    if (size < 0 || ::lseek(fd.get(), 0, SEEK_SET) != 0) return Unreadable(file, errno);
    SEALIFT_RETURN_IF_ERROR(Header(file.path, AE_IFREG, 0644, size));
    Bytes buffer(kBuffer);
    off_t left = size;
    while (left > 0) {
      const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return Unreadable(file, got == 0 ? ENODATA : errno);
      if (archive_write_data(archive_.get(), buffer.data(), static_cast<std::size_t>(got)) != got)
        return Failed();
      left -= got;
    }
    return OkStatus();
  }

  Status Close() { return archive_write_close(archive_.get()) == ARCHIVE_OK ? OkStatus() : Failed(); }

 private:
  Status Header(const std::string& path, unsigned type, mode_t mode, off_t size) {
    const std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(archive_entry_new(),
                                                                         archive_entry_free);
    archive_entry_set_pathname(entry.get(), path.c_str());
    archive_entry_set_filetype(entry.get(), type);
    archive_entry_set_perm(entry.get(), mode);
    archive_entry_set_size(entry.get(), size);
    archive_entry_set_mtime(entry.get(), seconds_, 0);
    return archive_write_header(archive_.get(), entry.get()) == ARCHIVE_OK ? OkStatus() : Failed();
  }

  Status Failed() const {
    if (!sink_.status.ok()) return sink_.status;
    const char* said = archive_error_string(archive_.get());
    return MakeError(
        Code::kFailedPrecondition, Reason::kFileUnwritable,
        fmt::format("write '{}': {}", sink_.path.string(), said == nullptr ? "no reason given" : said));
  }
  static Status Unreadable(const MediaFile& file, int error) {
    return ErrnoError(Code::kFailedPrecondition, Reason::kFileUnreadable,
                      fmt::format("read '{}'", file.source.string()), "read", error);
  }

  Sink& sink_;
  time_t seconds_;
  std::unique_ptr<struct archive, int (*)(struct archive*)> archive_{archive_write_new(), archive_write_free};
};

}  // namespace

Result<WrittenTar> WriteTar(const fs::path& out, const std::vector<MediaFile>& files, UnixMillis time) {
  Sink sink{.path = out, .fd = UniqueFd(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644))};
  if (!sink.fd.valid()) {
    return ErrnoError(Code::kFailedPrecondition, Reason::kFileUnwritable,
                      fmt::format("write '{}'", out.string()), "open", errno);
  }
  TarWriter writer(sink, time);
  SEALIFT_RETURN_IF_ERROR(writer.Open());
  std::set<std::string> folders;
  for (const MediaFile& file : files) {
    for (std::size_t at = file.path.find('/'); at != std::string::npos; at = file.path.find('/', at + 1)) {
      const std::string folder = file.path.substr(0, at);
      if (folders.insert(folder).second) SEALIFT_RETURN_IF_ERROR(writer.AddFolder(folder));
    }
    SEALIFT_RETURN_IF_ERROR(writer.AddFile(file));
  }
  SEALIFT_RETURN_IF_ERROR(writer.Close());
  SEALIFT_RETURN_IF_ERROR(sink.fd.Close());
  return WrittenTar{.digest = sink.hasher.Finish(), .bytes = sink.bytes};
}

}  // namespace sealift::media
