#include "hsm/pkcs11.h"

#include <absl/strings/cord.h>
#include <fmt/format.h>

#include <array>
#include <string>

namespace sealift::hsm {
namespace {

struct RvRow {
  CK_RV rv;
  std::string_view name;
};

#define SEALIFT_RV(name) \
  { name, #name }
constexpr auto kNames = std::to_array<RvRow>({
    SEALIFT_RV(CKR_OK),
    SEALIFT_RV(CKR_HOST_MEMORY),
    SEALIFT_RV(CKR_SLOT_ID_INVALID),
    SEALIFT_RV(CKR_GENERAL_ERROR),
    SEALIFT_RV(CKR_FUNCTION_FAILED),
    SEALIFT_RV(CKR_ARGUMENTS_BAD),
    SEALIFT_RV(CKR_CANT_LOCK),
    SEALIFT_RV(CKR_ATTRIBUTE_READ_ONLY),
    SEALIFT_RV(CKR_ATTRIBUTE_SENSITIVE),
    SEALIFT_RV(CKR_ATTRIBUTE_TYPE_INVALID),
    SEALIFT_RV(CKR_ATTRIBUTE_VALUE_INVALID),
    SEALIFT_RV(CKR_DATA_INVALID),
    SEALIFT_RV(CKR_DATA_LEN_RANGE),
    SEALIFT_RV(CKR_DEVICE_ERROR),
    SEALIFT_RV(CKR_DEVICE_MEMORY),
    SEALIFT_RV(CKR_DEVICE_REMOVED),
    SEALIFT_RV(CKR_FUNCTION_CANCELED),
    SEALIFT_RV(CKR_FUNCTION_NOT_SUPPORTED),
    SEALIFT_RV(CKR_KEY_HANDLE_INVALID),
    SEALIFT_RV(CKR_KEY_SIZE_RANGE),
    SEALIFT_RV(CKR_KEY_TYPE_INCONSISTENT),
    SEALIFT_RV(CKR_KEY_FUNCTION_NOT_PERMITTED),
    SEALIFT_RV(CKR_KEY_UNEXTRACTABLE),
    SEALIFT_RV(CKR_MECHANISM_INVALID),
    SEALIFT_RV(CKR_MECHANISM_PARAM_INVALID),
    SEALIFT_RV(CKR_OBJECT_HANDLE_INVALID),
    SEALIFT_RV(CKR_OPERATION_ACTIVE),
    SEALIFT_RV(CKR_OPERATION_NOT_INITIALIZED),
    SEALIFT_RV(CKR_PIN_INCORRECT),
    SEALIFT_RV(CKR_PIN_INVALID),
    SEALIFT_RV(CKR_PIN_LEN_RANGE),
    SEALIFT_RV(CKR_PIN_EXPIRED),
    SEALIFT_RV(CKR_PIN_LOCKED),
    SEALIFT_RV(CKR_SESSION_CLOSED),
    SEALIFT_RV(CKR_SESSION_COUNT),
    SEALIFT_RV(CKR_SESSION_HANDLE_INVALID),
    SEALIFT_RV(CKR_SESSION_READ_ONLY),
    SEALIFT_RV(CKR_SESSION_EXISTS),
    SEALIFT_RV(CKR_TEMPLATE_INCOMPLETE),
    SEALIFT_RV(CKR_TEMPLATE_INCONSISTENT),
    SEALIFT_RV(CKR_TOKEN_NOT_PRESENT),
    SEALIFT_RV(CKR_TOKEN_NOT_RECOGNIZED),
    SEALIFT_RV(CKR_TOKEN_WRITE_PROTECTED),
    SEALIFT_RV(CKR_USER_ALREADY_LOGGED_IN),
    SEALIFT_RV(CKR_USER_NOT_LOGGED_IN),
    SEALIFT_RV(CKR_USER_PIN_NOT_INITIALIZED),
    SEALIFT_RV(CKR_USER_TYPE_INVALID),
    SEALIFT_RV(CKR_USER_ANOTHER_ALREADY_LOGGED_IN),
    SEALIFT_RV(CKR_BUFFER_TOO_SMALL),
    SEALIFT_RV(CKR_CRYPTOKI_NOT_INITIALIZED),
    SEALIFT_RV(CKR_CRYPTOKI_ALREADY_INITIALIZED),
});
#undef SEALIFT_RV

struct Meaning {
  Code code;
  Reason reason;
};

Meaning MeaningOf(CK_RV rv) {
  switch (rv) {
    case CKR_PIN_INCORRECT:
    case CKR_PIN_INVALID:
    case CKR_PIN_LEN_RANGE:
      return {Code::kFailedPrecondition, Reason::kHsmPinIncorrect};
    case CKR_PIN_LOCKED:
    case CKR_PIN_EXPIRED:
      return {Code::kFailedPrecondition, Reason::kHsmPinLocked};
    case CKR_TOKEN_NOT_PRESENT:
    case CKR_TOKEN_NOT_RECOGNIZED:
    case CKR_SLOT_ID_INVALID:
    case CKR_DEVICE_REMOVED:
    case CKR_DEVICE_ERROR:
    case CKR_CRYPTOKI_NOT_INITIALIZED:
      return {Code::kUnavailable, Reason::kHsmTokenMissing};
    case CKR_KEY_HANDLE_INVALID:
    case CKR_OBJECT_HANDLE_INVALID:
      return {Code::kNotFound, Reason::kHsmKeyMissing};
    case CKR_SESSION_COUNT:
      return {Code::kUnavailable, Reason::kHsmBusy};
    case CKR_DEVICE_MEMORY:
      return {Code::kResourceExhausted, Reason::kHsmTokenFull};
    case CKR_MECHANISM_INVALID:
      return {Code::kFailedPrecondition, Reason::kHsmMechanismMissing};
    default:
      return {Code::kInternal, Reason::kHsmFailed};
  }
}

// Payload of a status: the CK_RV in decimal. Travels with the status, but not over the wire.
constexpr char kRvUrl[] = "sealift/pkcs11-rv";

Status WithRv(Status error, CK_RV rv) {
  error.SetPayload(kRvUrl, absl::Cord(std::to_string(rv)));
  return error;
}

Loss LossBehind(CK_RV rv) {
  switch (rv) {
    case CKR_SESSION_HANDLE_INVALID:
    case CKR_SESSION_CLOSED:
    case CKR_OPERATION_ACTIVE:
    case CKR_OPERATION_NOT_INITIALIZED:
      return Loss::kSession;
    case CKR_USER_NOT_LOGGED_IN:
    case CKR_KEY_HANDLE_INVALID:
    case CKR_OBJECT_HANDLE_INVALID:
      return Loss::kLogin;
    case CKR_TOKEN_NOT_PRESENT:
    case CKR_TOKEN_NOT_RECOGNIZED:
    case CKR_SLOT_ID_INVALID:
    case CKR_DEVICE_REMOVED:
    case CKR_DEVICE_ERROR:
    case CKR_CRYPTOKI_NOT_INITIALIZED:
      return Loss::kDevice;
    default:
      return Loss::kNone;
  }
}

}  // namespace

std::string RvName(CK_RV rv) {
  for (const RvRow& row : kNames) {
    if (row.rv == rv) return std::string(row.name);
  }
  return fmt::format("CKR_{:#x}", rv);
}

Status Pkcs11Error(CK_RV rv, std::string_view object, std::string_view call) {
  const Meaning meaning = MeaningOf(rv);
  return WithRv(MakeError(meaning.code, meaning.reason, object,
                          NativeError{.call = std::string(call), .code = rv, .name = RvName(rv)}),
                rv);
}

Status LostError(CK_RV rv, std::string_view message) {
  const Meaning meaning = MeaningOf(rv);
  return WithRv(MakeError(meaning.code, meaning.reason, message), rv);
}

Loss LossOf(const Status& status) {
  const auto payload = status.GetPayload(kRvUrl);
  if (!payload.has_value()) return Loss::kNone;
  return LossBehind(static_cast<CK_RV>(std::stoull(std::string(*payload))));
}

std::string PaddedText(const unsigned char* field, std::size_t size) {
  std::string text(reinterpret_cast<const char*>(field), size);
  text.erase(text.find_last_not_of(std::string_view(" \0", 2)) + 1);
  return text;
}

}  // namespace sealift::hsm
