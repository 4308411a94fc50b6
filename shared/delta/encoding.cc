#include "shared/delta/encoding.h"

#include <fmt/format.h>
#include <lz4.h>
#include <lz4hc.h>
#include <zstd.h>

#include <algorithm>

#include "shared/delta/zstd_unpacker.h"

namespace sealift::delta {
namespace {

constexpr std::uint32_t kLz4LegacyMagic = 0x184C2102;
constexpr std::size_t kLz4BlockBytes = 8u << 20;
constexpr int kMaxWindowLog = 23;

Status Invalid(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kDeltaInvalid, fmt::format("unpack part: {}", what));
}

using CompressContext = std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)>;

class PlainEncoder final : public Encoder {
 public:
  explicit PlainEncoder(const Sink& sink) : sink_(sink) {}
  Status Put(ByteView raw) override { return sink_(raw); }
  Status Finish() override { return OkStatus(); }

 private:
  const Sink& sink_;
};

class ZstdEncoder final : public Encoder {
 public:
  ZstdEncoder(int level, std::uint64_t raw_size, const Sink& sink)
      : context_(ZSTD_createCCtx(), ZSTD_freeCCtx), sink_(sink), buffer_(ZSTD_CStreamOutSize()) {
    SEALIFT_CHECK(context_ != nullptr);
    ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, level);
    ZSTD_CCtx_setPledgedSrcSize(context_.get(), raw_size);
  }

  Status Put(ByteView raw) override {
    ZSTD_inBuffer input{raw.data(), raw.size(), 0};
    while (input.pos < input.size) SEALIFT_RETURN_IF_ERROR(Step(input, ZSTD_e_continue).status());
    return OkStatus();
  }
  // With input at the end libzstd may take another way, and give other bytes.
  Status Finish() override {
    ZSTD_inBuffer nothing{nullptr, 0, 0};
    while (true) {
      SEALIFT_ASSIGN_OR_RETURN(const std::size_t left, Step(nothing, ZSTD_e_end));
      if (left == 0) return OkStatus();
    }
  }

 private:
  Result<std::size_t> Step(ZSTD_inBuffer& input, ZSTD_EndDirective directive) {
    ZSTD_outBuffer output{buffer_.data(), buffer_.size(), 0};
    const std::size_t left = ZSTD_compressStream2(context_.get(), &output, &input, directive);
    if (ZSTD_isError(left) != 0) return Invalid(ZSTD_getErrorName(left));
    if (output.pos > 0) SEALIFT_RETURN_IF_ERROR(sink_(ByteView(buffer_).first(output.pos)));
    return left;
  }

  const CompressContext context_;
  const Sink& sink_;
  Bytes buffer_;
};

class Lz4Encoder final : public Encoder {
 public:
  Lz4Encoder(int level, const Sink& sink) : level_(level), sink_(sink) { block_.reserve(kLz4BlockBytes); }

  Status Put(ByteView raw) override {
    SEALIFT_RETURN_IF_ERROR(Begin());
    while (!raw.empty()) {
      const std::size_t take = std::min(raw.size(), kLz4BlockBytes - block_.size());
      Append(block_, raw.first(take));
      raw = raw.subspan(take);
      if (block_.size() == kLz4BlockBytes) SEALIFT_RETURN_IF_ERROR(Flush());
    }
    return OkStatus();
  }
  Status Finish() override {
    SEALIFT_RETURN_IF_ERROR(Begin());
    return block_.empty() ? OkStatus() : Flush();
  }

 private:
  Status Begin() {
    if (begun_) return OkStatus();
    begun_ = true;
    ByteWriter writer(ByteWriter::Endian::kLittle);
    writer.U32(kLz4LegacyMagic);
    return sink_(writer.bytes());
  }
  Status Flush() {
    const int raw = static_cast<int>(block_.size());
    packed_.resize(4 + static_cast<std::size_t>(LZ4_compressBound(raw)));
    const int size = LZ4_compress_HC(reinterpret_cast<const char*>(block_.data()),
                                     reinterpret_cast<char*>(packed_.data() + 4), raw,
                                     static_cast<int>(packed_.size() - 4), level_);
    if (size <= 0) return Invalid("lz4 could not pack a block");
    ByteWriter writer(ByteWriter::Endian::kLittle);
    writer.U32(static_cast<std::uint32_t>(size));
    std::ranges::copy(writer.bytes(), packed_.begin());
    block_.clear();
    return sink_(ByteView(packed_).first(4 + static_cast<std::size_t>(size)));
  }

  const int level_;
  const Sink& sink_;
  bool begun_ = false;
  Bytes block_;
  Bytes packed_;
};

