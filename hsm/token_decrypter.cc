#include "hsm/token_decrypter.h"

#include <fmt/format.h>

#include "hsm/objects.h"
#include "shared/crypto/hash.h"

namespace sealift::hsm {
namespace {

// Of RSA-4096.
constexpr std::size_t kMaxPlaintextBytes = 512;

// What tokens say of a ciphertext that is none, or of another key. SoftHSM has a general error for it; where
// C_DecryptInit went well a moment before, nothing else is likely.
bool IsBadCiphertext(CK_RV rv) {
  return rv == CKR_ENCRYPTED_DATA_INVALID || rv == CKR_ENCRYPTED_DATA_LEN_RANGE || rv == CKR_DATA_INVALID ||
         rv == CKR_DATA_LEN_RANGE || rv == CKR_GENERAL_ERROR || rv == CKR_FUNCTION_FAILED;
}

}  // namespace

Result<std::unique_ptr<TokenDecrypter>> TokenDecrypter::Open(std::shared_ptr<Token> token,
                                                             const Sha256Digest& key_id, std::string intent) {
  std::unique_ptr<TokenDecrypter> decrypter(new TokenDecrypter(std::move(token), key_id, std::move(intent)));
  SessionPool& pool = *decrypter->token_->pool();
  SEALIFT_RETURN_IF_ERROR(pool.Run([&](const SessionPool::Lease& lease) {
    const TokenView view{.api = &pool.api(), .session = lease.handle(), .token = pool.Name()};
    return FindKey(view, CKO_PRIVATE_KEY, key_id.view()).status();
  }));
  return decrypter;
}

Result<SecretBytes> TokenDecrypter::Try(ByteView ciphertext, escrow::OaepHash oaep,
                                        const SessionPool::Lease& lease) {
  SessionPool& pool = *token_->pool();
  const auto fail = [&](CK_RV rv, std::string_view call) -> Status {
    if (call == "C_Decrypt" && IsBadCiphertext(rv)) {
      return MakeError(Code::kInvalidArgument, Reason::kEscrowMalformed,
                       fmt::format("decrypt {} on {}: the token cannot read it", intent_, pool.Name()));
    }
    return Pkcs11Error(rv, fmt::format("decrypt {} on {}", intent_, pool.Name()), call);
  };
  const TokenView view{.api = &pool.api(), .session = lease.handle(), .token = pool.Name()};
  SEALIFT_ASSIGN_OR_RETURN(const CK_OBJECT_HANDLE key, FindKey(view, CKO_PRIVATE_KEY, key_id_.view()));
  const bool sha1 = oaep == escrow::OaepHash::kSha1;
  CK_RSA_PKCS_OAEP_PARAMS parameters{sha1 ? CKM_SHA_1 : CKM_SHA256, sha1 ? CKG_MGF1_SHA1 : CKG_MGF1_SHA256,
                                     CKZ_DATA_SPECIFIED, nullptr, 0};
  CK_MECHANISM mechanism{CKM_RSA_PKCS_OAEP, &parameters, sizeof(parameters)};
  if (const CK_RV rv = pool.api().C_DecryptInit(lease.handle(), &mechanism, key); rv != CKR_OK) {
    if (!sha1 && (rv == CKR_ARGUMENTS_BAD || rv == CKR_MECHANISM_PARAM_INVALID)) {
      return MakeError(Code::kFailedPrecondition, Reason::kHsmMechanismMissing,
                       fmt::format("decrypt {} on {}: it offers OAEP with SHA-1 only", intent_, pool.Name()));
    }
    return fail(rv, "C_DecryptInit");
  }
  Bytes input = ToBytes(ciphertext);
  Bytes plaintext(kMaxPlaintextBytes);
  CK_ULONG size = plaintext.size();
  const CK_RV rv = pool.api().C_Decrypt(lease.handle(), input.data(), input.size(), plaintext.data(), &size);
  if (rv != CKR_OK) {
    WipeMemory(plaintext.data(), plaintext.size());
    return fail(rv, "C_Decrypt");
  }
  SecretBytes secret(ByteView(plaintext).first(size));
  WipeMemory(plaintext.data(), plaintext.size());
  return secret;
}

Result<SecretBytes> TokenDecrypter::Decrypt(ByteView ciphertext, escrow::OaepHash oaep) {
  const std::shared_ptr<Journal> journal = token_->journal();
  const Sha256Digest digest = Sha256(ciphertext);
  std::uint64_t place = 0;
  if (journal != nullptr) {
    // Recorded like a signature; the scheme of the request is not part of the record.
    SEALIFT_ASSIGN_OR_RETURN(place,
                             journal->RecordIntent(key_id_, {.scheme = SignatureScheme::kRsaPkcs1Sha256,
                                                             .digest = digest.view(),
                                                             .intent = "decrypt " + intent_}));
  }
  Result<SecretBytes> secret = SecretBytes();
  const Status status = token_->pool()->Run([&](const SessionPool::Lease& lease) {
    secret = Try(ciphertext, oaep, lease);
    return secret.status();
  });
  if (journal != nullptr) {
    // The outcome names the ciphertext: a digest of the plaintext would help who guesses.
    SEALIFT_ASSIGN_OR_RETURN(
        place, journal->RecordOutcome(
                   place, status.ok() ? Result<Bytes>(ToBytes(ciphertext)) : Result<Bytes>(status)));
    SEALIFT_RETURN_IF_ERROR(journal->Commit(place));
    journal->CheckpointIfDue();
  }
  if (!status.ok()) return status;
  return secret;
}

}  // namespace sealift::hsm
