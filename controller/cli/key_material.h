// What the verbs that make or use Secure Boot keys have in common: vendor certificates, expiry, and the verbs
// `keys sign-variable|csr|import-cert`.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "controller/cli/verbs.h"
#include "hsm/enrolment_content.h"
#include "hsm/hierarchy.h"
#include "hsm/inventory.h"
#include "hsm/key_ring.h"

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
// The same for the generation of each role that `ring` signs with.
Status CheckCertificates(hsm::KeyRing& ring, const std::vector<std::string_view>& roles, bool allow_expired);
// --generation ROLE=N, of every verb that uses a role that may have several.
void AddGenerationOption(
    CLI::App& verb, std::vector<std::string>& generations,
    const std::string& meaning = "the generation that signs instead of the oldest that a token given holds");
// "ROLE=ALG" each, of --algorithm; warnings go to stderr. Errors: KEY_ALGORITHM_UNSUPPORTED.
Result<std::map<std::string, hsm::KeyAlgorithm, std::less<>>> ParseAlgorithms(
    const std::vector<std::string>& texts);
void AddAlgorithmOption(CLI::App& verb, std::vector<std::string>& algorithms);
void AddExpiredOption(CLI::App& verb, bool& allow_expired);

// sealift keys delegate-orders
void AddDelegationVerbs(CLI::App& keys, Session& session);
// sealift keys add-generation
void AddGenerationVerbs(CLI::App& keys, Session& session);
// sealift keys transport-key|backup|restore
void AddBackupVerbs(CLI::App& keys, Session& session);
// sealift keys sign-variable|csr|import-cert
void AddKeyMaterialVerbs(CLI::App& keys, Session& session);

}  // namespace sealift::cli
