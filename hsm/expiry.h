// When certificates of a set end: warned of from 90 days on, and not signed with afterwards unless asked to.
//
// Pure functions; thread-safe.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hsm/inventory.h"

namespace sealift::hsm {

inline constexpr auto kExpiryWarning = std::chrono::hours(24) * 90;

struct ExpiringCertificate {
  std::string role;
  UnixMillis not_after;
  // Whole days; negative when it has ended.
  long days_left = 0;
  bool expired = false;
  // "certificate of 'db' ends at 2026-12-01T00:00:00Z, in 6 days".
  std::string text;
};

// Of each generation of each of `roles`, of every role for an empty list; without those that ended and were
// followed by one that is valid.
std::vector<ExpiringCertificate> ExpiringCertificates(const Inventory& inventory,
                                                      const std::vector<std::string_view>& roles,
                                                      UnixMillis now);
// Of one generation; nothing where it has no certificate or a long time yet.
std::optional<ExpiringCertificate> ExpiringCertificateOf(const InventoryKey& key, UnixMillis now);
// Errors: FAILED_PRECONDITION/SIGNER_CERTIFICATE_EXPIRED naming role and time.
Status CheckNotExpired(const InventoryKey& key, UnixMillis now);
// Errors: FAILED_PRECONDITION/SIGNER_CERTIFICATE_EXPIRED naming role and time.
Status CheckNotExpired(const Inventory& inventory, const std::vector<std::string_view>& roles,
                       UnixMillis now);

}  // namespace sealift::hsm
