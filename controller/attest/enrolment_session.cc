#include "controller/attest/enrolment_session.h"

#include <fmt/format.h>

#include <algorithm>

namespace sealift::controller {
namespace {

class MemoryEnrolmentSessions final : public EnrolmentSessions {
 public:
  explicit MemoryEnrolmentSessions(std::size_t capacity) : capacity_(capacity) {}

  Status Open(EnrolmentSession session) override {
    const std::lock_guard lock(mutex_);
    while (entries_.size() >= capacity_) PushOut();
    std::string id = session.id;
    std::string origin = session.origin;
    Entry entry{.session = std::make_shared<const EnrolmentSession>(std::move(session))};
    if (!entries_.emplace(id, std::move(entry)).second) {
      return MakeError(Code::kAlreadyExists, Reason::kInternal, "open enrolment session: it exists");
    }
    by_age_[std::move(origin)].push_back(std::move(id));
    return OkStatus();
  }

  Result<SessionClaim> Claim(const std::string& id, UnixMillis now) override {
    const std::lock_guard lock(mutex_);
    const auto at = entries_.find(id);
    if (at == entries_.end() || at->second.session->expires <= now) {
      return MakeError(Code::kNotFound, Reason::kEnrolmentSessionUnknown,
                       "complete enrolment: no such session, or it has expired");
    }
    Entry& entry = at->second;
    if (entry.answer.has_value()) return SessionClaim{.session = nullptr, .answer = entry.answer};
    if (entry.claimed) {
      return MakeError(Code::kAborted, Reason::kEnrolmentSessionUnknown,
                       "complete enrolment: the session is being completed by another call");
    }
    entry.claimed = true;
    return SessionClaim{.session = entry.session, .answer = std::nullopt};
  }

  Status Finish(const std::string& id, const EnrolmentAnswer& answer) override {
    const std::lock_guard lock(mutex_);
    const auto at = entries_.find(id);
    // It may have been pushed out meanwhile; then there is nobody to tell.
    if (at != entries_.end()) at->second.answer = answer;
    return OkStatus();
  }

  Status Release(const std::string& id) override {
    const std::lock_guard lock(mutex_);
    const auto at = entries_.find(id);
    if (at != entries_.end()) at->second.claimed = false;
    return OkStatus();
  }

 private:
  struct Entry {
    std::shared_ptr<const EnrolmentSession> session;
    bool claimed = false;
    std::optional<EnrolmentAnswer> answer;
  };

  void PushOut() {
    const auto most = std::ranges::max_element(
        by_age_, [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
    entries_.erase(most->second.front());
    most->second.pop_front();
    if (most->second.empty()) by_age_.erase(most);
  }

  const std::size_t capacity_;
  std::mutex mutex_;
  std::map<std::string, Entry> entries_;
  // Origin -> ids of its sessions, oldest first.
  std::map<std::string, std::list<std::string>> by_age_;
};

}  // namespace

std::unique_ptr<EnrolmentSessions> MakeMemoryEnrolmentSessions(std::size_t capacity) {
  return std::make_unique<MemoryEnrolmentSessions>(capacity);
}

}  // namespace sealift::controller
