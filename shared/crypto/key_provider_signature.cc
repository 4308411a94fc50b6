#include <openssl/core_names.h>
#include <openssl/params.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include <array>
#include <cstring>

#include "shared/crypto/key_provider.h"

// The signatures of these functions are OpenSSL's; see provider-signature(7) for each one's contract.
namespace sealift::provider {
namespace {

// One signing or verifying operation. Hashing is done here, in software; the signer sees a finished digest.
struct Operation {
  const KeyData* key = nullptr;
  // Null until a hash is known; then SHA-256 or SHA-384.
  const EVP_MD* hash = nullptr;
  EvpMdCtxPtr digest;
};

Operation* AsOperation(void* context) { return static_cast<Operation*>(context); }
bool IsRsa(const Operation& operation) { return operation.key->public_key->type() == KeyType::kRsa; }

int Refuse(std::string_view what) {
  RaiseStatus(MakeError(Code::kInvalidArgument, Reason::kCryptoFailed,
                        std::string("sign with a referenced key: ") + std::string(what)));
  return 0;
}

bool SetHash(Operation& operation, const char* name) {
  const CPtr<EVP_MD, EVP_MD_free> hash(EVP_MD_fetch(nullptr, name, "provider=default"));
  const bool sha256 = hash != nullptr && EVP_MD_is_a(hash.get(), "SHA256") == 1;
  const bool sha384 = hash != nullptr && EVP_MD_is_a(hash.get(), "SHA384") == 1;
  // SHA-256 is the one hash of this project; SHA-384 exists for P-384 certificates of others.
  if (!sha256 && !(sha384 && !IsRsa(operation))) {
    return Refuse(std::string("hash ") + name + " is not supported") == 1;
  }
  operation.hash = sha256 ? EVP_sha256() : EVP_sha384();
  return true;
}

SignatureScheme SchemeOf(const Operation& operation) {
  if (IsRsa(operation)) return SignatureScheme::kRsaPkcs1Sha256;
  return EVP_MD_is_a(operation.hash, "SHA384") == 1 ? SignatureScheme::kEcdsaSha384
                                                    : SignatureScheme::kEcdsaSha256;
}

void* New(void* /*provider*/, const char* /*properties*/) { return new Operation; }
void Free(void* context) { delete AsOperation(context); }

// EVP_DigestSignFinal works on a copy: without this it fails, and says nothing.
void* Duplicate(void* context) {
  const Operation& from = *AsOperation(context);
  auto copy = std::make_unique<Operation>();
  copy->key = from.key;
  copy->hash = from.hash;
  if (from.digest != nullptr) {
    copy->digest.reset(EVP_MD_CTX_new());
    if (copy->digest == nullptr || EVP_MD_CTX_copy_ex(copy->digest.get(), from.digest.get()) != 1) {
      return nullptr;
    }
  }
  return copy.release();
}

int SetParams(void* context, const OSSL_PARAM params[]) {
  Operation& operation = *AsOperation(context);
  if (params == nullptr) return 1;
  if (const OSSL_PARAM* digest = OSSL_PARAM_locate_const(params, OSSL_SIGNATURE_PARAM_DIGEST)) {
    if (digest->data_type != OSSL_PARAM_UTF8_STRING || digest->data == nullptr) return 0;
    if (!SetHash(operation, static_cast<const char*>(digest->data))) return 0;
  }
  const OSSL_PARAM* padding = OSSL_PARAM_locate_const(params, OSSL_SIGNATURE_PARAM_PAD_MODE);
  if (padding == nullptr) return 1;
  int mode = 0;
  const bool pkcs1 = padding->data_type == OSSL_PARAM_UTF8_STRING
                         ? std::strcmp(static_cast<const char*>(padding->data), "pkcs1") == 0
                         : OSSL_PARAM_get_int(padding, &mode) == 1 && mode == RSA_PKCS1_PADDING;
  return pkcs1 ? 1 : Refuse("RSA padding other than PKCS#1 v1.5 is not supported; TLS needs an EC key");
}

const OSSL_PARAM* Settable(void* /*context*/, void* /*provider*/) {
  static const OSSL_PARAM kParams[] = {OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_DIGEST, nullptr, 0),
                                       OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PAD_MODE, nullptr, 0),
                                       OSSL_PARAM_END};
  return kParams;
}

