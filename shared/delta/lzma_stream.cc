#include "shared/delta/lzma_stream.h"

#include <algorithm>
#include <array>

namespace sealift::delta {
namespace {

constexpr std::size_t kBufferBytes = 64u << 10;

Status Damaged() {
  return MakeError(sealift::Code::kInvalidArgument, Reason::kDeltaInvalid,
                   "read delta: one of its streams is damaged");
}

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
    : file_(file), rest_(extent), buffer_(kBufferBytes) {
  lzma_options_lzma options = Options();
  const std::array<lzma_filter, 2> filters{
      {{.id = LZMA_FILTER_LZMA2, .options = &options}, {.id = LZMA_VLI_UNKNOWN, .options = nullptr}}};
  SEALIFT_CHECK(lzma_raw_decoder(&stream_, filters.data()) == LZMA_OK);
}

Result<std::size_t> LzmaReader::Fill(std::span<std::uint8_t> out) {
  stream_.next_out = out.data();
  stream_.avail_out = out.size();
  while (stream_.avail_out > 0 && !ended_) {
    if (stream_.avail_in == 0 && rest_.size > 0) {
      const auto piece = std::span(buffer_).first(
          static_cast<std::size_t>(std::min<std::uint64_t>(rest_.size, buffer_.size())));
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
  return out.size() - stream_.avail_out;
}

Status LzmaReader::Read(std::span<std::uint8_t> out) {
  SEALIFT_ASSIGN_OR_RETURN(const std::size_t got, Fill(out));
  return got == out.size() ? OkStatus() : Damaged();
}

Result<std::uint64_t> LzmaReader::Number() {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 63; shift += 7) {
    std::array<std::uint8_t, 1> byte{};
    SEALIFT_RETURN_IF_ERROR(Read(byte));
    value |= static_cast<std::uint64_t>(byte[0] & 0x7fu) << shift;
    if (byte[0] < 0x80) return value;
  }
  return Damaged();
}

Status LzmaReader::ExpectEnd() {
  std::array<std::uint8_t, 1> byte{};
  SEALIFT_ASSIGN_OR_RETURN(const std::size_t got, Fill(byte));
  return got == 0 && rest_.size == 0 && stream_.avail_in == 0 ? OkStatus() : Damaged();
}

}  // namespace sealift::delta
