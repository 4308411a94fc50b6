#include "hsm/session_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <thread>
#include <utility>

#include "hsm/slot.h"
#include "shared/base/log.h"

namespace sealift::hsm {
namespace {

// Tokens that called a PIN of ours wrong, for the life of the process. Each further try could lock the token.
struct Refusals {
  std::mutex mutex;
  std::map<std::string, Status> by_token;
};
Refusals& TheRefusals() {
  static Refusals& refusals = *new Refusals;
  return refusals;
}

// The serial number alone is not enough: modules number their tokens as they like.
std::string TokenKey(const Module& module, const TokenUri& identity) {
  return fmt::format("{}|{}|{}", module.key(), module.softhsm_store(), identity.Text());
}

constexpr std::chrono::milliseconds kFirstPause{25};
constexpr std::chrono::milliseconds kLongestPause{800};

}  // namespace

SessionPool::Lease::~Lease() {
  if (pool_ != nullptr) pool_->Return(*this);
}

std::string SessionPool::Name() const { return fmt::format("token '{}'", identity_.token); }

Result<CK_TOKEN_INFO> SessionPool::ReadTokenInfo() {
  CK_TOKEN_INFO info{};
  if (const CK_RV rv = api().C_GetTokenInfo(slot_, &info); rv != CKR_OK) {
    return Pkcs11Error(rv, fmt::format("open token in slot {}", slot_.load()), "C_GetTokenInfo");
  }
  pin_locked_ = (info.flags & CKF_USER_PIN_LOCKED) != 0;
  return info;
}

Result<CK_SESSION_HANDLE> SessionPool::OpenSession(CK_FLAGS flags) {
  CK_SESSION_HANDLE session = CK_INVALID_HANDLE;
  const CK_RV rv = api().C_OpenSession(slot_, CKF_SERIAL_SESSION | flags, nullptr, nullptr, &session);
  if (rv != CKR_OK) return Pkcs11Error(rv, fmt::format("open a session on {}", Name()), "C_OpenSession");
  return session;
}

Status SessionPool::Login() {
  Refusals& refusals = TheRefusals();
  // Held across the login: a second pool must learn of a refusal before it tries the same PIN.
  const std::lock_guard lock(refusals.mutex);
  const std::string key = TokenKey(*module_, identity_);
  if (const auto refused = refusals.by_token.find(key); refused != refusals.by_token.end()) {
    return refused->second;
  }
  if (pin_locked_) {
    return MakeError(Code::kFailedPrecondition, Reason::kHsmPinLocked,
                     fmt::format("log in to {}: the token says its PIN is locked", Name()));
  }
  SEALIFT_ASSIGN_OR_RETURN(anchor_, OpenSession(0));
  // C_Login takes a pointer to non-const and does not write through it (PKCS#11 2.40 section 5.6).
  const ByteView pin = pin_.ExposeSecret();
  const CK_RV rv = api().C_Login(anchor_, CKU_USER, const_cast<CK_UTF8CHAR*>(pin.data()), pin.size());
  if (rv == CKR_OK || rv == CKR_USER_ALREADY_LOGGED_IN) return OkStatus();
  Close(std::exchange(anchor_, CK_INVALID_HANDLE));
  const Status error = Pkcs11Error(rv, fmt::format("log in to {}", Name()), "C_Login");
  if (ReasonOf(error) == Reason::kHsmPinIncorrect) refusals.by_token.emplace(key, error);
  return error;
}

Result<std::unique_ptr<SessionPool>> SessionPool::Open(std::shared_ptr<Module> module, CK_SLOT_ID slot,
                                                       SecretBytes pin, Options options) {
  std::unique_ptr<SessionPool> pool(new SessionPool(std::move(module), slot, std::move(pin), options));
  const Module::Use use = pool->module_->Enter();
  SEALIFT_ASSIGN_OR_RETURN(const CK_TOKEN_INFO info, pool->ReadTokenInfo());
  pool->identity_ = IdentityOf(info);
  const bool unlimited = info.ulMaxSessionCount == CK_EFFECTIVELY_INFINITE ||
                         info.ulMaxSessionCount == CK_UNAVAILABLE_INFORMATION;
  std::size_t& most = pool->options_.max_sessions;
  // One is the anchor's.
  if (!unlimited && info.ulMaxSessionCount > 1) {
    most = std::min<std::size_t>(most, info.ulMaxSessionCount - 1);
  }
  most = std::max<std::size_t>(most, 1);
  SEALIFT_RETURN_IF_ERROR(pool->Login());
  pool->generation_ = use.generation();
  return pool;
}

SessionPool::~SessionPool() {
  const Module::Use use = module_->Enter();
  DropIdle(use);
  if (anchor_ != CK_INVALID_HANDLE && generation_ == use.generation()) Close(anchor_);
}

void SessionPool::Close(CK_SESSION_HANDLE session) {
  // A session that the token lost already is as good as closed.
  const CK_RV rv = api().C_CloseSession(session);
  if (rv != CKR_OK && rv != CKR_SESSION_HANDLE_INVALID && rv != CKR_SESSION_CLOSED) {
    log::Debug("session did not close", {{"token", identity_.token}, {"error", RvName(rv)}});
  }
}

Result<SessionPool::Lease> SessionPool::AcquireOnce(CK_FLAGS flags, std::uint64_t& epoch) {
  const bool counted = flags == 0;
  if (counted) {
    std::unique_lock lock(mutex_);
    if (!returned_.wait_for(lock, options_.acquire_timeout,
                            [&] { return in_use_ < options_.max_sessions; })) {
      return MakeError(Code::kUnavailable, Reason::kHsmBusy,
                       fmt::format("use {}: all {} sessions are busy since {} ms", Name(),
                                   options_.max_sessions, options_.acquire_timeout.count()));
    }
    ++in_use_;
  }
  Module::Use use = module_->Enter();
  CK_SESSION_HANDLE idle = CK_INVALID_HANDLE;
  bool current = false;
  {
    const std::lock_guard lock(mutex_);
    epoch = epoch_;
    current = generation_ == use.generation();
    if (current && counted && !idle_.empty()) {
      idle = idle_.back();
      idle_.pop_back();
    }
  }
  if (idle != CK_INVALID_HANDLE) return Lease(this, idle, epoch, counted, std::move(use));
  auto session = current ? OpenSession(flags)
                         : LostError(CKR_SESSION_HANDLE_INVALID,
                                     fmt::format("use {}: its module was initialised anew", Name()));
  if (session.ok()) return Lease(this, *session, epoch, counted, std::move(use));
  const std::lock_guard lock(mutex_);
  if (counted) --in_use_;
  returned_.notify_one();
  return session.status();
}

Result<SessionPool::Lease> SessionPool::AcquireMending(CK_FLAGS flags) {
  for (int attempt = 1;; ++attempt) {
    std::uint64_t epoch = 0;
    auto lease = AcquireOnce(flags, epoch);
    if (lease.ok() || attempt == kAttempts || LossOf(lease.status()) == Loss::kNone) return lease;
    SEALIFT_RETURN_IF_ERROR(Renew(epoch, attempt));
  }
}

Result<SessionPool::Lease> SessionPool::Acquire() { return AcquireMending(0); }

Result<SessionPool::Lease> SessionPool::AcquireReadWrite() { return AcquireMending(CKF_RW_SESSION); }

Status SessionPool::Run(const std::function<Status(Lease&)>& use) {
  for (int attempt = 1;; ++attempt) {
    std::uint64_t epoch = 0;
    Status status;
    {
      auto lease = AcquireOnce(0, epoch);
      status = lease.ok() ? use(*lease) : lease.status();
      // Whatever failed may have left an operation open.
      if (lease.ok() && !status.ok()) lease->Discard();
    }
    if (status.ok() || attempt == kAttempts || LossOf(status) == Loss::kNone) return status;
    if (const Status repaired = Renew(epoch, attempt); !repaired.ok()) {
      return Annotate(repaired, MessageOf(status));
    }
  }
}

void SessionPool::Return(const Lease& lease) {
  bool keep = false;
  if (lease.counted_) {
    const std::lock_guard lock(mutex_);
    --in_use_;
    keep = !lease.broken_ && lease.epoch_ == epoch_;
    if (keep) idle_.push_back(lease.handle_);
  }
  returned_.notify_one();
  // The lease's Use kept the generation in which its session was opened.
  if (!keep) Close(lease.handle_);
}

// --- repair

Status SessionPool::Renew(std::uint64_t seen, int attempt) {
  std::uint64_t failures = 0;
  {
    const std::lock_guard lock(mutex_);
    failures = failures_;
  }
  const std::lock_guard renewing(renew_mutex_);
  {
    const std::lock_guard lock(mutex_);
    if (epoch_ != seen) return OkStatus();
    if (failures_ != failures) return last_failure_;
  }
  const auto generation = Repair(attempt);
  std::vector<CK_SESSION_HANDLE> old;
  {
    const std::lock_guard lock(mutex_);
    if (!generation.ok()) {
      ++failures_;
      last_failure_ = generation.status();
      return generation.status();
    }
    // Both at once: handles of the old epoch mean other objects in a new generation.
    ++epoch_;
    generation_ = *generation;
    // Sessions that were returned during the repair are of the old epoch too.
    old.swap(idle_);
  }
  const Module::Use use = module_->Enter();
  if (use.generation() == *generation) {
    for (const CK_SESSION_HANDLE session : old) Close(session);
  }
  return OkStatus();
}

Result<std::uint64_t> SessionPool::Repair(int attempt) {
  // After a second loss in one call, what looks alive is not believed.
  if (attempt == 1 && AnchorIsLoggedIn()) {
    const std::lock_guard lock(mutex_);
    return generation_;
  }
  auto generation = LoginAgain();
  const auto deadline = std::chrono::steady_clock::now() + options_.repair_timeout;
  for (auto pause = kFirstPause; LossOf(generation.status()) == Loss::kDevice;
       pause = std::min(pause * 2, kLongestPause)) {
    const Status ready = module_->Reinitialise();
    generation = ready.ok() ? LoginAgain() : Result<std::uint64_t>(ready);
    if (LossOf(generation.status()) != Loss::kDevice || std::chrono::steady_clock::now() + pause > deadline) {
      break;
    }
    std::this_thread::sleep_for(pause);
  }
  if (generation.ok()) log::Info("logged in to token again", {{"token", identity_.token}});
  return generation;
}

bool SessionPool::AnchorIsLoggedIn() {
  const Module::Use use = module_->Enter();
  {
    const std::lock_guard lock(mutex_);
    if (generation_ != use.generation() || anchor_ == CK_INVALID_HANDLE) return false;
  }
  CK_SESSION_INFO info{};
  const CK_RV rv = api().C_GetSessionInfo(anchor_, &info);
  return rv == CKR_OK && (info.state == CKS_RO_USER_FUNCTIONS || info.state == CKS_RW_USER_FUNCTIONS);
}

Result<std::uint64_t> SessionPool::LoginAgain() {
  const Module::Use use = module_->Enter();
  bool current = false;
  {
    const std::lock_guard lock(mutex_);
    current = generation_ == use.generation();
  }
  DropIdle(use);
  const CK_SESSION_HANDLE anchor = std::exchange(anchor_, CK_INVALID_HANDLE);
  if (current && anchor != CK_INVALID_HANDLE) Close(anchor);
  SEALIFT_ASSIGN_OR_RETURN(const FoundToken found, FindToken(*module_, identity_));
  slot_ = found.slot;
  SEALIFT_RETURN_IF_ERROR(ReadTokenInfo().status());
  SEALIFT_RETURN_IF_ERROR(Login());
  return use.generation();
}

void SessionPool::DropIdle(const Module::Use& use) {
  std::vector<CK_SESSION_HANDLE> old;
  bool current = false;
  {
    const std::lock_guard lock(mutex_);
    old.swap(idle_);
    current = generation_ == use.generation();
  }
  // The numbers of an older generation may be sessions of somebody else by now.
  if (!current) return;
  for (const CK_SESSION_HANDLE session : old) Close(session);
}

}  // namespace sealift::hsm
