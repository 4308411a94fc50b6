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
    const InventoryKey* key = inventory.Newest(role.name);
    if (key == nullptr || !key->has_certificate || key->not_after - now > kExpiryWarning) continue;
    ExpiringCertificate one{.role = key->role, .not_after = key->not_after};
    one.days_left = static_cast<long>(std::chrono::floor<std::chrono::days>(key->not_after - now).count());
    one.expired = key->not_after < now;
    one.text = one.expired
                   ? fmt::format("certificate of '{}' ended at {}", one.role, FormatRfc3339(one.not_after))
                   : fmt::format("certificate of '{}' ends at {}, in {} days", one.role,
                                 FormatRfc3339(one.not_after), one.days_left);
    found.push_back(std::move(one));
  }
  return found;
}

Status CheckNotExpired(const Inventory& inventory, const std::vector<std::string_view>& roles,
                       UnixMillis now) {
  for (const ExpiringCertificate& one : ExpiringCertificates(inventory, roles, now)) {
    if (!one.expired) continue;
    return MakeError(Code::kFailedPrecondition, Reason::kSignerCertificateExpired,
                     fmt::format("sign with key '{}': its certificate ended at {}", one.role,
                                 FormatRfc3339(one.not_after)));
  }
  return OkStatus();
}

}  // namespace sealift::hsm
