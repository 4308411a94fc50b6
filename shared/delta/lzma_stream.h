// Raw LZMA2 streams, as the delta's format has them: no header, no checksum, a dictionary of 8 MiB.
//
// Each belongs to one thread.
#pragma once

#include <lzma.h>

#include <cstdint>
#include <span>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/delta/delta_format.h"
#include "shared/delta/open_file.h"

namespace sealift::delta {

// Takes 94 MiB of memory.
class LzmaWriter {
 public:
  // `to` is borrowed and grows with each Put.
  explicit LzmaWriter(Bytes& to);
  LzmaWriter(const LzmaWriter&) = delete;
  LzmaWriter& operator=(const LzmaWriter&) = delete;
  ~LzmaWriter() { lzma_end(&stream_); }
  void Put(ByteView bytes) { Code(bytes, LZMA_RUN); }
  void Finish() { Code({}, LZMA_FINISH); }

 private:
  void Code(ByteView bytes, lzma_action action);
  lzma_stream stream_ = LZMA_STREAM_INIT;
  Bytes& to_;
  Bytes buffer_;
};

// Reads a stretch of a file as it goes. Borrows the file.
class LzmaReader {
 public:
  LzmaReader(const OpenFile& file, DeltaLayout::Extent extent);
  LzmaReader(const LzmaReader&) = delete;
  LzmaReader& operator=(const LzmaReader&) = delete;
  ~LzmaReader() { lzma_end(&stream_); }
  // Fills all of `out`. Errors: INVALID_ARGUMENT/DELTA_INVALID when the stream is damaged or ends before;
  // those of the file.
  Status Read(std::span<std::uint8_t> out);
  // LEB128.
  Result<std::uint64_t> Number();
  // The stream has no byte more. Errors: as Read.
  Status ExpectEnd();
  static Status Damaged();

 private:
  // Unpacks more into `made_`, which is empty at the end only.
  Status Fill();
  const OpenFile& file_;
  DeltaLayout::Extent rest_;
  lzma_stream stream_ = LZMA_STREAM_INIT;
  Bytes packed_;
  Bytes unpacked_;
  // What of `unpacked_` was not read yet.
  ByteView made_;
  bool ended_ = false;
};

}  // namespace sealift::delta
