// Identities that travel: strong types, so that one is never taken for another.
#pragma once

#include <compare>
#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/status.h"

namespace sealift {

// RFC 9562 version 7, lower-case text form. `random` must hold 10 bytes from a cryptographic source.
std::string MakeUuidV7(UnixMillis now, ByteView random);

// A node, given by the controller at first enrolment; `sealift:node:<uuid>` as URI SAN of its certificate.
class NodeId {
 public:
  // Errors: INVALID_ARGUMENT/MALFORMED unless a lower-case UUIDv7.
  static Result<NodeId> Parse(std::string_view text);
  const std::string& text() const { return text_; }
  std::string SubjectUri() const { return "sealift:node:" + text_; }
  auto operator<=>(const NodeId&) const = default;

 private:
  explicit NodeId(std::string text) : text_(std::move(text)) {}
  std::string text_;
};

// A release: the SHA-256 of its signed manifest.
struct ReleaseId {
  Sha256Digest digest;
  auto operator<=>(const ReleaseId&) const = default;
  std::string hex() const { return digest.hex(); }
};

// UAPI.10 version comparison (the strverscmp_improved of systemd): negative, zero or positive.
int CompareVersions(std::string_view a, std::string_view b);
// A version is 1 to 64 of [A-Za-z0-9.~^+_-] and not led by a dot or a dash: it becomes part of file names on
// FAT.
bool IsValidVersion(std::string_view version);

}  // namespace sealift
