// An .auth file: never accepted by a machine that trusts nobody, accepted only with content that parses.
#include "shared/efi/auth_variable.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const ByteView auth(data, size);
  const auto parsed = efi::ParseAuthenticatedVariable(auth);
  const efi::VariableTarget target = efi::SecureBootVariable("PK").value();
  SEALIFT_CHECK(!efi::VerifyAuthenticatedVariable(auth, target, {}).ok());
  if (!parsed.ok()) return 0;
  // PK vouches for itself: the one case in which the file brings its own anchor.
  const auto claimed = efi::ParseSignatureLists(parsed->payload);
  if (!claimed.ok()) return 0;
  const auto verified = efi::VerifyAuthenticatedVariable(auth, target, *claimed);
  SEALIFT_CHECK(!verified.ok() || verified->content == *claimed);
  return 0;
}
