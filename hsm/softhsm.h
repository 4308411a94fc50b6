// Makes tokens in a SoftHSM2 store: a folder with its own configuration, which no environment has to name.
//
//   <store>/softhsm2.conf   for our URIs (x-softhsm-store) and for other tools (SOFTHSM2_CONF)
//   <store>/tokens/         SoftHSM's own
//
// One program can use one store at a time, so tokens that are used together belong in one.
#pragma once

#include <filesystem>
#include <string>

#include "hsm/token_uri.h"

namespace sealift::hsm {

struct CreateTokenOptions {
  // Made when it is not there.
  std::filesystem::path store;
  // 1 to 32 of [A-Za-z0-9._-].
  std::string label;
  // Readable by its owner only; its one line becomes the user PIN.
  std::filesystem::path pin_file;
};

// Returns a URI that names store and PIN file by absolute path. The security officer's PIN is random and kept
// nowhere: nobody can reset the user's PIN, which is the point of a token whose file can be copied.
// Errors: ALREADY_EXISTS/HSM_TOKEN_EXISTS; those of ReadPinFile, Module::Load and of the token.
Result<TokenUri> CreateSoftHsmToken(const CreateTokenOptions& options);

}  // namespace sealift::hsm
