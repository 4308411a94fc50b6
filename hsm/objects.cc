#include "hsm/objects.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/param_build.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "shared/crypto/openssl.h"

namespace sealift::hsm {
namespace {

constexpr CK_ULONG kMaxAttributeBytes = 16 * 1024;
constexpr std::size_t kMaxObjects = 4096;
// OBJECT IDENTIFIER 1.2.840.10045.3.1.7.
constexpr auto kP256 =
    std::to_array<std::uint8_t>({0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07});
// OBJECT IDENTIFIER 1.3.132.0.34.
constexpr auto kP384 = std::to_array<std::uint8_t>({0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22});

using ParamBuilderPtr = CPtr<OSSL_PARAM_BLD, OSSL_PARAM_BLD_free>;
using ParamsPtr = CPtr<OSSL_PARAM, OSSL_PARAM_free>;
using OctetStringPtr = CPtr<ASN1_OCTET_STRING, ASN1_OCTET_STRING_free>;

Result<PublicKey> Assemble(const char* type, OSSL_PARAM_BLD* builder) {
  const ParamsPtr params(OSSL_PARAM_BLD_to_param(builder));
  const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new_from_name(nullptr, type, "provider=default"));
  EVP_PKEY* made = nullptr;
  if (params == nullptr || context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &made, EVP_PKEY_PUBLIC_KEY, params.get()) != 1) {
    return OpenSslError(Reason::kHsmFailed, "read public key from token", "EVP_PKEY_fromdata");
  }
  const EvpPkeyPtr key(made);
  return PublicKey::FromEvp(made);
}

Result<PublicKey> ReadRsa(const TokenView& view, CK_OBJECT_HANDLE object) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes modulus, ReadAttribute(view, object, CKA_MODULUS));
  SEALIFT_ASSIGN_OR_RETURN(const Bytes exponent, ReadAttribute(view, object, CKA_PUBLIC_EXPONENT));
  const BigNumPtr n(BN_bin2bn(modulus.data(), static_cast<int>(modulus.size()), nullptr));
  const BigNumPtr e(BN_bin2bn(exponent.data(), static_cast<int>(exponent.size()), nullptr));
  const ParamBuilderPtr builder(OSSL_PARAM_BLD_new());
  SEALIFT_CHECK(OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, n.get()) == 1);
  SEALIFT_CHECK(OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_E, e.get()) == 1);
  return Assemble("RSA", builder.get());
}

Result<PublicKey> ReadEc(const TokenView& view, CK_OBJECT_HANDLE object) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes curve, ReadAttribute(view, object, CKA_EC_PARAMS));
  const bool p384 = std::ranges::equal(curve, kP384);
  if (!p384 && !std::ranges::equal(curve, kP256)) {
    return MakeError(Code::kFailedPrecondition, Reason::kHsmFailed,
                     fmt::format("read EC key from {}: its curve is neither P-256 nor P-384", view.token));
  }
  SEALIFT_ASSIGN_OR_RETURN(Bytes point, ReadAttribute(view, object, CKA_EC_POINT));
  // A DER OCTET STRING by the standard; some tokens give the bare point (2.40 section 2.3.3 and its errata).
  const unsigned char* at = point.data();
  const OctetStringPtr octets(d2i_ASN1_OCTET_STRING(nullptr, &at, static_cast<long>(point.size())));
  if (octets != nullptr && at == point.data() + point.size()) {
    const unsigned char* data = ASN1_STRING_get0_data(octets.get());
    point = Bytes(data, data + ASN1_STRING_length(octets.get()));
  }
  const ParamBuilderPtr builder(OSSL_PARAM_BLD_new());
  const char* group = p384 ? "secp384r1" : "prime256v1";
  SEALIFT_CHECK(OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME, group, 0) == 1);
  SEALIFT_CHECK(OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(),
                                                 point.size()) == 1);
  return Assemble("EC", builder.get());
}

}  // namespace

ByteView CurveParameters(unsigned bits) { return bits == 384 ? ByteView(kP384) : ByteView(kP256); }

CK_MECHANISM_TYPE MechanismFor(bool ec, KeyUse use) {
  if (use != KeyUse::kSign) return CKM_RSA_PKCS_OAEP;
  return ec ? CKM_ECDSA : CKM_RSA_PKCS;
}

Template& Template::Data(CK_ATTRIBUTE_TYPE type, ByteView value) {
  values_.push_back(ToBytes(value));
  attributes_.push_back(CK_ATTRIBUTE{type, values_.back().data(), values_.back().size()});
  return *this;
}

Template& Template::Flag(CK_ATTRIBUTE_TYPE type, bool value) {
  const std::uint8_t byte = value ? CK_TRUE : CK_FALSE;
  return Data(type, ByteView(&byte, 1));
}

Template& Template::Number(CK_ATTRIBUTE_TYPE type, CK_ULONG value) {
  std::array<std::uint8_t, sizeof(value)> bytes{};
  std::memcpy(bytes.data(), &value, sizeof(value));
  return Data(type, bytes);
}

