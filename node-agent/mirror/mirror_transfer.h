// One object from one mirror, over several connections at once.
//
// Each connection asks for one stripe at a time, with a range; bytes are handed on in order, and what came
// early waits in memory: at most two stripes a connection. It begins with one connection. Another one is
// added whenever a stripe came within five seconds, and one stops after a stripe that took longer than ten:
// over a thin line several would only keep others waiting at a cache between here and there. A connection
// that fails leaves its stripe to the others; the transfer fails with the last one. A mirror that knows no
// ranges sends everything over one.
//
// Used by one thread; each connection has a thread of its own, which ends with the transfer.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "node-agent/mirror/mirror_request.h"
#include "shared/content/download.h"

namespace sealift::agent {

class MirrorTransfer {
 public:
  // From `offset` to the end of the object. `reuse`: as of AskMirror. Borrows options and limit.
  MirrorTransfer(HttpUrl url, std::uint64_t offset, std::uint32_t connections,
                 std::unique_ptr<Connection> reuse, const MirrorOptions& options, RateLimit& limit);
  // Takes as long as a connection that is being made: `connect_timeout` at most, and `rate_window`.
  ~MirrorTransfer();
  MirrorTransfer(const MirrorTransfer&) = delete;
  MirrorTransfer& operator=(const MirrorTransfer&) = delete;

  // Until the end of the object, the sink refuses, or the mirror fails. After the sink refused, which is in
  // `refused`, too, it may be called again and goes on with what was refused.
  // Errors: those of the sink; NOT_FOUND/CONTENT_UNKNOWN; UNAVAILABLE with MIRROR_FAILED or
  // TRANSFER_TOO_SLOW; those of Connection.
  Status Run(const content::Sink& sink, Status& refused);

  const HttpUrl& asked() const { return url_; }
  // Behind what the sink took.
  std::uint64_t offset() const { return offset_; }
  // How many connections the mirror seems to allow: those that ever brought something, or may still do.
  std::uint32_t allowed();
  // After all of it came: a connection that can be used again, or null.
  std::unique_ptr<Connection> TakeConnection();

 private:
  struct Stripe {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    // From `begin`.
    std::uint64_t received = 0;
    // What was received and not handed on.
    Bytes bytes;
    bool taken = false;
    bool complete() const { return begin + received == end; }
  };
  // One connection, used by its thread.
  struct Lane {
    std::unique_ptr<Connection> connection;
    bool served = false;
    bool ended = false;
    std::thread thread;
  };
  using Lock = std::unique_lock<std::mutex>;

  void Serve(Lane& lane);
  // Waits for one; null at the end.
  Stripe* TakeStripe();
  // Asks until the stripe is complete, or the transfer stops.
  Status Fill(Lane& lane, Stripe& stripe);
  Status FillOnce(Lane& lane, Stripe& stripe);
  // Learns from the first answer how large the object is. Gives the bytes of the body to skip.
  Result<std::uint64_t> CheckAnswer(const MirrorAnswer& answer, Stripe& stripe, std::uint64_t from);
  void AddLane(std::unique_ptr<Connection> reuse);
  void AdaptLanes(std::chrono::steady_clock::duration took);
  std::uint64_t StripeEnd(std::uint64_t begin) const;

  const HttpUrl url_;
  const std::uint32_t most_;
  const MirrorOptions& options_;
  RateLimit& limit_;
  // Used by Run's thread alone.
  std::uint64_t offset_;

  std::mutex mutex_;
  std::condition_variable changed_;
  // What follows is under the mutex; places in the deque stay where they are.
  std::deque<Stripe> stripes_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  // Where the answers come from, after redirects.
  HttpUrl source_;
  std::optional<std::uint64_t> total_;
  std::uint64_t next_begin_ = 0;
  std::uint64_t received_ = 0;
  std::uint32_t wanted_ = 1;
  std::uint32_t busy_ = 0;
  std::uint32_t alive_ = 0;
  bool stop_ = false;
  Status failure_;
};

}  // namespace sealift::agent
