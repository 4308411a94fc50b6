#include "shared/crypto/openssl.h"

#include <fmt/format.h>
#include <openssl/err.h>

#include <array>

namespace sealift {

Status OpenSslError(Reason reason, std::string_view message, std::string_view call) {
  const unsigned long first = ERR_get_error();
  std::array<char, 256> text{};
  ERR_error_string_n(first, text.data(), text.size());
  ERR_clear_error();
  return MakeError(
      Code::kInvalidArgument, reason, message,
      NativeError{.call = std::string(call), .code = first, .name = first == 0 ? "no detail" : text.data()});
}

}  // namespace sealift
