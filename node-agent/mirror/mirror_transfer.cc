#include "node-agent/mirror/mirror_transfer.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "shared/base/log.h"

namespace sealift::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kUnknownEnd = std::numeric_limits<std::uint64_t>::max();
// What one stripe without an end keeps in memory.
constexpr std::size_t kMaxWaiting = 1u << 20;
constexpr std::chrono::seconds kQuick{5};
constexpr std::chrono::seconds kSlow{10};
// How soon a connection that brings nothing sees that the transfer stops.
constexpr std::chrono::milliseconds kLook{100};

bool SameHost(const HttpUrl& one, const HttpUrl& other) {
  return one.tls == other.tls && one.Authority() == other.Authority();
}

}  // namespace

MirrorTransfer::MirrorTransfer(HttpUrl url, std::uint64_t offset, std::uint32_t connections,
                               std::unique_ptr<Connection> reuse, const MirrorOptions& options,
                               RateLimit& limit)
    : url_(std::move(url)),
      most_(connections),
      options_(options),
      limit_(limit),
      offset_(offset),
      source_(url_) {
  Stripe first;
  first.begin = offset;
  first.end = most_ > 1 ? StripeEnd(offset) : kUnknownEnd;
  next_begin_ = first.end;
  stripes_.push_back(std::move(first));
  const Lock lock(mutex_);
  AddLane(std::move(reuse));
}

