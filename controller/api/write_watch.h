// Ends streams whose reader takes too long over one piece: a slow reader would hold a thread for as long as
// it likes.
#pragma once

#include <grpcpp/server_context.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

namespace sealift::controller {

// Thread-safe. One thread watches all streams. Outlives every Piece.
class WriteWatch {
 public:
  explicit WriteWatch(std::chrono::milliseconds patience)
      : patience_(patience), watcher_([this](const std::stop_token& stop) { Run(stop); }) {}

  // While it lives, one write of the call is under way; after `patience` the call is cancelled, and the write
  // fails.
  class Piece {
   public:
    Piece(WriteWatch& watch, grpc::ServerContextBase& context);
    ~Piece();
    Piece(const Piece&) = delete;
    Piece& operator=(const Piece&) = delete;

   private:
    WriteWatch& watch_;
    grpc::ServerContextBase& context_;
  };

 private:
  using TimePoint = std::chrono::steady_clock::time_point;
  void Run(const std::stop_token& stop);

  const std::chrono::milliseconds patience_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  // When each call's write runs out of time.
  std::map<grpc::ServerContextBase*, TimePoint> under_way_;
  // Whether the thread waits for a first piece and not for a time.
  bool idle_ = false;
  // Last: it uses the others.
  std::jthread watcher_;
};

}  // namespace sealift::controller
