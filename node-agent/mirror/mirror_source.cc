#include "node-agent/mirror/mirror_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "node-agent/mirror/connection.h"
#include "shared/base/log.h"

namespace sealift::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxRedirects = 5;
constexpr std::size_t kMaxSenders = 4096;
constexpr std::size_t kPieceBytes = 64u << 10;

Status Failed(const HttpUrl& url, std::string_view why) {
  return MakeError(Code::kUnavailable, Reason::kMirrorFailed, fmt::format("fetch '{}': {}", url.Text(), why));
}

// What is read too slowly is left.
class RateWatch {
 public:
  RateWatch(std::uint64_t minimum, std::chrono::milliseconds window)
      : needed_(minimum * static_cast<std::uint64_t>(window.count()) / 1000), window_(window) {}
  Connection::Deadline deadline() const { return began_ + window_; }
  // False once a window passed with less than it should.
  bool Count(std::size_t bytes) {
    moved_ += bytes;
    if (Clock::now() < began_ + window_) return true;
    const bool enough = moved_ >= needed_;
    began_ = Clock::now();
    moved_ = 0;
    return enough;
  }

 private:
  const std::uint64_t needed_;
  const std::chrono::milliseconds window_;
  Clock::time_point began_ = Clock::now();
  std::uint64_t moved_ = 0;
};

// An answer up to its body, and what of the body came with it.
struct Answer {
  std::unique_ptr<Connection> connection;
  HttpHead head;
  Bytes begun;
};

Result<Answer> Ask(const HttpUrl& url, std::uint64_t offset, const MirrorOptions& options) {
  const auto deadline = Clock::now() + options.connect_timeout;
  Answer answer;
  SEALIFT_ASSIGN_OR_RETURN(answer.connection, Connect(url, options.ca_file, deadline));
  const std::string range = offset == 0 ? "" : fmt::format("Range: bytes={}-\r\n", offset);
  SEALIFT_RETURN_IF_ERROR(answer.connection->Send(
      fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: sealift-agent\r\nAccept-Encoding: identity\r\n"
                  "{}Connection: close\r\n\r\n",
                  url.path, url.Authority(), range),
      deadline));
  Bytes received;
  while (true) {
    Bytes piece(kMaxHeadBytes);
    SEALIFT_ASSIGN_OR_RETURN(const std::size_t got, answer.connection->Receive(piece, deadline));
    if (got == 0) return Failed(url, "it closed the connection");
    Append(received, ByteView(piece).first(got));
    const std::size_t end = AsText(received).find("\r\n\r\n");
    if (end == std::string_view::npos) {
      if (received.size() > kMaxHeadBytes) return Failed(url, "its answer has no end");
      continue;
    }
    auto head = ParseHttpHead(AsText(received).substr(0, end + 4));
    if (!head.ok()) return Failed(url, MessageOf(head.status()));
    answer.head = *std::move(head);
    answer.begun = ToBytes(ByteView(received).subspan(end + 4));
    return answer;
  }
}

// Redirects followed.
Result<Answer> AskThrough(HttpUrl url, std::uint64_t offset, const MirrorOptions& options) {
  for (int hops = 0; hops <= kMaxRedirects; ++hops) {
    SEALIFT_ASSIGN_OR_RETURN(Answer answer, Ask(url, offset, options));
    const int status = answer.head.status;
    if (status != 301 && status != 302 && status != 307 && status != 308) return answer;
    const Result<HttpUrl> next = Follow(url, answer.head.location);
    if (!next.ok()) return Failed(url, "it leads nowhere");
    // Whoever asked for TLS gets no less.
    if (url.tls && !next->tls) return Failed(url, "it leads out of TLS");
    url = *next;
  }
  return Failed(url, fmt::format("more than {} redirects", kMaxRedirects));
}

}  // namespace

MirrorSource::MirrorSource(MirrorOptions options, content::ContentSource& fallback,
                           std::function<double()> random)
    : options_(std::move(options)), fallback_(fallback), random_(std::move(random)) {
  for (const HttpUrl& url : options_.mirrors) mirrors_.push_back({.url = url});
}

void MirrorSource::PassOver(Mirror& mirror, const Status& why) {
  const std::uint32_t doublings = std::min(mirror.failures++, 16u);
  const auto pause = std::min(options_.longest_pause, options_.first_pause * (1u << doublings));
  const double spread = 1 - random_() / 2;
  mirror.not_before = Clock::now() + std::chrono::duration_cast<Clock::duration>(pause * spread);
  log::Warning("mirror passed over", {{"mirror", mirror.url.Text()},
                                      {"reason", std::string(ReasonId(ReasonOf(why)))},
                                      {"error", Describe(why)}});
}

