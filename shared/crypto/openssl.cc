#include "shared/crypto/openssl.h"

#include <fmt/format.h>
#include <openssl/err.h>

#include <array>

#include "shared/crypto/key_provider.h"

namespace sealift {
namespace {

constexpr int kMark = 0x5ea;

// The error of the signer behind a referenced key. OpenSSL's queue can carry only text; this keeps code and
// reason. Meaningful only while the mark is on this thread's queue.
thread_local Status signer_error;

}  // namespace

void provider::RaiseStatus(const Status& status) {
  signer_error = status;
  ERR_raise_data(ERR_LIB_USER, kMark, "%s", Describe(status).c_str());
}

Status OpenSslError(Reason reason, std::string_view message, std::string_view call) {
  unsigned long first = 0;
  std::string detail;
  bool marked = false;
  const char* data = nullptr;
  int flags = 0;
  while (const unsigned long code = ERR_get_error_all(nullptr, nullptr, nullptr, &data, &flags)) {
    marked = marked || (ERR_GET_LIB(code) == ERR_LIB_USER && ERR_GET_REASON(code) == kMark);
    if (first != 0) continue;
    first = code;
    std::array<char, 256> text{};
    ERR_error_string_n(code, text.data(), text.size());
    detail = text.data();
    if (data != nullptr && *data != '\0' && (flags & ERR_TXT_STRING) != 0)
      detail += fmt::format(": {}", data);
  }
  if (marked) return Annotate(std::exchange(signer_error, OkStatus()), message);
  return MakeError(
      Code::kInvalidArgument, reason, message,
      NativeError{.call = std::string(call), .code = first, .name = first == 0 ? "no detail" : detail});
}

}  // namespace sealift
