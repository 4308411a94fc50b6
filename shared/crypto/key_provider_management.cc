#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/params.h>

#include <cstring>
#include <memory>

#include "shared/crypto/key_provider.h"

// The signatures of these functions are OpenSSL's; see provider-keymgmt(7) for each one's contract.
namespace sealift::provider {
namespace {

const KeyData* AsKey(const void* key) { return static_cast<const KeyData*>(key); }

void* New(void* /*provider*/) { return new KeyData; }
void Free(void* key) { delete static_cast<KeyData*>(key); }

// Takes over the object that the decoder made.
void* Load(const void* reference, std::size_t size) {
  KeyData* key = nullptr;
  if (size != sizeof(key)) return nullptr;
  std::memcpy(&key, reference, sizeof(key));
  return new KeyData(std::move(*key));
}

void* Duplicate(const void* key, int /*selection*/) { return new KeyData(*AsKey(key)); }

int Has(const void* key, int selection) {
  if ((selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0 && AsKey(key)->signer == nullptr) return 0;
  return AsKey(key)->public_key.has_value() ? 1 : 0;
}

// Private halves are equal when public ones are: there is only one place a private half can be.
int Match(const void* a, const void* b, int /*selection*/) {
  const auto& left = AsKey(a)->public_key;
  const auto& right = AsKey(b)->public_key;
  return left.has_value() && right.has_value() && *left == *right ? 1 : 0;
}

int ImportPublic(KeyData& key, const char* type, const OSSL_PARAM params[]) {
  // The property query keeps this from coming back to ourselves.
  const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new_from_name(nullptr, type, "provider=default"));
  EVP_PKEY* made = nullptr;
  if (context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &made, EVP_PKEY_PUBLIC_KEY, const_cast<OSSL_PARAM*>(params)) != 1) {
    return 0;
  }
  const EvpPkeyPtr owned(made);
  auto public_key = PublicKey::FromEvp(made);
  if (!public_key.ok()) return 0;
  key.public_key = std::move(public_key).value();
  return 1;
}

int Import(void* key, const char* type, const OSSL_PARAM params[]) {
  const OSSL_PARAM* ours = OSSL_PARAM_locate_const(params, kKeyParam);
  if (ours == nullptr) return ImportPublic(*static_cast<KeyData*>(key), type, params);
  const KeyData* from = nullptr;
  if (ours->data_size != sizeof(from)) return 0;
  std::memcpy(&from, ours->data, sizeof(from));
  *static_cast<KeyData*>(key) = *from;
  return 1;
}

int ImportRsa(void* key, int /*selection*/, const OSSL_PARAM params[]) { return Import(key, "RSA", params); }
int ImportEc(void* key, int /*selection*/, const OSSL_PARAM params[]) { return Import(key, "EC", params); }

int Export(void* key, int selection, OSSL_CALLBACK* callback, void* argument) {
  const KeyData& data = *AsKey(key);
  if (!data.public_key.has_value()) return 0;
  if ((selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0 && data.signer != nullptr) return 0;
  return EVP_PKEY_export(data.public_key->evp(), selection & ~OSSL_KEYMGMT_SELECT_PRIVATE_KEY, callback,
                         argument);
}

int GetParams(void* key, OSSL_PARAM params[]) {
  const auto& public_key = AsKey(key)->public_key;
  return public_key.has_value() ? EVP_PKEY_get_params(public_key->evp(), params) : 0;
}

const OSSL_PARAM* GettableRsa(void* /*provider*/) {
  static const OSSL_PARAM kParams[] = {OSSL_PARAM_int(OSSL_PKEY_PARAM_BITS, nullptr),
                                       OSSL_PARAM_int(OSSL_PKEY_PARAM_SECURITY_BITS, nullptr),
                                       OSSL_PARAM_int(OSSL_PKEY_PARAM_MAX_SIZE, nullptr),
                                       OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_DEFAULT_DIGEST, nullptr, 0),
                                       OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_N, nullptr, 0),
                                       OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_E, nullptr, 0),
                                       OSSL_PARAM_END};
  return kParams;
}

