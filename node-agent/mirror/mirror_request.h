// One GET to a mirror: redirects, the head of the answer.
//
// Belongs to one thread.
#pragma once

#include <memory>
#include <optional>

#include "node-agent/mirror/connection.h"
#include "node-agent/mirror/mirror_source.h"

namespace sealift::agent {

struct MirrorRequest {
  HttpUrl url;
  std::uint64_t begin = 0;
  // Behind the last byte that is asked for; nothing: all there is, and the connection ends with it.
  std::optional<std::uint64_t> end;
};

// An answer up to its body, and what of the body came with it.
struct MirrorAnswer {
  // Where it came from at last.
  HttpUrl url;
  std::unique_ptr<Connection> connection;
  HttpHead head;
  Bytes begun;
};

// `reuse`: an idle connection to where the URL leads, or null; one that turns out to be dead is replaced.
// Connecting takes `connect_timeout` at most, the head of the answer that or `rate_window`, whichever is
// longer: a cache may wait for it itself. Errors: those of Connection; UNAVAILABLE/MIRROR_FAILED.
Result<MirrorAnswer> AskMirror(const MirrorRequest& request, const MirrorOptions& options,
                               std::unique_ptr<Connection> reuse);

// UNAVAILABLE/MIRROR_FAILED.
Status MirrorFailed(const HttpUrl& url, std::string_view why);

}  // namespace sealift::agent
