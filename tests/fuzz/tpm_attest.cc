// What a machine says of itself under its TPM's key: TPMS_ATTEST, TPMT_SIGNATURE and what is verified with
// them.
#include <algorithm>

#include "shared/tpm/certify.h"
#include "shared/tpm/counter.h"
#include "shared/tpm/quote.h"

using namespace sealift;

namespace {

// A key like those of attestation; nothing in the corpus is signed by it.
const tpm::PublicArea& Key() {
  static const tpm::PublicArea key = [] {
    Bytes area = HexDecode("0023000b00050472000000100018000b00030010").value();
    // The base point of P-256.
    for (const char* coordinate : {"6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
                                   "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"}) {
      area.insert(area.end(), {0, 32});
      Append(area, HexDecode(coordinate).value());
    }
    return tpm::ParsePublicArea(area).value();
  }();
  return key;
}

}  // namespace

// The input: how long the attestation is (two bytes, big-endian), attestation, signature.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ByteReader reader(ByteView(data, size), ByteReader::Endian::kBig);
  const std::size_t attest_size = reader.U16();
  if (!reader.ok()) return 0;
  const ByteView rest = ByteView(data, size).subspan(2);
  const ByteView attest = rest.first(std::min(rest.size(), attest_size));
  const ByteView signature = rest.subspan(attest.size());
  tpm::QuoteEvidence evidence{.attest = ToBytes(attest), .signature = ToBytes(signature), .pcrs = {}};
  Bytes nonce;
  const auto quote = tpm::ParseAttest(attest, tpm::kStAttestQuote, tpm::kQuoteReasons);
  if (quote.ok()) {
    // Follow what it says, so that the later checks are reached.
    nonce = quote->extra_data;
    for (const auto& selection : std::get<tpm::QuoteInfo>(quote->info).selections) {
      for (const std::uint32_t pcr : selection.pcrs) evidence.pcrs[pcr] = {};
    }
  }
  SEALIFT_CHECK(!tpm::VerifyQuote(evidence, Key(), nonce, {}).ok());
  const auto certify = tpm::ParseAttest(attest, tpm::kStAttestCertify, tpm::kCertifyReasons);
  tpm::PublicArea subject = Key();
  if (certify.ok()) subject.name = std::get<tpm::CertifyInfo>(certify->info).name;
  SEALIFT_CHECK(
      !tpm::VerifyCertify(attest, signature, Key(), certify.ok() ? certify->extra_data : Bytes(), subject)
           .ok());
  const auto counter = tpm::ParseAttest(attest, tpm::kStAttestNv, tpm::kCertifyReasons);
  SEALIFT_CHECK(
      !tpm::VerifyCounter(attest, signature, Key(), counter.ok() ? counter->extra_data : Bytes(), 0x01810020)
           .ok());
  return 0;
}
