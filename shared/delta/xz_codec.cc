#include "shared/delta/xz_codec.h"

#include <lzma.h>

#include <array>

namespace sealift::delta {
namespace {

constexpr std::uint64_t kMemoryLimit = 16u << 20;
constexpr std::size_t kBufferBytes = 64u << 10;

Status Damaged() {
  return MakeError(Code::kInvalidArgument, Reason::kDeltaInvalid, "unpack object: it is no such .xz file");
}

class XzEncoder final : public Encoder {
 public:
  XzEncoder(XzFilter filter, const Sink& sink) : sink_(sink), buffer_(kBufferBytes) {
    lzma_options_lzma options{};
    SEALIFT_CHECK(lzma_lzma_preset(&options, 6 | LZMA_PRESET_EXTREME) == 0);
    const std::array<lzma_filter, 3> filters{{{.id = LZMA_FILTER_X86, .options = nullptr},
                                              {.id = LZMA_FILTER_LZMA2, .options = &options},
                                              {.id = LZMA_VLI_UNKNOWN, .options = nullptr}}};
    SEALIFT_CHECK(lzma_stream_encoder(&stream_, filters.data() + (filter == XzFilter::kNone ? 1 : 0),
                                      LZMA_CHECK_NONE) == LZMA_OK);
  }
  XzEncoder(const XzEncoder&) = delete;
  XzEncoder& operator=(const XzEncoder&) = delete;
  ~XzEncoder() override { lzma_end(&stream_); }

  Status Put(ByteView raw) override { return Run(raw, LZMA_RUN); }
  Status Finish() override { return Run({}, LZMA_FINISH); }

 private:
  Status Run(ByteView raw, lzma_action action) {
    stream_.next_in = raw.data();
    stream_.avail_in = raw.size();
    while (true) {
      stream_.next_out = buffer_.data();
      stream_.avail_out = buffer_.size();
      const lzma_ret result = lzma_code(&stream_, action);
      const ByteView made = ByteView(buffer_).first(buffer_.size() - stream_.avail_out);
      if (!made.empty()) SEALIFT_RETURN_IF_ERROR(sink_(made));
      if (result == LZMA_STREAM_END) return OkStatus();
      SEALIFT_CHECK(result == LZMA_OK || result == LZMA_BUF_ERROR);
      if (action == LZMA_RUN && stream_.avail_in == 0 && stream_.avail_out > 0) return OkStatus();
    }
  }

  lzma_stream stream_ = LZMA_STREAM_INIT;
  const Sink& sink_;
  Bytes buffer_;
};

// Ends what liblzma holds.
class Decoder {
 public:
  Decoder() { SEALIFT_CHECK(lzma_stream_decoder(&stream, kMemoryLimit, 0) == LZMA_OK); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  ~Decoder() { lzma_end(&stream); }
  lzma_stream stream = LZMA_STREAM_INIT;
};

}  // namespace

std::unique_ptr<Encoder> MakeXzEncoder(XzFilter filter, const Sink& sink) {
  return std::make_unique<XzEncoder>(filter, sink);
}

Status DecodeXz(const OpenFile& file, std::uint64_t raw_size, const Sink& sink) {
  Decoder decoder;
  lzma_stream& stream = decoder.stream;
  Bytes buffer(kBufferBytes);
  std::uint64_t left = raw_size;
  bool ended = false;
  SEALIFT_RETURN_IF_ERROR(file.ForEach(0, file.size(), [&](ByteView piece) -> Status {
    stream.next_in = piece.data();
    stream.avail_in = piece.size();
    while (true) {
      if (ended) return stream.avail_in == 0 ? OkStatus() : Damaged();
      stream.next_out = buffer.data();
      stream.avail_out = buffer.size();
      const lzma_ret result = lzma_code(&stream, LZMA_RUN);
      if (result != LZMA_OK && result != LZMA_STREAM_END && result != LZMA_BUF_ERROR) return Damaged();
      const ByteView made = ByteView(buffer).first(buffer.size() - stream.avail_out);
      if (made.size() > left) return Damaged();
      left -= made.size();
      if (const Status taken = made.empty() ? OkStatus() : sink(made); !taken.ok()) return taken;
      ended = result == LZMA_STREAM_END;
      if (!ended && stream.avail_in == 0 && stream.avail_out > 0) return OkStatus();
    }
  }));
  return ended && left == 0 ? OkStatus() : Damaged();
}

}  // namespace sealift::delta
