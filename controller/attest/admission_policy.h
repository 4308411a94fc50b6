// Which proofs that somebody wants a machine let it in. A genuine TPM alone never does.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "shared/base/status.h"

namespace sealift::controller {

// Immutable value. At least one of them.
struct AdmissionPolicy {
  // Its endorsement key is listed: sealift node admit-ek, sealift node inventory import.
  bool ek_list = true;
  // It brings a join token, and its maker's certificate.
  bool join_token = false;
  // A genuine machine waits as a pending node until an approver admits it. Off: it is turned away and not
  // remembered.
  bool approval = false;
  bool operator==(const AdmissionPolicy&) const = default;
};

// `words`: "ek-list", "join-token", "approval". `with_makers`: whether TPM makers' certificates can be
// checked; without, a key that is not listed says nothing about its machine, and only "ek-list" can be kept.
// Errors: INVALID_ARGUMENT/POLICY_UNENFORCEABLE for an unknown word, none at all, or one that cannot be kept.
Result<AdmissionPolicy> ParseAdmissionPolicy(std::span<const std::string> words, bool with_makers);
// What holds where the configuration says nothing: all that can be kept.
AdmissionPolicy DefaultAdmissionPolicy(bool with_makers);

}  // namespace sealift::controller
