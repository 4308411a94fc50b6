#include "node-agent/link/backoff.h"

#include <algorithm>

#include "shared/crypto/hash.h"

namespace sealift::agent {
namespace {

std::chrono::milliseconds Scale(std::chrono::milliseconds duration, double factor) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(static_cast<double>(duration.count()) * factor));
}

}  // namespace

RandomFraction SystemRandom() {
  return [] {
    const Bytes bytes = RandomBytes(4);
    const auto number = ByteReader(bytes, ByteReader::Endian::kLittle).U32();
    return static_cast<double>(number) / 4294967296.0;
  };
}

std::chrono::milliseconds Backoff::Next() {
  const std::chrono::milliseconds wait = Scale(next_, 0.5 + random_() / 2);
  next_ = std::min(next_ * 2, most_);
  return wait;
}

std::chrono::milliseconds Spread(std::chrono::milliseconds interval, const RandomFraction& random) {
  return Scale(interval, 0.9 + random() * 0.2);
}

std::chrono::milliseconds Patiently(std::chrono::milliseconds own, std::chrono::milliseconds asked,
                                    const RandomFraction& random) {
  return std::max(own, Scale(asked, 1 + random() / 4));
}

}  // namespace sealift::agent
