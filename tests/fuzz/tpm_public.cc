// Public areas of keys that a machine offers, and what is decided about them.
#include "shared/tpm/credential.h"
#include "shared/tpm/key_policy.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto area = tpm::ParsePublic(ByteView(data, size));
  if (!area.ok()) return 0;
  SEALIFT_CHECK(area->name.size() == 2 + tpm::DigestSize(area->name_algorithm));
  SEALIFT_CHECK(tpm::ParsePublicArea(ByteView(data, size).subspan(2)).ok());
  static_cast<void>(tpm::CheckAttestationKey(*area).ok());
  static_cast<void>(tpm::CheckTlsKey(*area).ok());
  const bool endorsement = tpm::CheckEndorsementKey(*area).ok();
  const auto credential = tpm::MakeCredential(*area, area->name, SecretBytes(Bytes(32, 1)));
  SEALIFT_CHECK(endorsement || !credential.ok());
  return 0;
}
