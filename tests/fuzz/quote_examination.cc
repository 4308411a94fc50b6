// What `sealift inspect quote` is given: a key of any form, an attestation, a signature of any hash.
#include <algorithm>

#include "shared/tpm/event_log.h"
#include "shared/tpm/quote.h"

using namespace sealift;

// The input: sizes of key and attestation (two bytes each, big-endian), key, attestation, signature.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ByteReader reader(ByteView(data, size), ByteReader::Endian::kBig);
  const std::size_t key_size = reader.U16();
  const std::size_t attest_size = reader.U16();
  if (!reader.ok()) return 0;
  ByteView rest = ByteView(data, size).subspan(4);
  const ByteView key_file = rest.first(std::min(key_size, rest.size()));
  rest = rest.subspan(key_file.size());
  const ByteView attest = rest.first(std::min(attest_size, rest.size()));
  const ByteView signature = rest.subspan(attest.size());
  const auto key = tpm::ReadVerificationKey(key_file);
  tpm::QuoteChecks checks{.key = nullptr, .nonce = Bytes(), .pcrs = std::nullopt, .allow_sha1 = true};
  if (key.ok()) checks.key = key->get();
  checks.pcrs.emplace();
  const auto seen = tpm::ExamineQuote(attest, signature, checks);
  if (!seen.ok()) SEALIFT_CHECK(seen.status().code() == Code::kInvalidArgument);
  // The other form of a log.
  const auto log = tpm::EventLog::Read(ByteView(data, size));
  if (log.ok()) {
    for (const std::uint16_t bank : log->bank_order()) static_cast<void>(log->ReplayBank(bank));
  }
  return 0;
}
