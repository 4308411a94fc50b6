// A secret from the controller as it lies on this node: encrypted, opened by this machine's TPM alone.
//
// JSON ("sealift-secret", 1), nothing in it readable without the TPM. Foreign bytes when read back: whoever
// can write the folder, or knows the endorsement key's public half, can put another one there, so opening it
// proves the machine and what it runs, not who wrote it. Thread-safe functions over plain values.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "node-agent/tpm/importer.h"
#include "shared/base/secret.h"
#include "shared/uki/pcr_policy.h"

namespace sealift::agent {

// Folder of kept secrets in the agent's state folder.
inline constexpr std::string_view kKeptSecretsName = "secrets";
inline constexpr std::size_t kMaxKeptSecretBytes = 64u << 10;

struct KeptSecret {
  std::string name;
  // Of the value, as the controller counts them.
  std::string id;
  // Holds an AES-256-GCM key.
  ImportedObject object;
  tpm::ReleasePolicy policy;
  // The value, encrypted by that key; tpm::SecretContext is authenticated beside it.
  Bytes nonce;
  Bytes ciphertext;
};

std::string FormatKeptSecret(const KeptSecret& secret);
// Bounded (kMaxKeptSecretBytes). Errors: INVALID_ARGUMENT/MALFORMED.
Result<KeptSecret> ParseKeptSecret(std::string_view json);

// "<folder>/<name>.json". Errors: those of ReadTextFile, ParseKeptSecret; INVALID_ARGUMENT/MALFORMED where
// the file is of another name.
Result<KeptSecret> ReadKeptSecret(const std::filesystem::path& folder, const std::string& name);
// Mode 0600. Errors: those of WriteFileAtomically.
Status WriteKeptSecret(const std::filesystem::path& folder, const KeptSecret& secret);

// What the running image brings: .pcrsig and .pcrpkey as the stub leaves them.
struct ImageApprovals {
  uki::PcrSignatures signatures;
  PublicKey policy_key;
};

// Has the TPM give the key, and decrypts. `approvals`: nothing where the image brings none; then only the
// state that was proven opens it. Errors: those of TpmImporter::Unseal; INVALID_ARGUMENT/MALFORMED where the
// value was changed.
Result<SecretBytes> OpenKeptSecret(const KeptSecret& secret, const std::optional<ImageApprovals>& approvals,
                                   TpmVault& registers, TpmImporter& importer);

}  // namespace sealift::agent
