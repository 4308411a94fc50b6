// `sealift-agent secret fetch` and `secret open`.
#pragma once

#include <filesystem>
#include <string>

#include "node-agent/app/settings.h"

namespace sealift::agent {

struct SecretOptions {
  std::string name;
  // A file (mode 0600), "-" for standard output, or empty.
  std::string out;
  // Description of a key of type "user" in root's keyring; or empty.
  std::string keyring;
  // Folder with the image's PCR signatures and their key.
  std::filesystem::path extra = "/.extra";
  // Leaves the encrypted secret in the agent's state folder.
  bool keep = true;
};

// Asks the controller, and gives it a quote; works beside a running agent, whose certificate it uses. Errors:
// UNAVAILABLE/NOT_ENROLLED; those of the controller, among them SECRET_UNKNOWN and SECRET_WITHHELD; as
// OpenSecret.
Status FetchSecret(const Settings& settings, const SecretOptions& options);
// Opens one that was kept, without the controller. Errors: those of ReadKeptSecret and OpenKeptSecret, of the
// file or the keyring.
Status OpenSecret(const Settings& settings, const SecretOptions& options);

}  // namespace sealift::agent
