#include "hsm/token_signer.h"

#include <fmt/format.h>
#include <openssl/ecdsa.h>

#include <array>
#include <utility>

#include "hsm/objects.h"

namespace sealift::hsm {
namespace {

using EcdsaSigPtr = CPtr<ECDSA_SIG, ECDSA_SIG_free>;

constexpr std::size_t kMaxSignatureBytes = 1024;
// DigestInfo of SHA-256 up to the digest (RFC 8017 section 9.2 note 1).
constexpr auto kSha256Prefix =
    std::to_array<std::uint8_t>({0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04,
                                 0x02, 0x01, 0x05, 0x00, 0x04, 0x20});

// PKCS#11 returns r and s of equal length, one after the other (2.40 mechanisms, section 2.3.1).
Result<Bytes> RawToDer(ByteView raw) {
  const std::size_t half = raw.size() / 2;
  const EcdsaSigPtr signature(ECDSA_SIG_new());
  BIGNUM* r = BN_bin2bn(raw.data(), static_cast<int>(half), nullptr);
  BIGNUM* s = BN_bin2bn(raw.data() + half, static_cast<int>(half), nullptr);
  SEALIFT_CHECK(signature != nullptr && ECDSA_SIG_set0(signature.get(), r, s) == 1);
  unsigned char* der = nullptr;
  const int size = i2d_ECDSA_SIG(signature.get(), &der);
  if (size <= 0) return OpenSslError(Reason::kHsmFailed, "encode ECDSA signature", "i2d_ECDSA_SIG");
  Bytes bytes(der, der + size);
  OPENSSL_free(der);
  return bytes;
}

}  // namespace

Result<std::shared_ptr<TokenSigner>> TokenSigner::Open(std::shared_ptr<Token> token,
                                                       const Sha256Digest& key_id) {
  std::shared_ptr<Journal> journal = token->journal();
  return OpenWith(std::move(token), key_id, std::move(journal));
}

Result<std::shared_ptr<TokenSigner>> TokenSigner::OpenForCheckpoints(std::shared_ptr<Token> token,
                                                                     const Sha256Digest& key_id) {
  return OpenWith(std::move(token), key_id, nullptr);
}

Result<std::shared_ptr<TokenSigner>> TokenSigner::OpenWith(std::shared_ptr<Token> token,
                                                           const Sha256Digest& key_id,
                                                           std::shared_ptr<Journal> journal) {
  SEALIFT_ASSIGN_OR_RETURN(PublicKey public_key, token->keys().ReadPublicHalf(key_id));
  std::shared_ptr<TokenSigner> signer(
      new TokenSigner(std::move(token), std::move(public_key), std::move(journal)));
  SEALIFT_RETURN_IF_ERROR(signer->token_->pool()->Run(
      [&](const SessionPool::Lease& lease) { return signer->PrivateKey(lease).status(); }));
  return signer;
}

Result<CK_OBJECT_HANDLE> TokenSigner::PrivateKey(const SessionPool::Lease& lease) {
  {
    const std::lock_guard lock(mutex_);
    if (handle_epoch_ == lease.epoch()) return handle_;
  }
  SessionPool& pool = *token_->pool();
  const TokenView view{.api = &pool.api(), .session = lease.handle(), .token = pool.Name()};
  SEALIFT_ASSIGN_OR_RETURN(const CK_OBJECT_HANDLE found,
                           FindKey(view, CKO_PRIVATE_KEY, public_key_.key_id().view()));
  const std::lock_guard lock(mutex_);
  if (lease.epoch() >= handle_epoch_) {
    handle_ = found;
    handle_epoch_ = lease.epoch();
  }
  return found;
}

Result<Bytes> TokenSigner::Try(const SigningRequest& request, const SessionPool::Lease& lease) {
  SessionPool& pool = *token_->pool();
  const auto fail = [&](CK_RV rv, std::string_view call) {
    return Pkcs11Error(rv, fmt::format("sign {} on {}", request.intent, pool.Name()), call);
  };
  SEALIFT_ASSIGN_OR_RETURN(const CK_OBJECT_HANDLE key, PrivateKey(lease));
  const bool rsa = public_key_.type() == KeyType::kRsa;
  ByteWriter writer(ByteWriter::Endian::kBig);
  if (rsa) writer.Raw(kSha256Prefix);
  writer.Raw(request.digest);
  Bytes input = std::move(writer).Finish();
  CK_MECHANISM mechanism{rsa ? CKM_RSA_PKCS : CKM_ECDSA, nullptr, 0};
  if (const CK_RV rv = pool.api().C_SignInit(lease.handle(), &mechanism, key); rv != CKR_OK) {
    return fail(rv, "C_SignInit");
  }
  Bytes signature(kMaxSignatureBytes);
  CK_ULONG size = signature.size();
  if (const CK_RV rv = pool.api().C_Sign(lease.handle(), input.data(), input.size(), signature.data(), &size);
      rv != CKR_OK) {
    return fail(rv, "C_Sign");
  }
  signature.resize(size);
  if (rsa) return signature;
  return RawToDer(signature);
}

Result<Bytes> TokenSigner::SignNow(const SigningRequest& request) {
  const std::size_t digest_bytes = request.scheme == SignatureScheme::kEcdsaSha384 ? 48 : 32;
  if (request.scheme != public_key_.default_scheme() || request.digest.size() != digest_bytes) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("sign {}: scheme or digest do not fit the key", request.intent));
  }
  SessionPool& pool = *token_->pool();
  Result<Bytes> signature = Bytes();
  // Signing may be done twice: what a lost try made is never seen.
  SEALIFT_RETURN_IF_ERROR(pool.Run([&](const SessionPool::Lease& lease) {
    signature = Try(request, lease);
    return signature.status();
  }));
  if (const Status valid = public_key_.VerifyDigest(request.digest, *signature, request.scheme);
      !valid.ok()) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     fmt::format("sign {}: what {} returned is no signature of the key with this id",
                                 request.intent, pool.Name()));
  }
  return signature;
}

Result<Bytes> TokenSigner::Sign(const SigningRequest& request) {
  return std::move(SignAll(std::span(&request, 1)).front());
}

std::vector<Result<Bytes>> TokenSigner::SignAll(std::span<const SigningRequest> requests) {
  std::vector<Result<Bytes>> signatures;
  signatures.reserve(requests.size());
  std::uint64_t place = 0;
  // Of those that wait for `place`.
  std::vector<std::size_t> recorded;
  for (const SigningRequest& request : requests) {
    const auto counted = journal_ == nullptr ? true : journal_->CountHandshake(key_id_, request);
    if (!counted.ok() || *counted) {
      signatures.push_back(counted.ok() ? SignNow(request) : counted.status());
      continue;
    }
    const auto intent = journal_->RecordIntent(key_id_, request);
    if (!intent.ok()) {
      signatures.push_back(intent.status());
      continue;
    }
    signatures.push_back(SignNow(request));
    const auto outcome = journal_->RecordOutcome(*intent, signatures.back());
    if (!outcome.ok()) {
      signatures.back() = outcome.status();
    } else if (signatures.back().ok()) {
      recorded.push_back(signatures.size() - 1);
      place = *outcome;
    }
  }
  if (journal_ == nullptr) return signatures;
  if (const Status durable = journal_->Commit(place); !durable.ok()) {
    for (const std::size_t one : recorded) signatures[one] = durable;
  }
  journal_->CheckpointIfDue();
  return signatures;
}

}  // namespace sealift::hsm
