#include "controller/attest/admission_policy.h"

#include <fmt/format.h>

namespace sealift::controller {
namespace {

Status Unenforceable(std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kPolicyUnenforceable,
                   fmt::format("load the admission policy: {}", why));
}

}  // namespace

Result<AdmissionPolicy> ParseAdmissionPolicy(std::span<const std::string> words, bool with_makers) {
  AdmissionPolicy policy{.ek_list = false, .join_token = false, .approval = false};
  for (const std::string& word : words) {
    if (word == "ek-list") {
      policy.ek_list = true;
    } else if (word == "join-token") {
      policy.join_token = true;
    } else if (word == "approval") {
      policy.approval = true;
    } else {
      return Unenforceable(
          fmt::format("'{}' is none of ek-list, join-token, approval", std::string_view(word).substr(0, 40)));
    }
  }
  if (words.empty()) return Unenforceable("it admits no machine at all");
  if ((policy.join_token || policy.approval) && !with_makers) {
    return Unenforceable("join-token and approval need tpm_makers, or any program could pass for a machine");
  }
  return policy;
}

AdmissionPolicy DefaultAdmissionPolicy(bool with_makers) {
  return {.ek_list = true, .join_token = with_makers, .approval = with_makers};
}

}  // namespace sealift::controller
