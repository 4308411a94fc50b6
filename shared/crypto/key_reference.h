// Keys that live elsewhere, seen by OpenSSL as ordinary private keys.
//
// The project's one built-in OpenSSL 3 provider. A PEM that holds only a reference
//
//   -----BEGIN SEALIFT KEY REFERENCE-----
//   base64("pkcs11:token=online;id=%ab..." or "tpm2:0x81000010")
//   -----END SEALIFT KEY REFERENCE-----
//
// decodes to an EVP_PKEY whose public half is real and whose private operation is Signer::Sign. X.509, CMS,
// PKCS#7 and gRPC's TLS (client and server) use it like any other key. No private byte exists in this
// process.
//
// Thread-safe. Install once, before the first use; resolvers stay until the process ends.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "shared/crypto/openssl.h"
#include "shared/crypto/signer.h"

namespace sealift {

using KeyResolver = std::function<Result<std::shared_ptr<Signer>>(std::string_view uri)>;

// Loads OpenSSL's default provider, then ours. Safe to call again.
Status InstallKeyProvider();
// Keys whose reference starts with "<scheme>:" come from `resolver`. Replaces an earlier one of that scheme.
void RegisterKeyResolver(std::string_view scheme, KeyResolver resolver);
std::string KeyReferencePem(std::string_view uri);
// Errors: those of the resolver; FAILED_PRECONDITION when the provider is not installed.
Result<EvpPkeyPtr> LoadKeyReference(std::string_view pem);
// A key of either form: the reference, or an unencrypted PEM. `what` begins the error: "read your private
// key". Errors: those of LoadKeyReference; MALFORMED.
Result<EvpPkeyPtr> LoadKeyPem(std::string_view pem, std::string_view what);
// The same key object for a signer at hand. Holds `signer` for its lifetime. For X509_sign, CMS_sign and the
// like: their intent in the journal is `intent`.
Result<EvpPkeyPtr> WrapSigner(std::shared_ptr<Signer> signer, std::string intent);

}  // namespace sealift
