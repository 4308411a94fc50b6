// The little of HTTP/1.1 that a mirror of static files needs: URLs, and the head of an answer.
//
// Foreign bytes, bounded. Pure functions over plain values; thread-safe. RFC 9110, 9112.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "shared/base/status.h"

namespace sealift::agent {

struct HttpUrl {
  bool tls = false;
  // Without the brackets of an IPv6 address.
  std::string host;
  std::string port;
  // With its query; at least "/".
  std::string path;

  // As it is written.
  std::string Text() const;
  // "host:port", with brackets where needed.
  std::string Authority() const;
  bool operator==(const HttpUrl&) const = default;
};

// "http[s]://host[:port][/path]" of at most 2000 visible ASCII characters, without a user.
// Errors: INVALID_ARGUMENT/INVALID_ARGUMENT.
Result<HttpUrl> ParseHttpUrl(std::string_view text);
// What a Location leads to: a URL, or a path of the same host. Errors: as ParseHttpUrl.
Result<HttpUrl> Follow(const HttpUrl& from, std::string_view location);

inline constexpr std::size_t kMaxHeadBytes = 16u << 10;

struct HttpHead {
  int status = 0;
  // Of the body that follows.
  std::optional<std::uint64_t> length;
  // Of a 206: where the body begins in the file.
  std::optional<std::uint64_t> range_start;
  // Of a 206: the size of the whole file, where the answer says it.
  std::optional<std::uint64_t> range_total;
  // No further answer comes over this connection.
  bool closes = false;
  std::string location;
  bool operator==(const HttpHead&) const = default;
};

// Everything up to and with the empty line. A body in chunks is refused: static files have a length.
// Errors: INVALID_ARGUMENT/MIRROR_FAILED.
Result<HttpHead> ParseHttpHead(std::string_view head);

}  // namespace sealift::agent
