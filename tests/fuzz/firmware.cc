// What a machine says of its firmware: variables in events, a whole log, and expectations in a file of
// evidence.
#include "controller/attest/firmware.h"

#include "shared/crypto/hash.h"

using namespace sealift;
using namespace sealift::controller;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const ByteView input(data, size);
  tpm::Event event{.pcr = 1, .type = tpm::kEvEfiVariableBoot, .digests = {}, .data = ToBytes(input)};
  Bytes& digest = event.digests[tpm::kAlgSha256];
  // Measured whole, or from any place on, as content is.
  const std::size_t from = size == 0 ? 0 : data[0] % size;
  for (const ByteView measured : {input, input.subspan(from)}) {
    digest = ToBytes(Sha256(measured).view());
    if (!IsBootVariable(event)) continue;
    digest[5] ^= 1;
    SEALIFT_CHECK(!IsBootVariable(event));
  }
  if (auto log = tpm::EventLog::Parse(input); log.ok()) {
    FirmwareMeasurement firmware{.registers = {}, .explained = {0, 1, 2, 3}, .log = *std::move(log)};
    tpm::PcrValues replayed = firmware.log.Replay();
    for (const std::uint32_t pcr : kFirmwarePcrs) firmware.registers[pcr] = replayed[pcr];
    const auto baseline = MeasuredBaseline({}, firmware);
    if (!baseline) return 0;
    SEALIFT_CHECK(baseline->id == MeasuredBaselineId({}, firmware));
    SEALIFT_CHECK(FirstDifference(*baseline, *baseline).empty());
    SEALIFT_CHECK(DecodeBaseline(EncodeBaseline(*baseline)).value() == *baseline);
    Verdict verdict{.trust = Trust::kTrusted};
    JudgeFirmware(firmware, {.approved = {*baseline}, .outlier = Trust::kUntrusted}, verdict);
    SEALIFT_CHECK(verdict.trust == Trust::kTrusted);
  }
  if (const auto expectation = DecodeFirmwareExpectation(input); expectation.ok()) {
    SEALIFT_CHECK(DecodeFirmwareExpectation(EncodeFirmwareExpectation(*expectation)).value() == *expectation);
  }
  return 0;
}
