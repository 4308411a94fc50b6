// Bytes that must not outlive their use: PINs, activation secrets, keys of a moment.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shared/base/bytes.h"

namespace sealift {

// Move-only, wiped on destruction, not printable. Reading needs a word that one grep finds.
class SecretBytes {
 public:
  SecretBytes() = default;
  // Copies `bytes`; the caller wipes its own copy.
  explicit SecretBytes(ByteView bytes) : bytes_(ToBytes(bytes)) {}
  // Takes over, so that no second copy exists.
  explicit SecretBytes(Bytes&& bytes) : bytes_(std::move(bytes)) {}
  SecretBytes(SecretBytes&& other) noexcept : bytes_(std::move(other.bytes_)) { other.bytes_.clear(); }
  SecretBytes& operator=(SecretBytes&& other) noexcept;
  SecretBytes(const SecretBytes&) = delete;
  SecretBytes& operator=(const SecretBytes&) = delete;
  ~SecretBytes() { Wipe(); }

  bool empty() const { return bytes_.empty(); }
  std::size_t size() const { return bytes_.size(); }
  // The view lives as long as this object.
  ByteView ExposeSecret() const { return bytes_; }
  // Constant time in the content.
  bool Equals(ByteView other) const;

 private:
  void Wipe();
  Bytes bytes_;
};

// Overwrites in a way the optimiser keeps.
void WipeMemory(void* data, std::size_t size);

}  // namespace sealift
