// One zstd frame, unpacked as its bytes come. Included by this folder alone; belongs to one thread.
#pragma once

#include <zstd.h>

#include <memory>

#include "shared/base/bytes.h"
#include "shared/delta/open_file.h"

namespace sealift::delta {

class ZstdUnpacker {
 public:
  // `prefix` (may be empty) is what the frame was packed against, borrowed. Frames with a window above
  // 2^`max_window_log` are refused.
  ZstdUnpacker(ByteView prefix, int max_window_log)
      : context_(ZSTD_createDCtx(), ZSTD_freeDCtx), buffer_(ZSTD_DStreamOutSize()) {
    SEALIFT_CHECK(context_ != nullptr);
    ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, max_window_log);
    if (!prefix.empty()) ZSTD_DCtx_refPrefix(context_.get(), prefix.data(), prefix.size());
  }

  // Errors: INVALID_ARGUMENT/DELTA_INVALID; those of the sink.
  Status Put(ByteView packed, const Sink& sink) {
    ZSTD_inBuffer input{packed.data(), packed.size(), 0};
    bool full = false;
    while (input.pos < input.size || full) {
      if (left_ == 0) return Invalid("something follows it");
      ZSTD_outBuffer output{buffer_.data(), buffer_.size(), 0};
      left_ = ZSTD_decompressStream(context_.get(), &output, &input);
      if (ZSTD_isError(left_) != 0) return Invalid(ZSTD_getErrorName(left_));
      if (output.pos > 0) SEALIFT_RETURN_IF_ERROR(sink(ByteView(buffer_).first(output.pos)));
      full = output.pos == output.size && left_ != 0;
    }
    return OkStatus();
  }
  Status Finish() const { return left_ == 0 ? OkStatus() : Invalid("it is cut short"); }

 private:
  static Status Invalid(std::string_view what) {
    return MakeError(Code::kInvalidArgument, Reason::kDeltaInvalid,
                     "unpack zstd frame: " + std::string(what));
  }
  std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context_;
  Bytes buffer_;
  std::size_t left_ = 1;
};

}  // namespace sealift::delta
