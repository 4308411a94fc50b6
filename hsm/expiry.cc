#include "hsm/expiry.h"

#include <fmt/format.h>

#include <algorithm>

namespace sealift::hsm {

std::vector<ExpiringCertificate> ExpiringCertificates(const Inventory& inventory,
                                                      const std::vector<std::string_view>& roles,
                                                      UnixMillis now) {
  std::vector<ExpiringCertificate> found;
  for (const Role& role : AllRoles()) {
    if (!roles.empty() && std::find(roles.begin(), roles.end(), role.name) == roles.end()) continue;
    const InventoryKey* newest = inventory.Newest(role.name);
    if (newest == nullptr) continue;
    for (const InventoryKey* key : inventory.Generations(role.name)) {
      auto one = ExpiringCertificateOf(*key, now);
      // One that ended and was followed by another is history.
      const bool followed = key != newest && newest->has_certificate && newest->not_after >= now;
      if (one.has_value() && !(one->expired && followed)) found.push_back(*std::move(one));
    }
  }
  return found;
}

std::optional<ExpiringCertificate> ExpiringCertificateOf(const InventoryKey& key, UnixMillis now) {
  if (!key.has_certificate || key.not_after - now > kExpiryWarning) return std::nullopt;
  ExpiringCertificate one{.role = key.role, .not_after = key.not_after};
  one.days_left = static_cast<long>(std::chrono::floor<std::chrono::days>(key.not_after - now).count());
  one.expired = key.not_after < now;
  const std::string which = key.generation == 1 ? "" : fmt::format(" generation {}", key.generation);
  one.text = one.expired ? fmt::format("certificate of '{}'{} ended at {}", one.role, which,
                                       FormatRfc3339(one.not_after))
                         : fmt::format("certificate of '{}'{} ends at {}, in {} days", one.role, which,
                                       FormatRfc3339(one.not_after), one.days_left);
  return one;
}

Status CheckNotExpired(const InventoryKey& key, UnixMillis now) {
  const auto one = ExpiringCertificateOf(key, now);
  if (!one.has_value() || !one->expired) return OkStatus();
  return MakeError(Code::kFailedPrecondition, Reason::kSignerCertificateExpired,
                   fmt::format("sign with key '{}': its certificate ended at {}", one->role,
                               FormatRfc3339(one->not_after)));
}

Status CheckNotExpired(const Inventory& inventory, const std::vector<std::string_view>& roles,
                       UnixMillis now) {
  for (const Role& role : AllRoles()) {
    if (!roles.empty() && std::find(roles.begin(), roles.end(), role.name) == roles.end()) continue;
    const InventoryKey* newest = inventory.Newest(role.name);
    if (newest != nullptr) SEALIFT_RETURN_IF_ERROR(CheckNotExpired(*newest, now));
  }
  return OkStatus();
}

}  // namespace sealift::hsm
