// TUF metadata of foreign origin: every parser, and what is parsed survives being written again.
#include "shared/tuf/metadata.h"

using namespace sealift;

namespace {

template <typename T>
void RoundTrip(const tuf::Envelope& envelope, Result<T> (*parse)(const tuf::Envelope&)) {
  const Result<T> first = parse(envelope);
  if (!first.ok()) return;
  const Result<T> second = parse(tuf::MakeEnvelope(*first));
  SEALIFT_CHECK(second.ok());
  SEALIFT_CHECK(tuf::MakeEnvelope(*second).signed_bytes == tuf::MakeEnvelope(*first).signed_bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Result<tuf::Envelope> envelope = tuf::ParseEnvelope(AsText(ByteView(data, size)), 1u << 20);
  if (!envelope.ok()) return 0;
  const Result<tuf::Envelope> again = tuf::ParseEnvelope(envelope->Serialize(), 4u << 20);
  SEALIFT_CHECK(again.ok() && again->signed_bytes == envelope->signed_bytes);
  RoundTrip(*envelope, tuf::ParseTargets);
  RoundTrip(*envelope, tuf::ParseSnapshot);
  RoundTrip(*envelope, tuf::ParseTimestamp);
  const Result<tuf::Root> root = tuf::ParseRoot(*envelope);
  if (root.ok()) static_cast<void>(tuf::VerifyThreshold(*envelope, *root, tuf::Role::kRoot).ok());
  return 0;
}
