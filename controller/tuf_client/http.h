// Reading files from an HTTP server that is not trusted: bounded in bytes and in slowness.
//
// Over libcurl. An instance is used by one thread at a time; it keeps its connection.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::tuf_client {

struct HttpLimits {
  // Less than this for `stall_seconds` ends a transfer.
  std::uint32_t minimum_bytes_per_second = 1000;
  std::uint32_t stall_seconds = 20;
  std::uint32_t connect_seconds = 20;
  std::uint32_t max_redirects = 5;
};

// False stops the transfer; the reader has kept why.
using ByteSink = std::function<bool(ByteView)>;

class HttpReader {
 public:
  explicit HttpReader(HttpLimits limits = {});
  ~HttpReader();
  HttpReader(const HttpReader&) = delete;
  HttpReader& operator=(const HttpReader&) = delete;

  // The body of a GET, piece by piece, at most `max_bytes` of it. http and https only, redirects included.
  // Errors: NOT_FOUND/FILE_UNREADABLE for 403 and 404, as file servers say that they have no such file;
  // UNAVAILABLE/PEER_UNREACHABLE; UNAVAILABLE/TRANSFER_TOO_SLOW; INVALID_ARGUMENT/TUF_TOO_LARGE;
  // CANCELLED/CANCELLED when `sink` said no.
  Status Read(const std::string& url, std::uint64_t max_bytes, const ByteSink& sink);

 private:
  struct Handle;
  std::unique_ptr<Handle> handle_;
  HttpLimits limits_;
};

}  // namespace sealift::tuf_client
