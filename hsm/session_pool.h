// Leases logged-in sessions on one PKCS#11 token.
//
// Thread-safe. Outlives every Lease it hands out. One anchor session stays open for the pool's whole life,
// since closing the last session of a program logs it out. A session carries one operation at a time, so a
// lease belongs to one thread. Holds at most `max_sessions` beside the anchor; further callers wait.
//
// A session belongs to an epoch. Renew() ends the epoch: all its sessions and object handles are void, a new
// anchor is logged in. A PIN that the token called wrong is never sent a second time by this process.
//
// PKCS#11 2.40 section 6.7 (sessions). docs/reasons.md says what an operator does about a locked PIN.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "hsm/module.h"
#include "shared/base/secret.h"

namespace sealift::hsm {

class SessionPool {
 public:
  struct Options {
    // Fewer when the token allows fewer.
    std::size_t max_sessions = 8;
    // How long Acquire waits for a session that others hold.
    std::chrono::milliseconds acquire_timeout = std::chrono::seconds(30);
  };

  class Lease {
   public:
    Lease(Lease&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)),
          handle_(other.handle_),
          epoch_(other.epoch_),
          counted_(other.counted_),
          broken_(other.broken_) {}
    Lease& operator=(Lease&&) = delete;
    ~Lease();
    CK_SESSION_HANDLE handle() const { return handle_; }
    std::uint64_t epoch() const { return epoch_; }
    // The session is closed instead of being lent again.
    void Discard() { broken_ = true; }

   private:
    friend class SessionPool;
    Lease(SessionPool* pool, CK_SESSION_HANDLE handle, std::uint64_t epoch, bool counted)
        : pool_(pool), handle_(handle), epoch_(epoch), counted_(counted) {}
    SessionPool* pool_;
    CK_SESSION_HANDLE handle_;
    std::uint64_t epoch_;
    bool counted_;
    bool broken_ = false;
  };

  // Logs in. Errors: HSM_PIN_INCORRECT (also without asking the token, when it refused before),
  // HSM_PIN_LOCKED, HSM_TOKEN_MISSING, HSM_FAILED; none of them is worth a retry with the same PIN.
  static Result<std::unique_ptr<SessionPool>> Open(std::shared_ptr<Module> module, CK_SLOT_ID slot,
                                                   SecretBytes pin, Options options);
  SessionPool(const SessionPool&) = delete;
  SessionPool& operator=(const SessionPool&) = delete;
  ~SessionPool();

  // A read-only session. Errors: UNAVAILABLE/HSM_BUSY after the timeout; those of C_OpenSession.
  Result<Lease> Acquire();
  // A read-write session of its own, for ceremonies; not counted, closed when the lease ends.
  Result<Lease> AcquireReadWrite();
  // Starts the next epoch if `seen` is still the current one; otherwise another thread did so already.
  // Errors: as Open.
  Status Renew(std::uint64_t seen);

  CK_FUNCTION_LIST& api() const { return module_->api(); }
  const Module& module() const { return *module_; }
  CK_SLOT_ID slot() const { return slot_; }
  const std::string& token_label() const { return label_; }
  const std::string& token_serial() const { return serial_; }
  // "token 'demo-online'", for messages.
  std::string Name() const;

 private:
  SessionPool(std::shared_ptr<Module> module, CK_SLOT_ID slot, SecretBytes pin, Options options)
      : module_(std::move(module)), slot_(slot), pin_(std::move(pin)), options_(options) {}
  Status ReadTokenInfo();
  // Opens the anchor and logs in. Called at opening, or under renew_mutex_.
  Status Login();
  Result<CK_SESSION_HANDLE> OpenSession(CK_FLAGS flags);
  void Close(CK_SESSION_HANDLE session);
  void Return(const Lease& lease);

  std::shared_ptr<Module> module_;
  CK_SLOT_ID slot_;
  SecretBytes pin_;
  Options options_;
  std::string label_;
  std::string serial_;
  bool pin_locked_ = false;
  CK_SESSION_HANDLE anchor_ = CK_INVALID_HANDLE;

  // Held across the token calls of one renewal, so that threads which lost their sessions together log in
  // once. Taken before mutex_, never the other way.
  std::mutex renew_mutex_;
  std::mutex mutex_;
  std::condition_variable returned_;
  std::vector<CK_SESSION_HANDLE> idle_;
  std::size_t in_use_ = 0;
  std::uint64_t epoch_ = 1;
};

}  // namespace sealift::hsm
