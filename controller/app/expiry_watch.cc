#include "controller/app/expiry_watch.h"

#include "shared/base/log.h"

namespace sealift::controller {
namespace {

constexpr auto kInterval = std::chrono::hours(24);

}  // namespace

std::optional<std::vector<hsm::ExpiringCertificate>> ExpiryWatch::CheckIfDue() {
  const UnixMillis now = clock_.Now();
  // A clock that was set back does not silence it.
  if (last_.has_value() && now - *last_ < kInterval && now >= *last_) return std::nullopt;
  last_ = now;
  std::vector<hsm::ExpiringCertificate> found = hsm::ExpiringCertificates(inventory_, {}, now);
  for (const hsm::ExpiringCertificate& one : found) {
    log::Write(one.expired ? log::Level::kError : log::Level::kWarning, one.text, {{"key", one.role}});
  }
  return found;
}

}  // namespace sealift::controller