Result<std::vector<CK_OBJECT_HANDLE>> FindObjects(const TokenView& view, Template wanted) {
  CK_RV rv = view.api->C_FindObjectsInit(view.session, wanted.data(), wanted.size());
  if (rv != CKR_OK) return Pkcs11Error(rv, fmt::format("search {}", view.token), "C_FindObjectsInit");
  std::vector<CK_OBJECT_HANDLE> found;
  std::array<CK_OBJECT_HANDLE, 64> chunk{};
  CK_ULONG count = chunk.size();
  while (rv == CKR_OK && count > 0 && found.size() < kMaxObjects) {
    rv = view.api->C_FindObjects(view.session, chunk.data(), chunk.size(), &count);
    if (rv == CKR_OK) found.insert(found.end(), chunk.begin(), chunk.begin() + std::min(count, chunk.size()));
  }
  const CK_RV final_rv = view.api->C_FindObjectsFinal(view.session);
  if (rv != CKR_OK) return Pkcs11Error(rv, fmt::format("search {}", view.token), "C_FindObjects");
  if (final_rv != CKR_OK) {
    return Pkcs11Error(final_rv, fmt::format("search {}", view.token), "C_FindObjectsFinal");
  }
  return found;
}

Status CheckLoggedIn(const TokenView& view) {
  CK_SESSION_INFO info{};
  CK_RV rv = view.api->C_GetSessionInfo(view.session, &info);
  if (rv == CKR_OK && info.state != CKS_RO_USER_FUNCTIONS && info.state != CKS_RW_USER_FUNCTIONS) {
    rv = CKR_USER_NOT_LOGGED_IN;
  }
  if (rv == CKR_OK) return OkStatus();
  return Pkcs11Error(rv, fmt::format("search {}", view.token), "C_GetSessionInfo");
}

Result<CK_OBJECT_HANDLE> FindKey(const TokenView& view, CK_OBJECT_CLASS object_class, ByteView id) {
  SEALIFT_ASSIGN_OR_RETURN(
      const auto found,
      FindObjects(view, Template().Number(CKA_CLASS, object_class).Flag(CKA_TOKEN, true).Data(CKA_ID, id)));
  if (found.size() == 1) return found.front();
  const std::string what = fmt::format("find key {} on {}", HexEncode(id).substr(0, 16), view.token);
  if (found.empty()) {
    if (object_class == CKO_PRIVATE_KEY) SEALIFT_RETURN_IF_ERROR(CheckLoggedIn(view));
    return MakeError(Code::kNotFound, Reason::kHsmKeyMissing, what + ": the token does not hold it");
  }
  return MakeError(Code::kFailedPrecondition, Reason::kHsmFailed,
                   fmt::format("{}: {} objects have this id", what, found.size()));
}

Result<Bytes> ReadAttribute(const TokenView& view, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type) {
  const auto fail = [&](CK_RV rv) {
    return Pkcs11Error(rv, fmt::format("read attribute {:#x} on {}", type, view.token),
                       "C_GetAttributeValue");
  };
  CK_ATTRIBUTE attribute{type, nullptr, 0};
  CK_RV rv = view.api->C_GetAttributeValue(view.session, object, &attribute, 1);
  if (rv != CKR_OK) return fail(rv);
  if (attribute.ulValueLen > kMaxAttributeBytes) return fail(CKR_ATTRIBUTE_VALUE_INVALID);
  Bytes value(attribute.ulValueLen);
  if (value.empty()) return value;
  attribute.pValue = value.data();
  rv = view.api->C_GetAttributeValue(view.session, object, &attribute, 1);
  if (rv != CKR_OK) return fail(rv);
  value.resize(std::min<std::size_t>(value.size(), attribute.ulValueLen));
  return value;
}

Result<CK_ULONG> ReadNumber(const TokenView& view, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes value, ReadAttribute(view, object, type));
  CK_ULONG number = 0;
  if (value.size() != sizeof(number)) {
    return Pkcs11Error(CKR_ATTRIBUTE_VALUE_INVALID,
                       fmt::format("read attribute {:#x} on {}", type, view.token), "C_GetAttributeValue");
  }
  std::memcpy(&number, value.data(), sizeof(number));
  return number;
}

std::optional<bool> ReadFlag(const TokenView& view, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type) {
  const auto value = ReadAttribute(view, object, type);
  if (!value.ok() || value->size() != 1) return std::nullopt;
  return value->front() != CK_FALSE;
}

Status CannotMake(CK_RV rv, std::string_view what, std::string_view call) {
  if (rv != CKR_HOST_MEMORY) return Pkcs11Error(rv, what, call);
  return MakeError(Code::kResourceExhausted, Reason::kHsmTokenFull,
                   fmt::format("{} ({}: {})", what, call, RvName(rv)));
}

Result<PublicKey> ReadPublicKey(const TokenView& view, CK_OBJECT_HANDLE object) {
  SEALIFT_ASSIGN_OR_RETURN(const CK_ULONG type, ReadNumber(view, object, CKA_KEY_TYPE));
  if (type == CKK_RSA) return ReadRsa(view, object);
  if (type == CKK_EC) return ReadEc(view, object);
  return MakeError(
      Code::kFailedPrecondition, Reason::kHsmFailed,
      fmt::format("read public key from {}: key type {:#x} is neither RSA nor EC", view.token, type));
}

}  // namespace sealift::hsm