const OSSL_PARAM* GettableEc(void* /*provider*/) {
  static const OSSL_PARAM kParams[] = {
      OSSL_PARAM_int(OSSL_PKEY_PARAM_BITS, nullptr),
      OSSL_PARAM_int(OSSL_PKEY_PARAM_SECURITY_BITS, nullptr),
      OSSL_PARAM_int(OSSL_PKEY_PARAM_MAX_SIZE, nullptr),
      OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_DEFAULT_DIGEST, nullptr, 0),
      OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, nullptr, 0),
      OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_EC_POINT_CONVERSION_FORMAT, nullptr, 0),
      OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, nullptr, 0),
      OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, nullptr, 0),
      OSSL_PARAM_END};
  return kParams;
}

const OSSL_PARAM* RsaTypes(int /*selection*/) {
  static const OSSL_PARAM kParams[] = {OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_N, nullptr, 0),
                                       OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_E, nullptr, 0), OSSL_PARAM_END};
  return kParams;
}

const OSSL_PARAM* EcTypes(int /*selection*/) {
  static const OSSL_PARAM kParams[] = {OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, nullptr, 0),
                                       OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, nullptr, 0),
                                       OSSL_PARAM_END};
  return kParams;
}

const char* RsaOperation(int /*operation*/) { return "RSA"; }
const char* EcOperation(int operation) { return operation == OSSL_OP_SIGNATURE ? "ECDSA" : "EC"; }

}  // namespace

const OSSL_DISPATCH kRsaKeyManagement[] = {Entry(OSSL_FUNC_KEYMGMT_NEW, New),
                                           Entry(OSSL_FUNC_KEYMGMT_FREE, Free),
                                           Entry(OSSL_FUNC_KEYMGMT_LOAD, Load),
                                           Entry(OSSL_FUNC_KEYMGMT_DUP, Duplicate),
                                           Entry(OSSL_FUNC_KEYMGMT_HAS, Has),
                                           Entry(OSSL_FUNC_KEYMGMT_MATCH, Match),
                                           Entry(OSSL_FUNC_KEYMGMT_IMPORT, ImportRsa),
                                           Entry(OSSL_FUNC_KEYMGMT_IMPORT_TYPES, RsaTypes),
                                           Entry(OSSL_FUNC_KEYMGMT_EXPORT, Export),
                                           Entry(OSSL_FUNC_KEYMGMT_EXPORT_TYPES, RsaTypes),
                                           Entry(OSSL_FUNC_KEYMGMT_GET_PARAMS, GetParams),
                                           Entry(OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, GettableRsa),
                                           Entry(OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, RsaOperation),
                                           {0, nullptr}};

const OSSL_DISPATCH kEcKeyManagement[] = {Entry(OSSL_FUNC_KEYMGMT_NEW, New),
                                          Entry(OSSL_FUNC_KEYMGMT_FREE, Free),
                                          Entry(OSSL_FUNC_KEYMGMT_LOAD, Load),
                                          Entry(OSSL_FUNC_KEYMGMT_DUP, Duplicate),
                                          Entry(OSSL_FUNC_KEYMGMT_HAS, Has),
                                          Entry(OSSL_FUNC_KEYMGMT_MATCH, Match),
                                          Entry(OSSL_FUNC_KEYMGMT_IMPORT, ImportEc),
                                          Entry(OSSL_FUNC_KEYMGMT_IMPORT_TYPES, EcTypes),
                                          Entry(OSSL_FUNC_KEYMGMT_EXPORT, Export),
                                          Entry(OSSL_FUNC_KEYMGMT_EXPORT_TYPES, EcTypes),
                                          Entry(OSSL_FUNC_KEYMGMT_GET_PARAMS, GetParams),
                                          Entry(OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, GettableEc),
                                          Entry(OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, EcOperation),
                                          {0, nullptr}};

}  // namespace sealift::provider
