// A secret from the controller as it lies on a node's disk.
#include "node-agent/secret/kept_secret.h"

#include <cstdint>

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto secret = agent::ParseKeptSecret(AsText(ByteView(data, size)));
  if (!secret.ok()) return 0;
  // What was read is what is written, and is read again.
  const auto again = agent::ParseKeptSecret(agent::FormatKeptSecret(*secret));
  SEALIFT_CHECK(again.ok() && again->name == secret->name && again->ciphertext == secret->ciphertext);
  SEALIFT_CHECK(tpm::DigestReleasePolicy(again->policy).ok() ==
                tpm::DigestReleasePolicy(secret->policy).ok());
  return 0;
}
