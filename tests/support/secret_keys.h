// The key for secrets at rest in memory, in the place of the token's.
#pragma once

#include "controller/secret/sealed_secret.h"
#include "tests/support/escrow_key.h"

namespace sealift::test {

class SoftwareSecretKeys final : public controller::SecretKeys {
 public:
  const PublicKey& Current() const override { return key_.public_key(); }
  Result<std::unique_ptr<escrow::OaepDecrypter>> Open(const Sha256Digest& key_id,
                                                      const std::string& intent) override {
    intents.push_back(intent);
    if (key_id != key_.public_key().key_id())
      return MakeError(Code::kNotFound, Reason::kHsmKeyMissing, "decrypt secret: another key");
    return std::unique_ptr<escrow::OaepDecrypter>(std::make_unique<Borrowed>(key_));
  }
  // What the signing journal would have been told.
  std::vector<std::string> intents;

 private:
  class Borrowed final : public escrow::OaepDecrypter {
   public:
    explicit Borrowed(SoftwareEscrowKey& key) : key_(key) {}
    Result<SecretBytes> Decrypt(ByteView ciphertext, escrow::OaepHash oaep) override {
      return key_.Decrypt(ciphertext, oaep);
    }

   private:
    SoftwareEscrowKey& key_;
  };
  SoftwareEscrowKey key_;
};

}  // namespace sealift::test
