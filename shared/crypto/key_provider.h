// The inside of the built-in OpenSSL provider; users include key_reference.h.
//
// One keymgmt (RSA and EC), one decoder for the reference PEM, one signature implementation for RSA and
// ECDSA. Public halves are ordinary keys of OpenSSL's default provider; every question about them, and
// every verification, is passed on to it. Private operations are Signer::Sign. Exporting a key that has a
// signer is refused when the private half is asked for: libcrypto then uses our signature instead of trying
// the default provider's with half a key.
//
// provider-keymgmt(7), provider-signature(7), provider-decoder(7).
#pragma once

#include <openssl/core.h>
#include <openssl/core_dispatch.h>

#include <memory>
#include <optional>
#include <string>

#include "shared/base/status.h"
#include "shared/crypto/public_key.h"
#include "shared/crypto/signer.h"

namespace sealift::provider {

inline constexpr char kName[] = "sealift";
inline constexpr char kKeyPemLabel[] = "SEALIFT KEY REFERENCE";
// Carries the address of a KeyData through EVP_PKEY_fromdata, within this process.
inline constexpr char kKeyParam[] = "sealift-key";

// What an EVP_PKEY of ours holds. `signer` is null where only a public key was imported for comparison.
struct KeyData {
  std::optional<PublicKey> public_key;
  std::shared_ptr<Signer> signer;
  std::string intent;
  // Loaded from a reference, as TLS does.
  bool tls = false;
};

extern const OSSL_DISPATCH kRsaKeyManagement[];
extern const OSSL_DISPATCH kEcKeyManagement[];
// For RSA and for ECDSA: which it is, the key says.
extern const OSSL_DISPATCH kSignature[];

// Puts a signer's error where OpenSslError finds it: a mark on OpenSSL's queue, the status beside it.
void RaiseStatus(const Status& status);

template <typename Function>
OSSL_DISPATCH Entry(int id, Function* function) {
  return {id, reinterpret_cast<void (*)()>(function)};
}

}  // namespace sealift::provider
