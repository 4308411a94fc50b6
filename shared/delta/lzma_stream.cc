#include "shared/delta/lzma_stream.h"

#include <algorithm>
#include <array>

namespace sealift::delta {
namespace {

constexpr std::size_t kBufferBytes = 64u << 10;

lzma_options_lzma Options() {
  lzma_options_lzma options{};
  SEALIFT_CHECK(lzma_lzma_preset(&options, 6 | LZMA_PRESET_EXTREME) == 0);
  options.dict_size = kStreamDictionaryBytes;
  return options;
}

}  // namespace

LzmaWriter::LzmaWriter(Bytes& to) : to_(to), buffer_(kBufferBytes) {
  lzma_options_lzma options = Options();
  const std::array<lzma_filter, 2> filters{
      {{.id = LZMA_FILTER_LZMA2, .options = &options}, {.id = LZMA_VLI_UNKNOWN, .options = nullptr}}};
  SEALIFT_CHECK(lzma_raw_encoder(&stream_, filters.data()) == LZMA_OK);
}

void LzmaWriter::Code(ByteView bytes, lzma_action action) {
  stream_.next_in = bytes.data();
  stream_.avail_in = bytes.size();
  while (true) {
    stream_.next_out = buffer_.data();
    stream_.avail_out = buffer_.size();
    const lzma_ret result = lzma_code(&stream_, action);
    Append(to_, ByteView(buffer_).first(buffer_.size() - stream_.avail_out));
    if (result == LZMA_STREAM_END) return;
    // Only its memory can fail, and that was taken when it began.
    SEALIFT_CHECK(result == LZMA_OK || result == LZMA_BUF_ERROR);
    if (action == LZMA_RUN && stream_.avail_in == 0 && stream_.avail_out > 0) return;
  }
}

LzmaReader::LzmaReader(const OpenFile& file, DeltaLayout::Extent extent)
    : file_(file), rest_(extent), packed_(kBufferBytes), unpacked_(kBufferBytes) {
  lzma_options_lzma options = Options();
  const std::array<lzma_filter, 2> filters{
      {{.id = LZMA_FILTER_LZMA2, .options = &options}, {.id = LZMA_VLI_UNKNOWN, .options = nullptr}}};
  SEALIFT_CHECK(lzma_raw_decoder(&stream_, filters.data()) == LZMA_OK);
}

Status LzmaReader::Damaged() {
  return MakeError(sealift::Code::kInvalidArgument, Reason::kDeltaInvalid,
                   "read delta: one of its streams is damaged");
}

Status LzmaReader::Fill() {
  stream_.next_out = unpacked_.data();
  stream_.avail_out = unpacked_.size();
  while (stream_.avail_out > 0 && !ended_) {
    if (stream_.avail_in == 0 && rest_.size > 0) {
      const auto piece = std::span(packed_).first(
          static_cast<std::size_t>(std::min<std::uint64_t>(rest_.size, packed_.size())));
      SEALIFT_RETURN_IF_ERROR(file_.ReadAt(rest_.offset, piece));
      rest_.offset += piece.size();
      rest_.size -= piece.size();
      stream_.next_in = piece.data();
      stream_.avail_in = piece.size();
    }
    const lzma_ret result = lzma_code(&stream_, LZMA_RUN);
    ended_ = result == LZMA_STREAM_END;
    if (result != LZMA_OK && result != LZMA_STREAM_END) return Damaged();
  }
  made_ = ByteView(unpacked_).first(unpacked_.size() - stream_.avail_out);
  return OkStatus();
}

Status LzmaReader::Read(std::span<std::uint8_t> out) {
  while (!out.empty()) {
    if (made_.empty()) SEALIFT_RETURN_IF_ERROR(Fill());
    if (made_.empty()) return Damaged();
    const std::size_t size = std::min(out.size(), made_.size());
    std::copy_n(made_.begin(), size, out.begin());
    made_ = made_.subspan(size);
    out = out.subspan(size);
  }
  return OkStatus();
}

Result<std::uint64_t> LzmaReader::Number() {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 63; shift += 7) {
    if (made_.empty()) SEALIFT_RETURN_IF_ERROR(Fill());
    if (made_.empty()) return Damaged();
    const std::uint8_t byte = made_.front();
    made_ = made_.subspan(1);
    value |= static_cast<std::uint64_t>(byte & 0x7fu) << shift;
    if (byte < 0x80) return value;
  }
  return Damaged();
}

Status LzmaReader::ExpectEnd() {
  if (made_.empty()) SEALIFT_RETURN_IF_ERROR(Fill());
  return made_.empty() && rest_.size == 0 && stream_.avail_in == 0 ? OkStatus() : Damaged();
}

}  // namespace sealift::delta
