// Leases logged-in sessions on one PKCS#11 token.
//
// Thread-safe. Outlives every Lease it hands out. One anchor session stays open for the pool's whole life,
// since closing the last session of a program logs it out. A session carries one operation at a time, so a
// lease belongs to one thread. Holds at most `max_sessions` beside the anchor; further callers wait.
//
// A session belongs to an epoch. What was lost is made anew, level by level: the sessions; the login; the
// module itself, when it answers nothing any more. That ends the epoch: all its sessions and object handles
// are void. Threads that lost theirs together share one repair, and its failure. A PIN that the token called
// wrong is never sent a second time by this process.
//
// PKCS#11 2.40 section 6.7 (sessions). docs/reasons.md says what an operator does about a locked PIN.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
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
    // How long one repair goes on trying while the token is away.
    std::chrono::milliseconds repair_timeout = std::chrono::seconds(5);
  };

  class Lease {
   public:
    Lease(Lease&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)),
          handle_(other.handle_),
          epoch_(other.epoch_),
          counted_(other.counted_),
          use_(std::move(other.use_)),
          broken_(other.broken_) {}
    Lease& operator=(Lease&&) = delete;
    ~Lease();
    CK_SESSION_HANDLE handle() const { return handle_; }
    std::uint64_t epoch() const { return epoch_; }
    // The session is closed instead of being lent again.
    void Discard() { broken_ = true; }

   private:
    friend class SessionPool;
    Lease(SessionPool* pool, CK_SESSION_HANDLE handle, std::uint64_t epoch, bool counted, Module::Use use)
        : pool_(pool), handle_(handle), epoch_(epoch), counted_(counted), use_(std::move(use)) {}
    SessionPool* pool_;
    CK_SESSION_HANDLE handle_;
    std::uint64_t epoch_;
    bool counted_;
    Module::Use use_;
    bool broken_ = false;
  };

  // Logs in. Errors: HSM_PIN_INCORRECT (also without asking the token, when it refused before),
  // HSM_PIN_LOCKED, HSM_TOKEN_MISSING, HSM_FAILED; none of them is worth a retry with the same PIN.
  static Result<std::unique_ptr<SessionPool>> Open(std::shared_ptr<Module> module, CK_SLOT_ID slot,
                                                   SecretBytes pin, Options options);
  SessionPool(const SessionPool&) = delete;
  SessionPool& operator=(const SessionPool&) = delete;
  ~SessionPool();

  static constexpr int kAttempts = 4;
  // Runs `use` on a read-only session, and again after a repair when its error is a loss: at most kAttempts
  // times, so only for what may be done twice. The caller holds no lease. Errors: UNAVAILABLE/HSM_BUSY after
  // the timeout; those of the token and of `use`.
  Status Run(const std::function<Status(Lease&)>& use);
  // A read-only session, on a token that is there and logged in as far as we know. Errors as Run.
  Result<Lease> Acquire();
  // A read-write session of its own, for ceremonies; not counted, closed when the lease ends.
  Result<Lease> AcquireReadWrite();

  CK_FUNCTION_LIST& api() const { return module_->api(); }
  const Module& module() const { return *module_; }
  CK_SLOT_ID slot() const { return slot_; }
  const std::string& token_label() const { return identity_.token; }
  const std::string& token_serial() const { return identity_.serial; }
  // "token 'demo-online'", for messages.
  std::string Name() const;

 private:
  SessionPool(std::shared_ptr<Module> module, CK_SLOT_ID slot, SecretBytes pin, Options options)
      : module_(std::move(module)), slot_(slot), pin_(std::move(pin)), options_(options) {}
  Result<CK_TOKEN_INFO> ReadTokenInfo();
  // Opens the anchor and logs in. Called at opening, or under renew_mutex_, with a Module::Use.
  Status Login();
  Result<CK_SESSION_HANDLE> OpenSession(CK_FLAGS flags);
  void Close(CK_SESSION_HANDLE session);
  void Return(const Lease& lease);
  // `epoch` becomes the one in which it was tried, also on failure.
  Result<Lease> AcquireOnce(CK_FLAGS flags, std::uint64_t& epoch);
  Result<Lease> AcquireMending(CK_FLAGS flags);
  // Starts the next epoch if `seen` is still the current one; otherwise another thread did so already.
  // `attempt` counts from 1: what did not help is not tried alone again. Errors: as Open.
  Status Renew(std::uint64_t seen, int attempt);
  // Both return the module's generation in which the login is good.
  Result<std::uint64_t> Repair(int attempt);
  Result<std::uint64_t> LoginAgain();
  bool AnchorIsLoggedIn();
  // Closes the idle sessions; forgets them when the module is of a newer generation.
  void DropIdle(const Module::Use& use);

  std::shared_ptr<Module> module_;
  std::atomic<CK_SLOT_ID> slot_;
  SecretBytes pin_;
  Options options_;
  TokenUri identity_;

  // Held across the token calls of one renewal, so that threads which lost their sessions together log in
  // once. Taken before mutex_, never the other way; no lease and no Module::Use is held by who waits for it.
  std::mutex renew_mutex_;
  // Both under renew_mutex_ once open.
  bool pin_locked_ = false;
  CK_SESSION_HANDLE anchor_ = CK_INVALID_HANDLE;

  std::mutex mutex_;
  std::condition_variable returned_;
  std::vector<CK_SESSION_HANDLE> idle_;
  std::size_t in_use_ = 0;
  std::uint64_t epoch_ = 1;
  // The module's, in which this epoch is logged in.
  std::uint64_t generation_ = 0;
  // Repairs that failed; who waited for one takes its outcome.
  std::uint64_t failures_ = 0;
  Status last_failure_;
};

}  // namespace sealift::hsm
