#include "node-agent/mirror/mirror_request.h"

#include <fmt/format.h>

#include <algorithm>

namespace sealift::agent {
namespace {

using Clock = std::chrono::steady_clock;

std::string TextOf(const MirrorRequest& request, const HttpUrl& url) {
  std::string range;
  if (request.end) {
    range = fmt::format("Range: bytes={}-{}\r\n", request.begin, *request.end - 1);
  } else if (request.begin > 0) {
    range = fmt::format("Range: bytes={}-\r\n", request.begin);
  }
  return fmt::format(
      "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: sealift-agent\r\nAccept-Encoding: identity\r\n{}{}\r\n",
      url.path, url.Authority(), range, request.end ? "" : "Connection: close\r\n");
}

Result<MirrorAnswer> AskOver(std::unique_ptr<Connection> connection, const MirrorRequest& request,
                             const HttpUrl& url, const MirrorOptions& options) {
  const auto deadline = Clock::now() + std::max(options.connect_timeout, options.rate_window);
  MirrorAnswer answer{.url = url, .connection = std::move(connection), .head = {}, .begun = {}};
  SEALIFT_RETURN_IF_ERROR(answer.connection->Send(TextOf(request, url), deadline));
  Bytes received;
  while (true) {
    Bytes piece(kMaxHeadBytes);
    SEALIFT_ASSIGN_OR_RETURN(const std::size_t got, answer.connection->Receive(piece, deadline));
    if (got == 0) return MirrorFailed(url, "it closed the connection");
    Append(received, ByteView(piece).first(got));
    const std::size_t end = AsText(received).find("\r\n\r\n");
    if (end == std::string_view::npos) {
      if (received.size() > kMaxHeadBytes) return MirrorFailed(url, "its answer has no end");
      continue;
    }
    auto head = ParseHttpHead(AsText(received).substr(0, end + 4));
    if (!head.ok()) return MirrorFailed(url, MessageOf(head.status()));
    answer.head = *std::move(head);
    answer.begun = ToBytes(ByteView(received).subspan(end + 4));
    return answer;
  }
}

Result<MirrorAnswer> Ask(std::unique_ptr<Connection> reuse, const MirrorRequest& request, const HttpUrl& url,
                         const MirrorOptions& options) {
  if (reuse != nullptr) {
    auto answer = AskOver(std::move(reuse), request, url, options);
    if (answer.ok()) return answer;
  }
  const auto deadline = Clock::now() + options.connect_timeout;
  SEALIFT_ASSIGN_OR_RETURN(auto connection, options.connect ? options.connect(url, deadline)
                                                            : Connect(url, options.ca_file, deadline));
  return AskOver(std::move(connection), request, url, options);
}

}  // namespace

Status MirrorFailed(const HttpUrl& url, std::string_view why) {
  return MakeError(Code::kUnavailable, Reason::kMirrorFailed, fmt::format("fetch '{}': {}", url.Text(), why));
}

Result<MirrorAnswer> AskMirror(const MirrorRequest& request, const MirrorOptions& options,
                               std::unique_ptr<Connection> reuse) {
  HttpUrl url = request.url;
  for (int hops = 0; hops <= options.max_redirects; ++hops) {
    SEALIFT_ASSIGN_OR_RETURN(MirrorAnswer answer, Ask(std::move(reuse), request, url, options));
    const int status = answer.head.status;
    if (status != 301 && status != 302 && status != 307 && status != 308) return answer;
    const Result<HttpUrl> next = Follow(url, answer.head.location);
    if (!next.ok()) return MirrorFailed(url, "it leads nowhere");
    // Whoever asked for TLS gets no less.
    if (url.tls && !next->tls) return MirrorFailed(url, "it leads out of TLS");
    url = *next;
  }
  return MirrorFailed(url, fmt::format("more than {} redirects", options.max_redirects));
}

}  // namespace sealift::agent
