// A public key that metadata names, with the one way it verifies: section 4.2 of the TUF specification.
//
// Wider than what this project signs with: ed25519 and RSA-PSS come from other repositories only. Immutable,
// so thread-safe; copies share OpenSSL's object.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/crypto/public_key.h"

namespace sealift::tuf {

class VerificationKey {
 public:
  // `public_text` is the "public" member of keyval: PEM, or hex of 32 bytes for ed25519. Empty for a type or
  // scheme this build does not know, and for a value that is no such key.
  //   ed25519: "ed25519"
  //   ecdsa (or the scheme's own name, as older signers write): "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384"
  //   rsa, 2048 to 4096 bits: "rsassa-pss-sha256" (MGF1 with SHA-256, any salt), "rsa-pkcs1v15-sha256"
  static std::optional<VerificationKey> Make(std::string_view key_type, std::string_view scheme,
                                             std::string_view public_text);
  // With the scheme this project signs with.
  static VerificationKey Of(const PublicKey& key);

  // ECDSA signatures are DER. Anything that is no signature is a wrong one.
  bool Verifies(ByteView message, ByteView signature) const;
  // SubjectPublicKeyInfo: which key it is, however often and with whichever schemes it is listed.
  const Bytes& spki_der() const { return spki_; }

 private:
  enum class Kind { kPlain, kEd25519, kRsaPss };
  VerificationKey(Kind kind, std::shared_ptr<EVP_PKEY> key, std::optional<PublicKey> plain, Bytes spki)
      : kind_(kind), key_(std::move(key)), plain_(std::move(plain)), spki_(std::move(spki)) {}
  static std::optional<VerificationKey> MakeEd25519(std::string_view hex);

  Kind kind_;
  // For kEd25519.
  std::shared_ptr<EVP_PKEY> key_;
  // For the others.
  std::optional<PublicKey> plain_;
  Bytes spki_;
};

}  // namespace sealift::tuf
