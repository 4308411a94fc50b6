// Recovery keys at the custodian's side: ciphertext from the controller, decrypted by the custody token.
#pragma once

#include <string>
#include <vector>

#include "controller/cli/verbs.h"
#include "sealift/v1/fleet.pb.h"

namespace sealift::cli {

struct RecoveryKeyArguments {
  std::string keys;
  std::vector<std::string> tokens;
  std::string journal;
  // Only this volume; empty: the newest key of each.
  std::string volume;
};
void AddRecoveryKeyOptions(CLI::App& verb, RecoveryKeyArguments& arguments);

// Decrypts and prints them. Refuses a blob whose subject is not what was asked for. Errors: ESCROW_MALFORMED;
// HSM_KEY_MISSING when no token given holds the escrow key; those of the token.
Status PrintRecoveryKeys(const v1::FetchRecoveryKeyResponse& fetched, const v1::ChangeRequest& request,
                         const RecoveryKeyArguments& arguments, const Session& session);

}  // namespace sealift::cli
