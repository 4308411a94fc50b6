#include "controller/source/archive_reader.h"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>
#include <locale.h>

#include <algorithm>

namespace sealift::build {
namespace {

constexpr std::size_t kPieceBytes = 128u << 10;

// Names in tar archives are bytes or UTF-8. libarchive converts them to the thread's locale, whatever that
// is.
class Utf8Names {
 public:
  Utf8Names() : locale_(::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)), before_(::uselocale(locale_)) {
    SEALIFT_CHECK(locale_ != nullptr);
  }
  Utf8Names(const Utf8Names&) = delete;
  Utf8Names& operator=(const Utf8Names&) = delete;
  ~Utf8Names() {
    ::uselocale(before_);
    ::freelocale(locale_);
  }

 private:
  locale_t locale_;
  locale_t before_;
};

ArchivePtr NewArchive() {
  ArchivePtr archive(::archive_read_new(), ::archive_read_free);
  SEALIFT_CHECK(archive != nullptr);
  return archive;
}

Status ArchiveError(archive* from, std::string_view what) {
  const char* text = ::archive_error_string(from);
  return MakeError(Code::kInvalidArgument, Reason::kSourceUnusable,
                   fmt::format("read {}: {}", what, text == nullptr ? "it is damaged" : text));
}

// libarchive's read callback. Why the source failed is kept in `status`, since libarchive has no place for
// it.
long FeedFrom(const ByteSource& source, Bytes& buffer, Status& status, archive* from, const void** bytes) {
  const Result<std::size_t> got = source(buffer);
  if (!got.ok()) {
    status = got.status();
    ::archive_set_error(from, EIO, "the source failed");
    return ARCHIVE_FATAL;
  }
  *bytes = buffer.data();
  return static_cast<long>(*got);
}

}  // namespace

Decompressor::Decompressor(ByteSource source)
    : source_(std::move(source)), buffer_(kPieceBytes), archive_(NewArchive()) {}

Result<std::unique_ptr<Decompressor>> Decompressor::Open(ByteSource compressed) {
  std::unique_ptr<Decompressor> self(new Decompressor(std::move(compressed)));
  archive* archive = self->archive_.get();
  // Anything but OK would mean that a program of that name is run.
  for (const auto support : {::archive_read_support_filter_gzip, ::archive_read_support_filter_zstd,
                             ::archive_read_support_filter_xz, ::archive_read_support_filter_bzip2})
    SEALIFT_CHECK(support(archive) == ARCHIVE_OK);
  ::archive_read_support_format_raw(archive);
  ::archive_read_support_format_empty(archive);
  if (::archive_read_open(archive, self.get(), nullptr, &Decompressor::Feed, nullptr) != ARCHIVE_OK)
    return self->Failed(archive, "compressed data");
  // The count includes the one that does nothing.
  constexpr int kOneFilter = 2;
  if (::archive_filter_count(archive) > kOneFilter) {
    return MakeError(Code::kInvalidArgument, Reason::kSourceUnusable,
                     "read compressed data: it is compressed more than once");
  }
  archive_entry* entry = nullptr;
  const int code = ::archive_read_next_header(archive, &entry);
  if (code == ARCHIVE_EOF)
    self->ended_ = true;
  else if (code != ARCHIVE_OK)
    return self->Failed(archive, "compressed data");
  return self;
}

Result<std::size_t> Decompressor::Read(std::span<std::uint8_t> into) {
  if (ended_) return std::size_t{0};
  const la_ssize_t got = ::archive_read_data(archive_.get(), into.data(), into.size());
  if (got < 0) return Failed(archive_.get(), "compressed data");
  ended_ = got == 0;
  return static_cast<std::size_t>(got);
}

Status Decompressor::Failed(archive* from, std::string_view what) const {
  return status_.ok() ? ArchiveError(from, what) : status_;
}

long Decompressor::Feed(archive* from, void* self, const void** bytes) {
  auto* const me = static_cast<Decompressor*>(self);
  return FeedFrom(me->source_, me->buffer_, me->status_, from, bytes);
}

ArchiveReader::ArchiveReader(ByteSource plain, Format format)
    : source_(std::move(plain)), buffer_(kPieceBytes), archive_(NewArchive()) {
  if (format == Format::kTar)
    ::archive_read_support_format_tar(archive_.get());
  else
    ::archive_read_support_format_ar(archive_.get());
  ::archive_read_support_format_empty(archive_.get());
}

Result<archive_entry*> ArchiveReader::Next() {
  const Utf8Names names;
  if (!opened_) {
    if (::archive_read_open(archive_.get(), this, nullptr, &ArchiveReader::Feed, nullptr) != ARCHIVE_OK)
      return Failed();
    opened_ = true;
  }
  archive_entry* entry = nullptr;
  const int code = ::archive_read_next_header(archive_.get(), &entry);
  if (code == ARCHIVE_EOF) return nullptr;
  if (code != ARCHIVE_OK) return Failed();
  return entry;
}

Status ArchiveReader::ReadContent(const std::function<Status(std::uint64_t, ByteView)>& take) {
  while (true) {
    const void* bytes = nullptr;
    std::size_t size = 0;
    la_int64_t offset = 0;
    const int code = ::archive_read_data_block(archive_.get(), &bytes, &size, &offset);
    if (code == ARCHIVE_EOF) return OkStatus();
    if (code != ARCHIVE_OK || offset < 0) return Failed();
    if (size == 0) continue;
    SEALIFT_RETURN_IF_ERROR(
        take(static_cast<std::uint64_t>(offset), {static_cast<const std::uint8_t*>(bytes), size}));
  }
}

Status ArchiveReader::Failed() { return status_.ok() ? ArchiveError(archive_.get(), "archive") : status_; }

long ArchiveReader::Feed(archive* from, void* self, const void** bytes) {
  auto* const me = static_cast<ArchiveReader*>(self);
  return FeedFrom(me->source_, me->buffer_, me->status_, from, bytes);
}

}  // namespace sealift::build
