// The differences of all parts, one behind the other, as the delta's format has them (delta_format.h): how
// many are zero, how many are not, and those. Each belongs to one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "shared/delta/lzma_stream.h"

namespace sealift::delta {

class DifferenceWriter {
 public:
  DifferenceWriter(Bytes& places, Bytes& values) : places_(places), values_(values) {}

  void Put(ByteView differences) {
    Bytes numbers;
    for (auto at = differences.begin(); at != differences.end();) {
      const auto value = std::find_if(at, differences.end(), [](std::uint8_t byte) { return byte != 0; });
      zeros_ += static_cast<std::uint64_t>(value - at);
      at = std::find(value, differences.end(), 0);
      if (at == value) break;
      PutNumber(numbers, zeros_);
      PutNumber(numbers, static_cast<std::uint64_t>(at - value));
      values_.Put({value, at});
      zeros_ = 0;
    }
    places_.Put(numbers);
  }
  void Finish() {
    Bytes numbers;
    if (zeros_ > 0) {
      PutNumber(numbers, zeros_);
      PutNumber(numbers, 0);
    }
    places_.Put(numbers);
    places_.Finish();
    values_.Finish();
  }

 private:
  LzmaWriter places_;
  LzmaWriter values_;
  std::uint64_t zeros_ = 0;
};

class DifferenceReader {
 public:
  DifferenceReader(const OpenFile& file, DeltaLayout::Extent places, DeltaLayout::Extent values)
      : places_(file, places), values_(file, values) {}

  // Adds the next differences to `bytes`. Errors: INVALID_ARGUMENT/DELTA_INVALID; those of the file.
  Status AddTo(std::span<std::uint8_t> bytes) {
    while (!bytes.empty()) {
      if (zeros_ == 0 && others_ == 0) {
        SEALIFT_ASSIGN_OR_RETURN(zeros_, places_.Number());
        SEALIFT_ASSIGN_OR_RETURN(others_, places_.Number());
        if (zeros_ == 0 && others_ == 0) return LzmaReader::Damaged();
      }
      const auto skipped = static_cast<std::size_t>(std::min<std::uint64_t>(zeros_, bytes.size()));
      zeros_ -= skipped;
      bytes = bytes.subspan(skipped);
      const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(others_, bytes.size()));
      buffer_.resize(count);
      SEALIFT_RETURN_IF_ERROR(values_.Read(buffer_));
      for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::uint8_t>(bytes[i] + buffer_[i]);
      others_ -= count;
      bytes = bytes.subspan(count);
    }
    return OkStatus();
  }
  // Errors: as AddTo.
  Status ExpectEnd() {
    if (zeros_ != 0 || others_ != 0) return LzmaReader::Damaged();
    SEALIFT_RETURN_IF_ERROR(places_.ExpectEnd());
    return values_.ExpectEnd();
  }

 private:
  LzmaReader places_;
  LzmaReader values_;
  std::uint64_t zeros_ = 0;
  std::uint64_t others_ = 0;
  Bytes buffer_;
};

}  // namespace sealift::delta
