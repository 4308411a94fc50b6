#include "node-agent/mirror/mirror_source.h"

#include <fmt/format.h>

#include <algorithm>

#include "node-agent/mirror/mirror_transfer.h"
#include "shared/base/log.h"

namespace sealift::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxSenders = 4096;
// A server leaves a connection that nobody reads from.
constexpr std::chrono::seconds kLongestPause{30};

}  // namespace

MirrorSource::MirrorSource(MirrorOptions options, content::ContentSource& fallback,
                           std::function<double()> random)
    : options_(std::move(options)),
      fallback_(fallback),
      random_(std::move(random)),
      limit_(options_.maximum_rate) {
  for (const HttpUrl& url : options_.mirrors)
    mirrors_.push_back({.url = url, .connections = std::max(options_.connections, 1u)});
}

MirrorSource::~MirrorSource() = default;

void MirrorSource::PassOver(Mirror& mirror, const Status& why) {
  const std::uint32_t doublings = std::min(mirror.failures++, 16u);
  const auto pause = std::min(options_.longest_pause, options_.first_pause * (1u << doublings));
  const double spread = 1 - random_() / 2;
  mirror.not_before = Clock::now() + std::chrono::duration_cast<Clock::duration>(pause * spread);
  log::Warning("mirror passed over", {{"mirror", mirror.url.Text()},
                                      {"reason", std::string(ReasonId(ReasonOf(why)))},
                                      {"error", Describe(why)}});
}

Status MirrorSource::FetchFrom(Mirror& mirror, const Sha256Digest& digest, std::uint64_t& offset,
                               const content::Sink& sink, Status& refused) {
  HttpUrl url = mirror.url;
  const std::string hex = digest.hex();
  url.path = fmt::format("{}/objects/{}/{}", url.path == "/" ? "" : url.path, hex.substr(0, 2), hex);
  if (transfer_ == nullptr || transfer_->asked() != url || transfer_->offset() != offset ||
      Clock::now() - paused_ > kLongestPause) {
    transfer_.reset();
    if (idle_at_.Authority() != url.Authority() || idle_at_.tls != url.tls) idle_.reset();
    transfer_ =
        std::make_unique<MirrorTransfer>(url, offset, mirror.connections, std::move(idle_), options_, limit_);
  }
  const Status status = transfer_->Run(sink, refused);
  offset = transfer_->offset();
  if (ReasonOf(refused) == Reason::kCancelled) {
    paused_ = Clock::now();
    return status;
  }
  if (status.ok()) {
    mirror.connections = std::min(mirror.connections, transfer_->allowed());
    idle_ = transfer_->TakeConnection();
    idle_at_ = url;
  }
  transfer_.reset();
  return status;
}

Status MirrorSource::Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) {
  for (std::size_t i = 0; i < mirrors_.size(); ++i) {
    Mirror& mirror = mirrors_[i];
    if (Clock::now() < mirror.not_before) continue;
    const std::uint64_t before = offset;
    Status refused;
    const Status status = FetchFrom(mirror, digest, offset, sink, refused);
    if (offset > before || !refused.ok()) {
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
  return fallback_.Fetch(digest, offset, [&](ByteView piece) -> Status {
    SEALIFT_RETURN_IF_ERROR(sink(piece));
    limit_.Take(piece.size());
    return OkStatus();
  });
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