// The AlgorithmIdentifier that X509_sign and CMS write beside the signature.
Result<Bytes> AlgorithmId(const Operation& operation) {
  const CPtr<X509_ALGOR, X509_ALGOR_free> algorithm(X509_ALGOR_new());
  int nid = NID_sha256WithRSAEncryption;
  if (!IsRsa(operation)) {
    nid =
        SchemeOf(operation) == SignatureScheme::kEcdsaSha384 ? NID_ecdsa_with_SHA384 : NID_ecdsa_with_SHA256;
  }
  // RFC 4055 wants NULL parameters for RSA, RFC 5758 none for ECDSA.
  const int parameters = IsRsa(operation) ? V_ASN1_NULL : V_ASN1_UNDEF;
  unsigned char* der = nullptr;
  int size = -1;
  if (algorithm != nullptr && X509_ALGOR_set0(algorithm.get(), OBJ_nid2obj(nid), parameters, nullptr) == 1) {
    size = i2d_X509_ALGOR(algorithm.get(), &der);
  }
  if (size <= 0) return OpenSslError(Reason::kCryptoFailed, "encode signature algorithm", "i2d_X509_ALGOR");
  Bytes bytes(der, der + size);
  OPENSSL_free(der);
  return bytes;
}

int GetParams(void* context, OSSL_PARAM params[]) {
  const Operation& operation = *AsOperation(context);
  if (operation.key == nullptr) return 0;
  if (OSSL_PARAM* param = OSSL_PARAM_locate(params, OSSL_SIGNATURE_PARAM_ALGORITHM_ID)) {
    if (operation.hash == nullptr) return 0;
    const auto der = AlgorithmId(operation);
    if (!der.ok() || OSSL_PARAM_set_octet_string(param, der->data(), der->size()) != 1) return 0;
  }
  if (OSSL_PARAM* param = OSSL_PARAM_locate(params, OSSL_SIGNATURE_PARAM_DIGEST)) {
    const char* name = operation.hash == nullptr ? "" : EVP_MD_get0_name(operation.hash);
    if (OSSL_PARAM_set_utf8_string(param, name) != 1) return 0;
  }
  if (OSSL_PARAM* param = OSSL_PARAM_locate(params, OSSL_SIGNATURE_PARAM_PAD_MODE)) {
    const int set = param->data_type == OSSL_PARAM_UTF8_STRING ? OSSL_PARAM_set_utf8_string(param, "pkcs1")
                                                               : OSSL_PARAM_set_int(param, RSA_PKCS1_PADDING);
    if (set != 1) return 0;
  }
  return 1;
}

const OSSL_PARAM* Gettable(void* /*context*/, void* /*provider*/) {
  static const OSSL_PARAM kParams[] = {OSSL_PARAM_octet_string(OSSL_SIGNATURE_PARAM_ALGORITHM_ID, nullptr, 0),
                                       OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_DIGEST, nullptr, 0),
                                       OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PAD_MODE, nullptr, 0),
                                       OSSL_PARAM_END};
  return kParams;
}

int Init(void* context, void* key, const OSSL_PARAM params[]) {
  Operation& operation = *AsOperation(context);
  if (key != nullptr) operation.key = static_cast<const KeyData*>(key);
  if (operation.key == nullptr || !operation.key->public_key.has_value()) return 0;
  return SetParams(context, params);
}

int DigestInit(void* context, const char* hash, void* key, const OSSL_PARAM params[]) {
  Operation& operation = *AsOperation(context);
  if (Init(context, key, params) != 1) return 0;
  const bool p384 = operation.key->public_key->type() == KeyType::kEcP384;
  const char* fallback = p384 ? "SHA384" : "SHA256";
  if (!SetHash(operation, hash == nullptr || *hash == '\0' ? fallback : hash)) return 0;
  operation.digest.reset(EVP_MD_CTX_new());
  return operation.digest == nullptr ? 0 : EVP_DigestInit_ex(operation.digest.get(), operation.hash, nullptr);
}

int SignDigest(const Operation& operation, unsigned char* signature, std::size_t* size, std::size_t capacity,
               ByteView digest) {
  const auto needed = static_cast<std::size_t>(EVP_PKEY_get_size(operation.key->public_key->evp()));
  if (signature == nullptr) {
    *size = needed;
    return 1;
  }
  if (operation.key->signer == nullptr) return Refuse("only its public half is known");
  const auto made = operation.key->signer->Sign(SigningRequest{.scheme = SchemeOf(operation),
                                                               .digest = digest,
                                                               .intent = operation.key->intent,
                                                               .tls_handshake = operation.key->tls});
  if (!made.ok()) {
    RaiseStatus(made.status());
    return 0;
  }
  if (made->size() > capacity) return Refuse("the caller's buffer is too small");
  std::memcpy(signature, made->data(), made->size());
  *size = made->size();
  return 1;
}

