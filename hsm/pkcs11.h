// How a PKCS#11 return code becomes one of our errors. The only header of hsm/ with C types of the standard
// in it that others of this folder build on; users outside hsm/ never see them.
//
// OASIS PKCS#11 2.40 base specification, section 11.1 (return values).
#pragma once

#include <p11-kit/pkcs11.h>

#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::hsm {

// "CKR_PIN_INCORRECT"; "CKR_0x80000001" for a vendor's own.
std::string RvName(CK_RV rv);

// `object` says what was tried on what: "open token 'demo-online'". The native name and code are always in
// the message. Reasons: HSM_PIN_INCORRECT, HSM_PIN_LOCKED, HSM_TOKEN_MISSING, HSM_KEY_MISSING, HSM_BUSY,
// HSM_TOKEN_FULL, HSM_MECHANISM_MISSING, otherwise HSM_FAILED.
Status Pkcs11Error(CK_RV rv, std::string_view object, std::string_view call);

// What we find out ourselves, with code, reason and loss as if a call had returned `rv`.
Status LostError(CK_RV rv, std::string_view message);

// What an error says is gone on the way to the token, and so must be made anew before another try can help.
enum class Loss {
  // Nothing: the token understood and refused.
  kNone,
  kSession,
  // The login, and with it every object handle.
  kLogin,
  // The token, or the connection of the module to it.
  kDevice,
};
// kNone for success and for errors that were made elsewhere.
Loss LossOf(const Status& status);

// Fixed-size, blank-padded fields of CK_TOKEN_INFO.
std::string PaddedText(const unsigned char* field, std::size_t size);

}  // namespace sealift::hsm
