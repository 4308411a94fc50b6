#include "shared/tpm/secret_context.h"

#include <fmt/format.h>

namespace sealift::tpm {

bool IsSecretName(std::string_view name) {
  constexpr std::string_view kFirst = "abcdefghijklmnopqrstuvwxyz0123456789";
  return !name.empty() && name.size() <= 64 && kFirst.find(name.front()) != std::string_view::npos &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789._-") == std::string_view::npos;
}

Bytes SecretContext(std::string_view name, std::string_view id) {
  return ToBytes(fmt::format("sealift secret 1\n{}\n{}\n", name, id));
}

}  // namespace sealift::tpm