// Refuses more than was announced before it is handed on.
class Limit {
 public:
  Limit(std::uint64_t left, const Sink& sink) : left_(left), sink_(sink) {}
  Status Put(ByteView bytes) {
    if (bytes.size() > left_) return Invalid("it holds more than it says");
    left_ -= bytes.size();
    return bytes.empty() ? OkStatus() : sink_(bytes);
  }
  Status Finish() const { return left_ == 0 ? OkStatus() : Invalid("it holds less than it says"); }

 private:
  std::uint64_t left_;
  const Sink& sink_;
};

Status DecodeZstd(const OpenFile& file, std::uint64_t offset, std::uint64_t size, Limit& out) {
  ZstdUnpacker unpacker({}, kMaxWindowLog);
  const Sink take = [&out](ByteView raw) { return out.Put(raw); };
  SEALIFT_RETURN_IF_ERROR(
      file.ForEach(offset, size, [&](ByteView piece) { return unpacker.Put(piece, take); }));
  return unpacker.Finish();
}

Result<std::uint32_t> ReadU32(const OpenFile& file, std::uint64_t offset) {
  std::array<std::uint8_t, 4> bytes{};
  SEALIFT_RETURN_IF_ERROR(file.ReadAt(offset, bytes));
  return ByteReader(bytes, ByteReader::Endian::kLittle).U32();
}

Status DecodeLz4(const OpenFile& file, std::uint64_t offset, std::uint64_t size, Limit& out) {
  const std::uint64_t end = offset + size;
  if (size < 4) return Invalid("the lz4 stream is cut short");
  SEALIFT_ASSIGN_OR_RETURN(const std::uint32_t magic, ReadU32(file, offset));
  if (magic != kLz4LegacyMagic) return Invalid("it is no lz4 stream");
  offset += 4;
  Bytes packed;
  Bytes raw(kLz4BlockBytes);
  while (offset < end) {
    if (end - offset < 4) return Invalid("the lz4 stream is cut short");
    SEALIFT_ASSIGN_OR_RETURN(const std::uint32_t length, ReadU32(file, offset));
    offset += 4;
    if (length > end - offset || length > static_cast<std::uint32_t>(LZ4_COMPRESSBOUND(kLz4BlockBytes)))
      return Invalid("an lz4 block is too long");
    packed.resize(length);
    SEALIFT_RETURN_IF_ERROR(file.ReadAt(offset, packed));
    offset += length;
    const int got =
        LZ4_decompress_safe(reinterpret_cast<const char*>(packed.data()), reinterpret_cast<char*>(raw.data()),
                            static_cast<int>(length), static_cast<int>(raw.size()));
    if (got <= 0) return Invalid("an lz4 block is damaged");
    SEALIFT_RETURN_IF_ERROR(out.Put(ByteView(raw).first(static_cast<std::size_t>(got))));
  }
  return OkStatus();
}

}  // namespace

Result<std::unique_ptr<Encoder>> MakeEncoder(Encoding encoding, int level, std::uint64_t raw_size,
                                             const Sink& sink) {
  switch (encoding) {
    case Encoding::kPlain:
      return std::make_unique<PlainEncoder>(sink);
    case Encoding::kZstdFrame:
      if (level < 1 || level > 19) return Invalid("zstd levels go from 1 to 19");
      return std::make_unique<ZstdEncoder>(level, raw_size, sink);
    case Encoding::kLz4Legacy:
      if (level < LZ4HC_CLEVEL_MIN || level > LZ4HC_CLEVEL_MAX) return Invalid("lz4 levels go from 3 to 12");
      return std::make_unique<Lz4Encoder>(level, sink);
  }
  return Invalid("its encoding is not known");
}

Status Decode(const OpenFile& file, std::uint64_t offset, std::uint64_t size, Encoding encoding,
              std::uint64_t raw_size, const Sink& sink) {
  if (offset > file.size() || size > file.size() - offset) return Invalid("it lies beyond the file's end");
  Limit out(raw_size, sink);
  switch (encoding) {
    case Encoding::kPlain:
      SEALIFT_RETURN_IF_ERROR(file.ForEach(offset, size, [&](ByteView piece) { return out.Put(piece); }));
      break;
    case Encoding::kZstdFrame:
      SEALIFT_RETURN_IF_ERROR(DecodeZstd(file, offset, size, out));
      break;
    case Encoding::kLz4Legacy:
      SEALIFT_RETURN_IF_ERROR(DecodeLz4(file, offset, size, out));
      break;
    default:
      return Invalid("its encoding is not known");
  }
  return out.Finish();
}

}  // namespace sealift::delta
