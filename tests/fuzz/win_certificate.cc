// A WIN_CERTIFICATE: what parses names a type and, for an image, a digest.
#include "shared/efi/win_certificate.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto parsed = efi::ParseWinCertificate(ByteView(data, size));
  if (!parsed.ok()) return 0;
  SEALIFT_CHECK((parsed->type == efi::WinCertificateType::kAuthenticode) != parsed->digest_algorithm.empty());
  return 0;
}
