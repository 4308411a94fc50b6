// What the verbs that make or use Secure Boot keys have in common: vendor certificates, expiry, and the verbs
// `keys sign-variable|csr|import-cert`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "controller/cli/verbs.h"
#include "hsm/enrolment_content.h"
#include "hsm/inventory.h"

namespace sealift::cli {

inline constexpr char kSkipMicrosoft[] = "--skip-microsoft-certs-I-KNOW-WHAT-IM-DOING";

// Options of `keys init` that say what machines trust beside our own keys.
struct EnrolmentArguments {
  bool skip_microsoft = false;
  std::vector<std::string> microsoft_names;
  std::string microsoft_source;
  std::string custom_folder;
};
void AddEnrolmentOptions(CLI::App& verb, EnrolmentArguments& arguments);
// Before any key is made. Warnings go to stderr, one line each.
Result<hsm::EnrolmentContent> LoadEnrolment(const EnrolmentArguments& arguments);
// Lines for people; the same for JSON goes through EnrolmentJson.
void PrintEnrolment(const hsm::EnrolmentContent& content);
// `inventory` as it is in the file, with "enrolled" and "warnings" added.
std::string EnrolmentJson(const hsm::Inventory& inventory, const hsm::EnrolmentContent& content);

// Called where a role's certificate is about to be used: one line on stderr from 90 days before its end, and
// SIGNER_CERTIFICATE_EXPIRED afterwards unless allowed.
Status CheckCertificates(const hsm::Inventory& inventory, const std::vector<std::string_view>& roles,
                         bool allow_expired);
void AddExpiredOption(CLI::App& verb, bool& allow_expired);

// sealift keys sign-variable|csr|import-cert
void AddKeyMaterialVerbs(CLI::App& keys, Session& session);

}  // namespace sealift::cli
