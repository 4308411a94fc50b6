// Status and Result: how every fallible function of this project reports.
//
// An error carries a code (the gRPC set), a stable reason id (reasons.inc), one sentence an operator can act
// on
// ("<verb phrase> <object>: <cause>", lower-case, no final period) and, where a C API failed, its native
// code. Errors gain context on the way up (Annotate) and are logged once, where they stop travelling.
//
// The aliases keep absl out of every other header; only status.cc spells it.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sealift {

using Status = absl::Status;
template <typename T>
using Result = absl::StatusOr<T>;
using Code = absl::StatusCode;

// The stable id of what went wrong. Values index reasons.inc and are not stable; ids are.
enum class Reason : std::uint16_t {
#define SEALIFT_REASON(name, id, advice) k##name,
#include "shared/base/reasons.inc"
#undef SEALIFT_REASON
};

// "HSM_PIN_INCORRECT".
std::string_view ReasonId(Reason reason);
// What an operator does about it.
std::string_view ReasonAdvice(Reason reason);
// kInternal for an id that this build does not know (a newer peer).
Reason ReasonFromId(std::string_view id);
std::vector<Reason> AllReasons();

// The code a C API returned: {"C_Login", 0xa0, "CKR_PIN_INCORRECT"}.
struct NativeError {
  std::string call;
  std::uint64_t code = 0;
  std::string name;
};

inline Status OkStatus() { return {}; }
Status MakeError(Code code, Reason reason, std::string_view message);
// Appends " (C_Login: CKR_PIN_INCORRECT 0xa0)" to the message and keeps the code as payload.
Status MakeError(Code code, Reason reason, std::string_view message, const NativeError& native);
// From errno: "(open: No such file or directory 0x2)".
Status ErrnoError(Code code, Reason reason, std::string_view message, std::string_view call,
                  int error_number);

// kNone for success; kInternal for a status that was made elsewhere without a reason.
Reason ReasonOf(const Status& status);
// The id as it travelled, also one this build does not know.
std::string ReasonIdOf(const Status& status);
std::string MessageOf(const Status& status);
// Puts "context: " before the message; code, reason and native code stay.
Status Annotate(const Status& status, std::string_view context);
// A status that came over the wire with its reason id.
Status FromWire(Code code, std::string_view reason_id, std::string_view message);
// "HSM_PIN_INCORRECT: open token 'release': PIN is incorrect (C_Login: ...)".
std::string Describe(const Status& status);

[[noreturn]] void CheckFailed(const char* expression, const char* file, int line);

}  // namespace sealift

// Programmer mistakes end the process; bad input never does.
#define SEALIFT_CHECK(expression) \
  ((expression) ? static_cast<void>(0) : ::sealift::CheckFailed(#expression, __FILE__, __LINE__))

#define SEALIFT_CONCAT_INNER(a, b) a##b
#define SEALIFT_CONCAT(a, b) SEALIFT_CONCAT_INNER(a, b)

// Returns from the enclosing function when `expression` is an error.
#define SEALIFT_RETURN_IF_ERROR(expression)                                                              \
  do {                                                                                                   \
    if (::sealift::Status sealift_status_ = (expression); !sealift_status_.ok()) return sealift_status_; \
  } while (false)

// SEALIFT_ASSIGN_OR_RETURN(auto bytes, ReadFile(path));
#define SEALIFT_ASSIGN_OR_RETURN(declaration, expression) \
  SEALIFT_ASSIGN_OR_RETURN_INNER(SEALIFT_CONCAT(sealift_result_, __LINE__), declaration, expression)
#define SEALIFT_ASSIGN_OR_RETURN_INNER(result, declaration, expression) \
  auto result = (expression);                                           \
  if (!result.ok()) return result.status();                             \
  declaration = std::move(result).value()