MirrorTransfer::~MirrorTransfer() {
  {
    const Lock lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  // Nobody adds lanes but Run.
  for (const auto& lane : lanes_) lane->thread.join();
}

std::uint64_t MirrorTransfer::StripeEnd(std::uint64_t begin) const {
  return (begin / options_.stripe_bytes + 1) * options_.stripe_bytes;
}

void MirrorTransfer::AddLane(std::unique_ptr<Connection> reuse) {
  lanes_.push_back(std::make_unique<Lane>());
  Lane& lane = *lanes_.back();
  lane.connection = std::move(reuse);
  ++alive_;
  lane.thread = std::thread([this, &lane] { Serve(lane); });
}

std::uint32_t MirrorTransfer::allowed() {
  const Lock lock(mutex_);
  const auto useless = std::ranges::count_if(
      lanes_, [](const std::unique_ptr<Lane>& lane) { return lane->ended && !lane->served; });
  return std::max<std::uint32_t>(1, most_ - static_cast<std::uint32_t>(useless));
}

std::unique_ptr<Connection> MirrorTransfer::TakeConnection() {
  Lock lock(mutex_);
  stop_ = true;
  changed_.notify_all();
  changed_.wait(lock, [this] { return busy_ == 0; });
  if (!SameHost(source_, url_)) return nullptr;
  for (const auto& lane : lanes_)
    if (lane->connection != nullptr) return std::move(lane->connection);
  return nullptr;
}

Status MirrorTransfer::Run(const content::Sink& sink, Status& refused) {
  const std::uint64_t needed =
      options_.minimum_rate * static_cast<std::uint64_t>(options_.rate_window.count()) / 1000;
  Lock lock(mutex_);
  auto began = Clock::now();
  std::uint64_t before = received_;
  while (true) {
    if (total_ && offset_ >= *total_) return OkStatus();
    if (alive_ > 0 && lanes_.size() < wanted_ && total_ && next_begin_ < *total_) AddLane(nullptr);
    if (!stripes_.empty() && !stripes_.front().bytes.empty()) {
      Stripe& head = stripes_.front();
      Bytes bytes = std::exchange(head.bytes, {});
      lock.unlock();
      changed_.notify_all();
      const auto handed = Clock::now();
      refused = sink(bytes);
      // What the sink takes its time for is not the mirror's fault.
      began += Clock::now() - handed;
      lock.lock();
      if (!refused.ok()) {
        Append(bytes, head.bytes);
        head.bytes = std::move(bytes);
        return refused;
      }
      offset_ += bytes.size();
      if (head.complete() && head.bytes.empty() && !head.taken) {
        stripes_.pop_front();
        changed_.notify_all();
      }
      continue;
    }
    if (!stripes_.empty() && stripes_.front().complete() && !stripes_.front().taken) {
      stripes_.pop_front();
      changed_.notify_all();
      continue;
    }
    if (alive_ == 0) return failure_;
    if (!total_) {
      // The answer has a deadline of its own.
      changed_.wait(lock);
      began = Clock::now();
      continue;
    }
    changed_.wait_until(lock, began + options_.rate_window);
    if (Clock::now() < began + options_.rate_window) continue;
    if (received_ - before < needed) {
      return MakeError(
          Code::kUnavailable, Reason::kTransferTooSlow,
          fmt::format("fetch '{}': less than {} bytes a second", url_.Text(), options_.minimum_rate));
    }
    began = Clock::now();
    before = received_;
  }
}

void MirrorTransfer::Serve(Lane& lane) {
  Status status;
  while (Stripe* const stripe = TakeStripe()) {
    const auto began = Clock::now();
    status = Fill(lane, *stripe);
    const Lock lock(mutex_);
    --busy_;
    stripe->taken = false;
    changed_.notify_all();
    if (!status.ok()) break;
    if (stripe->complete()) AdaptLanes(Clock::now() - began);
  }
  const Lock lock(mutex_);
  lane.ended = true;
  --alive_;
  if (!status.ok()) {
    failure_ = status;
    if (alive_ > 0) log::Debug("a connection to a mirror ended", {{"error", Describe(status)}});
  }
  changed_.notify_all();
}

void MirrorTransfer::AdaptLanes(Clock::duration took) {
  if (took < kQuick) wanted_ = std::min(most_, wanted_ + 1);
  if (took > kSlow) wanted_ = std::max(1u, wanted_ - 1);
}

MirrorTransfer::Stripe* MirrorTransfer::TakeStripe() {
  Lock lock(mutex_);
  while (!stop_) {
    Stripe* next = nullptr;
    if (busy_ < wanted_) {
      const auto left = std::ranges::find_if(
          stripes_, [](const Stripe& stripe) { return !stripe.taken && !stripe.complete(); });
      if (left != stripes_.end()) {
        next = &*left;
      } else if (total_ && next_begin_ < *total_ && stripes_.size() < std::size_t{2} * most_) {
        Stripe stripe;
        stripe.begin = next_begin_;
        stripe.end = std::min(*total_, StripeEnd(next_begin_));
        next_begin_ = stripe.end;
        stripes_.push_back(std::move(stripe));
        next = &stripes_.back();
      }
    }
    if (next != nullptr) {
      next->taken = true;
      ++busy_;
      return next;
    }
    changed_.wait(lock);
  }
  return nullptr;
}

Status MirrorTransfer::Fill(Lane& lane, Stripe& stripe) {
  while (true) {
    {
      const Lock lock(mutex_);
      if (stop_ || stripe.complete()) return OkStatus();
    }
    SEALIFT_RETURN_IF_ERROR(FillOnce(lane, stripe));
  }
}

Result<std::uint64_t> MirrorTransfer::CheckAnswer(const MirrorAnswer& answer, Stripe& stripe,
                                                  std::uint64_t from) {
  const HttpHead& head = answer.head;
  if (head.status == 404 || head.status == 410) {
    return MakeError(Code::kNotFound, Reason::kContentUnknown,
                     fmt::format("fetch '{}': not there", answer.url.Text()));
  }
  if (head.status != 200 && head.status != 206)
    return MirrorFailed(answer.url, fmt::format("it answers {}", head.status));
  if (!head.length) return MirrorFailed(answer.url, "its body has no length");
  const bool ranged = head.status == 206;
  if (ranged && head.range_start.value_or(0) != from)
    return MirrorFailed(answer.url, "it sends another range than asked for");
  const Lock lock(mutex_);
  const bool open = stripe.end == kUnknownEnd;
  std::optional<std::uint64_t> total = ranged ? head.range_total : head.length;
  if (ranged && open && *head.length <= kUnknownEnd - from) total = from + *head.length;
  if (!total) return MirrorFailed(answer.url, "it does not say how large the object is");
  if (total_ && (*total_ != *total || !ranged))
    return MirrorFailed(answer.url, "it sends another object than before");
  if (from >= *total) return MirrorFailed(answer.url, "the object is shorter there");
  if (!total_) {
    // A mirror that knows no ranges sends all of it.
    stripe.end = ranged && !open ? std::min(stripe.end, *total) : *total;
    next_begin_ = stripe.end;
    total_ = total;
    source_ = answer.url;
  }
  if (ranged && *head.length > stripe.end - from)
    return MirrorFailed(answer.url, "it sends more than asked for");
  if (ranged && *head.length == 0) return MirrorFailed(answer.url, "it sends nothing");
  changed_.notify_all();
  return ranged ? 0 : from;
}

Status MirrorTransfer::FillOnce(Lane& lane, Stripe& stripe) {
  MirrorRequest request;
  {
    const Lock lock(mutex_);
    request.url = source_;
    request.begin = stripe.begin + stripe.received;
    if (stripe.end != kUnknownEnd) request.end = stripe.end;
  }
  SEALIFT_ASSIGN_OR_RETURN(MirrorAnswer answer, AskMirror(request, options_, std::move(lane.connection)));
  SEALIFT_ASSIGN_OR_RETURN(std::uint64_t skip, CheckAnswer(answer, stripe, request.begin));
  std::uint64_t left = *answer.head.length;
  Bytes buffer = std::move(answer.begun);
  std::size_t got = static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), left));
  buffer.resize(std::max(buffer.size(), limit_.piece_bytes()));
  while (true) {
    left -= got;
    const auto skipped = static_cast<std::size_t>(std::min<std::uint64_t>(skip, got));
    skip -= skipped;
    if (got > 0) {
      Lock lock(mutex_);
      Append(stripe.bytes, ByteView(buffer).subspan(skipped, got - skipped));
      stripe.received += got - skipped;
      received_ += got;
      lane.served = true;
      changed_.notify_all();
      changed_.wait(lock, [&] { return stop_ || left == 0 || stripe.bytes.size() < kMaxWaiting; });
    }
    if (left == 0) break;
    limit_.Take(got);
    {
      const Lock lock(mutex_);
      if (stop_) return OkStatus();
    }
    const auto more = answer.connection->Receive(std::span(buffer).first(static_cast<std::size_t>(
                                                     std::min<std::uint64_t>(limit_.piece_bytes(), left))),
                                                 Clock::now() + kLook);
    const bool late = more.status().code() == Code::kDeadlineExceeded;
    if (!more.ok() && !late) return more.status();
    if (!late && *more == 0) return MirrorFailed(answer.url, "it stopped before the end");
    got = late ? 0 : *more;
  }
  limit_.Take(got);
  // The next request goes to the same place.
  if (answer.head.status == 206 && request.end && !answer.head.closes && SameHost(answer.url, request.url))
    lane.connection = std::move(answer.connection);
  return OkStatus();
}

}  // namespace sealift::agent
