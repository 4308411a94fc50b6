// The one seam through which every private-key operation of the project passes.
//
// A signer stands for one key that lives elsewhere: in a PKCS#11 token (hsm/), in a TPM (node-agent/tpm), or,
// in tests only, in memory. It never gives out key bytes. Implementations are thread-safe.
//
// In hsm/ exactly one class implements this interface; the signing journal records there, before a signature
// leaves.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/crypto/public_key.h"

namespace sealift {

struct SigningRequest {
  SignatureScheme scheme;
  // The finished hash: 32 bytes for SHA-256, 48 for SHA-384.
  ByteView digest;
  // What is signed and why, for the journal: "authenticode EFI/kairos/norole.efi 1.2.0". One line, no
  // secrets.
  std::string intent;
  // The journal counts handshakes of the controller's TLS key; it records everything else singly.
  bool tls_handshake = false;
};

class Signer {
 public:
  virtual ~Signer() = default;
  virtual const PublicKey& public_key() const = 0;
  // The signature in the form SignatureScheme names, already verified against public_key().
  virtual Result<Bytes> Sign(const SigningRequest& request) = 0;

  // Several at once, one answer each, in order. Where signatures wait for a record on a disk, all of these
  // wait once.
  virtual std::vector<Result<Bytes>> SignAll(std::span<const SigningRequest> requests);

  // Hashes `message` with the key's default scheme and signs.
  Result<Bytes> SignMessage(ByteView message, std::string intent);
};

// A key in this process's memory. For tests and for keys that are meant to be files (an operator's client
// key); no key of the hierarchy is ever one.
class SoftwareSigner final : public Signer {
 public:
  static Result<std::unique_ptr<SoftwareSigner>> Generate(KeyType type, int rsa_bits = 2048);
  // Unencrypted PKCS#8.
  static Result<std::unique_ptr<SoftwareSigner>> FromPem(std::string_view pem);
  const PublicKey& public_key() const override { return public_key_; }
  Result<Bytes> Sign(const SigningRequest& request) override;
  // Unencrypted PKCS#8. The caller keeps it secret.
  std::string PrivatePem() const;
  EVP_PKEY* evp() const { return key_.get(); }

 private:
  SoftwareSigner(EvpPkeyPtr key, PublicKey public_key)
      : key_(std::move(key)), public_key_(std::move(public_key)) {}
  EvpPkeyPtr key_;
  PublicKey public_key_;
};

}  // namespace sealift