int Sign(void* context, unsigned char* signature, std::size_t* size, std::size_t capacity,
         const unsigned char* data, std::size_t data_size) {
  Operation& operation = *AsOperation(context);
  if (operation.hash == nullptr && !IsRsa(operation)) {
    if (!SetHash(operation, data_size == 48 ? "SHA384" : "SHA256")) return 0;
  }
  if (operation.hash == nullptr) return Refuse("an RSA signature needs to be told its hash");
  if (data_size != static_cast<std::size_t>(EVP_MD_get_size(operation.hash))) {
    return Refuse("what is to be signed is not a digest");
  }
  return SignDigest(operation, signature, size, capacity, ByteView(data, data_size));
}

int Update(void* context, const unsigned char* data, std::size_t size) {
  return AsOperation(context)->digest == nullptr
             ? 0
             : EVP_DigestUpdate(AsOperation(context)->digest.get(), data, size);
}

int DigestSignFinal(void* context, unsigned char* signature, std::size_t* size, std::size_t capacity) {
  Operation& operation = *AsOperation(context);
  if (operation.digest == nullptr) return 0;
  if (signature == nullptr) return SignDigest(operation, nullptr, size, 0, {});
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned digest_size = 0;
  if (EVP_DigestFinal_ex(operation.digest.get(), digest.data(), &digest_size) != 1) return 0;
  return SignDigest(operation, signature, size, capacity, ByteView(digest.data(), digest_size));
}

int DigestSign(void* context, unsigned char* signature, std::size_t* size, std::size_t capacity,
               const unsigned char* data, std::size_t data_size) {
  if (signature != nullptr && Update(context, data, data_size) != 1) return 0;
  return DigestSignFinal(context, signature, size, capacity);
}

int Verify(void* context, const unsigned char* signature, std::size_t size, const unsigned char* digest,
           std::size_t digest_size) {
  Operation& operation = *AsOperation(context);
  if (operation.hash == nullptr && !SetHash(operation, digest_size == 48 ? "SHA384" : "SHA256")) return 0;
  return operation.key->public_key
                 ->VerifyDigest(ByteView(digest, digest_size), ByteView(signature, size), SchemeOf(operation))
                 .ok()
             ? 1
             : 0;
}

int DigestVerifyFinal(void* context, const unsigned char* signature, std::size_t size) {
  Operation& operation = *AsOperation(context);
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned digest_size = 0;
  if (operation.digest == nullptr ||
      EVP_DigestFinal_ex(operation.digest.get(), digest.data(), &digest_size) != 1) {
    return 0;
  }
  return Verify(context, signature, size, digest.data(), digest_size);
}

int DigestVerify(void* context, const unsigned char* signature, std::size_t size, const unsigned char* data,
                 std::size_t data_size) {
  return Update(context, data, data_size) == 1 ? DigestVerifyFinal(context, signature, size) : 0;
}

}  // namespace

const OSSL_DISPATCH kSignature[] = {Entry(OSSL_FUNC_SIGNATURE_NEWCTX, New),
                                    Entry(OSSL_FUNC_SIGNATURE_FREECTX, Free),
                                    Entry(OSSL_FUNC_SIGNATURE_DUPCTX, Duplicate),
                                    Entry(OSSL_FUNC_SIGNATURE_SIGN_INIT, Init),
                                    Entry(OSSL_FUNC_SIGNATURE_SIGN, Sign),
                                    Entry(OSSL_FUNC_SIGNATURE_VERIFY_INIT, Init),
                                    Entry(OSSL_FUNC_SIGNATURE_VERIFY, Verify),
                                    Entry(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, DigestInit),
                                    Entry(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_UPDATE, Update),
                                    Entry(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_FINAL, DigestSignFinal),
                                    Entry(OSSL_FUNC_SIGNATURE_DIGEST_SIGN, DigestSign),
                                    Entry(OSSL_FUNC_SIGNATURE_DIGEST_VERIFY_INIT, DigestInit),
                                    Entry(OSSL_FUNC_SIGNATURE_DIGEST_VERIFY_UPDATE, Update),
                                    Entry(OSSL_FUNC_SIGNATURE_DIGEST_VERIFY_FINAL, DigestVerifyFinal),
                                    Entry(OSSL_FUNC_SIGNATURE_DIGEST_VERIFY, DigestVerify),
                                    Entry(OSSL_FUNC_SIGNATURE_GET_CTX_PARAMS, GetParams),
                                    Entry(OSSL_FUNC_SIGNATURE_GETTABLE_CTX_PARAMS, Gettable),
                                    Entry(OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, SetParams),
                                    Entry(OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, Settable),
                                    {0, nullptr}};

}  // namespace sealift::provider