void MirrorSource::HoldBack(std::size_t bytes) {
  if (options_.maximum_rate == 0) return;
  const auto now = Clock::now();
  // What was not used a second ago is gone.
  if (now - budget_since_ > std::chrono::seconds(1) &&
      budget_used_ * 1000 <
          options_.maximum_rate *
              static_cast<std::uint64_t>(
                  std::chrono::duration_cast<std::chrono::milliseconds>(now - budget_since_).count())) {
    budget_since_ = now;
    budget_used_ = 0;
  }
  budget_used_ += bytes;
  const auto due =
      budget_since_ + std::chrono::microseconds(budget_used_ * 1'000'000 / options_.maximum_rate);
  std::this_thread::sleep_until(due);
}

Status MirrorSource::FetchFrom(const Mirror& mirror, const Sha256Digest& digest, std::uint64_t& offset,
                               const content::Sink& sink, Status& refused) {
  HttpUrl url = mirror.url;
  const std::string hex = digest.hex();
  url.path = fmt::format("{}/objects/{}/{}", url.path == "/" ? "" : url.path, hex.substr(0, 2), hex);
  SEALIFT_ASSIGN_OR_RETURN(Answer answer, AskThrough(url, offset, options_));
  const HttpHead& head = answer.head;
  if (head.status == 404 || head.status == 410) {
    return MakeError(Code::kNotFound, Reason::kContentUnknown,
                     fmt::format("fetch '{}': not there", url.Text()));
  }
  if (head.status != 200 && head.status != 206) return Failed(url, fmt::format("it answers {}", head.status));
  if (!head.length) return Failed(url, "its body has no length");
  if (head.status == 206 && head.range_start.value_or(0) != offset)
    return Failed(url, "it sends another range than asked for");
  // A mirror that knows no ranges sends all of it.
  std::uint64_t skip = head.status == 200 ? offset : 0;
  if (skip > 0 && skip >= *head.length) return Failed(url, "the object is shorter there");
  std::uint64_t left = *head.length;
  RateWatch rate(options_.minimum_rate, options_.rate_window);
  Bytes buffer = std::move(answer.begun);
  std::size_t got = std::min<std::uint64_t>(buffer.size(), left);
  buffer.resize(std::max<std::size_t>(buffer.size(), kPieceBytes));
  while (true) {
    left -= got;
    const std::size_t skipped = static_cast<std::size_t>(std::min<std::uint64_t>(skip, got));
    skip -= skipped;
    if (const ByteView piece = ByteView(buffer).subspan(skipped, got - skipped); !piece.empty()) {
      refused = sink(piece);
      if (!refused.ok()) return refused;
      offset += piece.size();
      HoldBack(piece.size());
    }
    if (left == 0) return OkStatus();
    const auto more = answer.connection->Receive(
        std::span(buffer).first(static_cast<std::size_t>(std::min<std::uint64_t>(kPieceBytes, left))),
        rate.deadline());
    const bool late = more.status().code() == Code::kDeadlineExceeded;
    if (!more.ok() && !late) return more.status();
    if (!late && *more == 0) return Failed(url, "it stopped before the end");
    got = late ? 0 : *more;
    if (!rate.Count(got)) {
      return MakeError(
          Code::kUnavailable, Reason::kTransferTooSlow,
          fmt::format("fetch '{}': less than {} bytes a second", url.Text(), options_.minimum_rate));
    }
  }
}

Status MirrorSource::Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) {
  for (std::size_t i = 0; i < mirrors_.size(); ++i) {
    Mirror& mirror = mirrors_[i];
    if (Clock::now() < mirror.not_before) continue;
    const std::uint64_t before = offset;
    Status refused;
    const Status status = FetchFrom(mirror, digest, offset, sink, refused);
    if (offset > before) {
      if (senders_.size() >= kMaxSenders) senders_.clear();
      senders_[digest].insert(i);
    }
    if (!refused.ok()) return refused;
    if (status.ok()) {
      mirror.failures = 0;
      return status;
    }
    // One that has not got everything yet is none that fails.
    if (status.code() != Code::kNotFound) PassOver(mirror, status);
  }
  return fallback_.Fetch(digest, offset, sink);
}

bool MirrorSource::Blame(const Sha256Digest& digest) {
  const auto found = senders_.find(digest);
  if (found == senders_.end()) return false;
  for (const std::size_t sender : found->second) {
    PassOver(mirrors_[sender], MakeError(Code::kDataLoss, Reason::kMirrorFailed,
                                         fmt::format("an object it sent is not {}", digest.hex())));
  }
  senders_.erase(found);
  return true;
}

}  // namespace sealift::agent
