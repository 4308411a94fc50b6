// Credentials and duplicated secrets, as a controller sends them to a machine before its TPM is asked. The
// first two bytes say how the rest is divided.
#include "shared/tpm/protected_object.h"

#include <cstdint>

#include "shared/base/bytes.h"
#include "shared/tpm/credential.h"
#include "shared/tpm/duplicate.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ByteReader reader(ByteView(data, size), ByteReader::Endian::kBig);
  const std::size_t first = reader.U8();
  const std::size_t second = reader.U8();
  const ByteView public_area = reader.Take(first);
  const ByteView blob = reader.Take(second);
  if (!reader.ok()) return 0;
  const ByteView seed = reader.Take(reader.remaining());
  if (const auto wrapper = tpm::ParseOuterWrapper(blob); wrapper.ok()) {
    SEALIFT_CHECK(wrapper->hmac.size() + wrapper->ciphertext.size() + 4 == blob.size());
  }
  if (const auto parsed = tpm::ParseEncryptedSeed(seed); parsed.ok()) {
    SEALIFT_CHECK(parsed->ecc() ? parsed->x.size() + parsed->y.size() + 6 == seed.size()
                                : parsed->rsa.size() + 2 == seed.size());
  }
  const Status credential = tpm::CheckCredential(blob, seed);
  SEALIFT_CHECK(credential.ok() || ReasonOf(credential) == Reason::kMalformed);
  const auto area = tpm::ParseSealedArea(public_area);
  const Status duplicate = tpm::CheckDuplicate(
      {.public_area = ToBytes(public_area), .duplicate = ToBytes(blob), .encrypted_seed = ToBytes(seed)},
      area.ok() ? area->policy : Sha256Digest());
  SEALIFT_CHECK(!duplicate.ok() || area.ok());
  return 0;
}
