#include "hsm/session_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

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
std::string TokenKey(const Module& module, const std::string& label, const std::string& serial) {
  return fmt::format("{}|{}|{}|{}", module.key(), module.softhsm_store(), label, serial);
}

}  // namespace

SessionPool::Lease::~Lease() {
  if (pool_ != nullptr) pool_->Return(*this);
}

std::string SessionPool::Name() const { return fmt::format("token '{}'", label_); }

Status SessionPool::ReadTokenInfo() {
  CK_TOKEN_INFO info{};
  if (const CK_RV rv = api().C_GetTokenInfo(slot_, &info); rv != CKR_OK) {
    return Pkcs11Error(rv, fmt::format("open token in slot {}", slot_), "C_GetTokenInfo");
  }
  label_ = PaddedText(info.label, sizeof(info.label));
  serial_ = PaddedText(info.serialNumber, sizeof(info.serialNumber));
  pin_locked_ = (info.flags & CKF_USER_PIN_LOCKED) != 0;
  const bool unlimited = info.ulMaxSessionCount == CK_EFFECTIVELY_INFINITE ||
                         info.ulMaxSessionCount == CK_UNAVAILABLE_INFORMATION;
  // One is the anchor's.
  if (!unlimited && info.ulMaxSessionCount > 1) {
    options_.max_sessions = std::min<std::size_t>(options_.max_sessions, info.ulMaxSessionCount - 1);
  }
  options_.max_sessions = std::max<std::size_t>(options_.max_sessions, 1);
  return OkStatus();
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
  const std::string key = TokenKey(*module_, label_, serial_);
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
  SEALIFT_RETURN_IF_ERROR(pool->ReadTokenInfo());
  SEALIFT_RETURN_IF_ERROR(pool->Login());
  return pool;
}

SessionPool::~SessionPool() {
  for (const CK_SESSION_HANDLE session : idle_) Close(session);
  if (anchor_ != CK_INVALID_HANDLE) Close(anchor_);
}

void SessionPool::Close(CK_SESSION_HANDLE session) {
  // A session that the token lost already is as good as closed.
  const CK_RV rv = api().C_CloseSession(session);
  if (rv != CKR_OK && rv != CKR_SESSION_HANDLE_INVALID && rv != CKR_SESSION_CLOSED) {
    log::Debug("session did not close", {{"token", label_}, {"error", RvName(rv)}});
  }
}

Result<SessionPool::Lease> SessionPool::Acquire() {
  std::uint64_t epoch = 0;
  {
    std::unique_lock lock(mutex_);
    if (!returned_.wait_for(lock, options_.acquire_timeout,
                            [&] { return in_use_ < options_.max_sessions; })) {
      return MakeError(Code::kUnavailable, Reason::kHsmBusy,
                       fmt::format("use {}: all {} sessions are busy since {} ms", Name(),
                                   options_.max_sessions, options_.acquire_timeout.count()));
    }
    ++in_use_;
    epoch = epoch_;
    if (!idle_.empty()) {
      const CK_SESSION_HANDLE session = idle_.back();
      idle_.pop_back();
      return Lease(this, session, epoch, true);
    }
  }
  auto session = OpenSession(0);
  if (session.ok()) return Lease(this, *session, epoch, true);
  const std::lock_guard lock(mutex_);
  --in_use_;
  returned_.notify_one();
  return session.status();
}

Result<SessionPool::Lease> SessionPool::AcquireReadWrite() {
  SEALIFT_ASSIGN_OR_RETURN(const CK_SESSION_HANDLE session, OpenSession(CKF_RW_SESSION));
  const std::lock_guard lock(mutex_);
  return Lease(this, session, epoch_, false);
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
  if (!keep) Close(lease.handle_);
}

Status SessionPool::Renew(std::uint64_t seen) {
  const std::lock_guard renewing(renew_mutex_);
  std::vector<CK_SESSION_HANDLE> old;
  {
    const std::lock_guard lock(mutex_);
    if (epoch_ != seen) return OkStatus();
    old.swap(idle_);
  }
  for (const CK_SESSION_HANDLE session : old) Close(session);
  if (anchor_ != CK_INVALID_HANDLE) Close(std::exchange(anchor_, CK_INVALID_HANDLE));
  SEALIFT_RETURN_IF_ERROR(Login());
  log::Info("logged in to token again", {{"token", label_}});
  const std::lock_guard lock(mutex_);
  // Sessions that were returned meanwhile are of the old epoch too.
  for (const CK_SESSION_HANDLE session : std::exchange(idle_, {})) Close(session);
  ++epoch_;
  return OkStatus();
}

}  // namespace sealift::hsm
