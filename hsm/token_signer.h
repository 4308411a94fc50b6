// The one place in this project where a key of the hierarchy signs.
//
// Every signature by a PKCS#11 key passes through TokenSigner::Sign: X.509, CMS, Authenticode, TUF, .pcrsig
// and TLS handshakes alike. What must happen before a signature leaves (verification, records) happens here.
//
// Thread-safe; concurrent calls use sessions of their own. RSA is PKCS#1 v1.5 with SHA-256 (CKM_RSA_PKCS over
// the DigestInfo, RFC 8017 section 9.2), EC is ECDSA (CKM_ECDSA; r and s become DER).
//
// A lost session, a lost login, a token that came back or a restarted p11-kit server is mended within the
// call (SessionPool::Run): bounded tries, and never with a PIN that was refused.
#pragma once

#include <memory>
#include <mutex>

#include "hsm/session_pool.h"
#include "hsm/token.h"
#include "shared/crypto/signer.h"

namespace sealift::hsm {

class TokenSigner final : public Signer {
 public:
  // The key with this CKA_ID. Its public half in the token must hash to that id.
  // Errors: NOT_FOUND/HSM_KEY_MISSING; FAILED_PRECONDITION/KEY_MISMATCH.
  static Result<std::shared_ptr<TokenSigner>> Open(std::shared_ptr<Token> token, const Sha256Digest& key_id);

  const PublicKey& public_key() const override { return public_key_; }
  // Errors: INVALID_ARGUMENT when scheme or digest do not fit the key; those of the session pool;
  // HSM_FAILED; FAILED_PRECONDITION/KEY_MISMATCH when what the token returned does not verify, as when
  // another private key was put under this id.
  Result<Bytes> Sign(const SigningRequest& request) override;

 private:
  TokenSigner(std::shared_ptr<Token> token, PublicKey public_key)
      : token_(std::move(token)), public_key_(std::move(public_key)) {}
  Result<Bytes> Try(const SigningRequest& request, const SessionPool::Lease& lease);
  Result<CK_OBJECT_HANDLE> PrivateKey(const SessionPool::Lease& lease);

  std::shared_ptr<Token> token_;
  PublicKey public_key_;
  // Object handles live as long as the login they were found in.
  std::mutex mutex_;
  CK_OBJECT_HANDLE handle_ = CK_INVALID_HANDLE;
  std::uint64_t handle_epoch_ = 0;
};

}  // namespace sealift::hsm
