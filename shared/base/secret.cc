#include "shared/base/secret.h"

#include <cstring>

namespace sealift {

void WipeMemory(void* data, std::size_t size) {
  if (size != 0) explicit_bzero(data, size);
}

SecretBytes& SecretBytes::operator=(SecretBytes&& other) noexcept {
  if (this != &other) {
    Wipe();
    bytes_ = std::move(other.bytes_);
    other.bytes_.clear();
  }
  return *this;
}

bool SecretBytes::Equals(ByteView other) const {
  if (other.size() != bytes_.size()) return false;
  std::uint8_t difference = 0;
  for (std::size_t i = 0; i < other.size(); ++i)
    difference = static_cast<std::uint8_t>(difference | (bytes_[i] ^ other[i]));
  return difference == 0;
}

void SecretBytes::Wipe() {
  WipeMemory(bytes_.data(), bytes_.size());
  bytes_.clear();
}

}  // namespace sealift
