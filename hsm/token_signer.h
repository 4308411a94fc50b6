// The one place in this project where a key of the hierarchy signs.
//
// Every signature by a PKCS#11 key passes through TokenSigner::Sign: X.509, CMS, Authenticode, TUF, .pcrsig
// and TLS handshakes alike. What must happen before a signature leaves (verification, records) happens here.
//
// A signer records in the journal of its token (Token::RecordIn) as it is when the signer is opened, and
// keeps it open: intent before the token is asked, outcome on the disk before the signature leaves. KeyRing
// and the ceremonies give tokens their journal. A key that belongs to no set, such as an operator's own, has
// none.
//
// Thread-safe; concurrent calls use sessions of their own. RSA is PKCS#1 v1.5 with SHA-256 (CKM_RSA_PKCS over
// the DigestInfo, RFC 8017 section 9.2), EC is ECDSA with the hash of the curve's size, SHA-256 for P-256 and
// SHA-384 for P-384 (CKM_ECDSA; r and s become DER).
//
// A lost session, a lost login, a token that came back or a restarted p11-kit server is mended within the
// call (SessionPool::Run): bounded tries, and never with a PIN that was refused.
#pragma once

#include <memory>
#include <mutex>

#include "hsm/journal.h"
#include "hsm/session_pool.h"
#include "hsm/token.h"
#include "shared/crypto/signer.h"

namespace sealift::hsm {

class TokenSigner final : public Signer {
 public:
  // The key with this CKA_ID. Its public half in the token must hash to that id.
  // Errors: NOT_FOUND/HSM_KEY_MISSING; FAILED_PRECONDITION/KEY_MISMATCH.
  static Result<std::shared_ptr<TokenSigner>> Open(std::shared_ptr<Token> token, const Sha256Digest& key_id);
  // For the checkpoints of the journal itself, which are their own record. Nothing else.
  static Result<std::shared_ptr<TokenSigner>> OpenForCheckpoints(std::shared_ptr<Token> token,
                                                                 const Sha256Digest& key_id);

  const PublicKey& public_key() const override { return public_key_; }
  // Errors: INVALID_ARGUMENT when scheme or digest do not fit the key; those of the session pool;
  // HSM_FAILED; FAILED_PRECONDITION/KEY_MISMATCH when what the token returned does not verify, as when
  // another private key was put under this id; JOURNAL_UNWRITABLE.
  Result<Bytes> Sign(const SigningRequest& request) override;
  // One flush of the journal for all.
  std::vector<Result<Bytes>> SignAll(std::span<const SigningRequest> requests) override;

 private:
  TokenSigner(std::shared_ptr<Token> token, PublicKey public_key, std::shared_ptr<Journal> journal)
      : token_(std::move(token)), journal_(std::move(journal)), public_key_(std::move(public_key)) {}
  static Result<std::shared_ptr<TokenSigner>> OpenWith(std::shared_ptr<Token> token,
                                                       const Sha256Digest& key_id,
                                                       std::shared_ptr<Journal> journal);
  // Asks the token, with all its tries, and verifies what it gave.
  Result<Bytes> SignNow(const SigningRequest& request);
  Result<Bytes> Try(const SigningRequest& request, const SessionPool::Lease& lease);
  Result<CK_OBJECT_HANDLE> PrivateKey(const SessionPool::Lease& lease);

  std::shared_ptr<Token> token_;
  // Null: nothing is recorded.
  std::shared_ptr<Journal> journal_;
  PublicKey public_key_;
  const Sha256Digest key_id_ = public_key_.key_id();
  // Object handles live as long as the login they were found in.
  std::mutex mutex_;
  CK_OBJECT_HANDLE handle_ = CK_INVALID_HANDLE;
  std::uint64_t handle_epoch_ = 0;
};

}  // namespace sealift::hsm
