// Templates, searches and attribute reads on one session: the small vocabulary of key_store and token_signer.
//
// Not thread-safe; each call runs on the session it is given. PKCS#11 2.40 section 4 (objects).
#pragma once

#include <deque>
#include <optional>
#include <string_view>
#include <vector>

#include "hsm/hierarchy.h"
#include "hsm/pkcs11.h"
#include "shared/base/bytes.h"
#include "shared/crypto/public_key.h"

namespace sealift::hsm {

// CK_ATTRIBUTE array that owns its values.
class Template {
 public:
  Template& Flag(CK_ATTRIBUTE_TYPE type, bool value);
  Template& Number(CK_ATTRIBUTE_TYPE type, CK_ULONG value);
  Template& Data(CK_ATTRIBUTE_TYPE type, ByteView value);
  CK_ATTRIBUTE* data() { return attributes_.data(); }
  CK_ULONG size() const { return attributes_.size(); }

 private:
  std::deque<Bytes> values_;
  std::vector<CK_ATTRIBUTE> attributes_;
};

// A session of `token` ("token 'x'", for messages) and the functions of its module.
struct TokenView {
  CK_FUNCTION_LIST* api;
  CK_SESSION_HANDLE session;
  std::string token;
};

// At most 4096 objects.
Result<std::vector<CK_OBJECT_HANDLE>> FindObjects(const TokenView& view, Template wanted);
// A session whose login was lost finds no private objects and reports no error: to be asked before believing
// that there are none.
Status CheckLoggedIn(const TokenView& view);
// The one private or public key with this CKA_ID. Errors: NOT_FOUND/HSM_KEY_MISSING; HSM_FAILED for several.
Result<CK_OBJECT_HANDLE> FindKey(const TokenView& view, CK_OBJECT_CLASS object_class, ByteView id);
// Bounded to 16 KiB. Absent and unreadable attributes are errors.
Result<Bytes> ReadAttribute(const TokenView& view, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type);
Result<CK_ULONG> ReadNumber(const TokenView& view, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type);
// Nothing where the token does not have the attribute.
std::optional<bool> ReadFlag(const TokenView& view, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type);
// The error of a call that makes an object: as Pkcs11Error, but CKR_HOST_MEMORY is a full token too, which is
// how opencryptoki says that it holds its 2,048 objects.
Status CannotMake(CK_RV rv, std::string_view what, std::string_view call);
// From CKA_MODULUS and CKA_PUBLIC_EXPONENT, or CKA_EC_PARAMS and CKA_EC_POINT.
Result<PublicKey> ReadPublicKey(const TokenView& view, CK_OBJECT_HANDLE object);

// The one mechanism that a key is for.
CK_MECHANISM_TYPE MechanismFor(bool ec, KeyUse use);

// DER of the named curve, as CKA_EC_PARAMS. `bits`: 256 or 384.
ByteView CurveParameters(unsigned bits);

}  // namespace sealift::hsm
