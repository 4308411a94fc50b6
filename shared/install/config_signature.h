// Signed install configurations: what lies on an install medium beside install.yaml, as install.yaml.sig.
//
// A DSSE envelope whose payload is the configuration, byte for byte. Made by `sealift install-config sign`,
// verified by the installer with the keys that node.toml names (install.keys). A signature has no end:
// whoever must take one back takes the key out of the next image. Thread-safe functions over plain values.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/crypto/public_key.h"
#include "shared/crypto/signer.h"

namespace sealift {

inline constexpr std::string_view kInstallConfigurationType = "application/vnd.sealift.install-config+yaml";
inline constexpr std::string_view kInstallConfigurationFile = "install.yaml";
inline constexpr std::string_view kInstallSignatureFile = "install.yaml.sig";
// Of the configuration: its envelope, in base64, must stay below kMaxEnvelopeBytes.
inline constexpr std::size_t kMaxInstallConfigurationBytes = 40 * 1024;

// The text of install.yaml.sig. Errors: INVALID_ARGUMENT/FILE_TOO_LARGE; those of the signer.
Result<std::string> SignInstallConfiguration(std::string_view configuration, Signer& signer);

// The id of the key that signed. Errors, all UNAUTHENTICATED/INSTALL_CONFIG_UNSIGNED: the envelope is
// damaged, holds another configuration, or no key of `keys` signed it.
Result<Sha256Digest> VerifyInstallConfiguration(std::string_view configuration, std::string_view signature,
                                                std::span<const PublicKey> keys);

}  // namespace sealift
