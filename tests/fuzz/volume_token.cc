// Tokens of a LUKS2 header on a disk that anybody may have written, and escrowed keys: one form once read.
#include "node-agent/volume/volume_token.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = AsText(ByteView(data, size));
  if (const auto token = agent::ParseSealedToken(text); token.ok()) {
    const std::string once = agent::FormatSealedToken(*token);
    const auto again = agent::ParseSealedToken(once);
    SEALIFT_CHECK(again.ok() && agent::FormatSealedToken(*again) == once);
  }
  if (const auto token = agent::ParseRecoveryToken(text); token.ok()) {
    const std::string once = agent::FormatRecoveryToken(*token);
    const auto again = agent::ParseRecoveryToken(once);
    SEALIFT_CHECK(again.ok() && again->escrowed == token->escrowed);
  }
  if (const auto key = escrow::Parse(text); key.ok()) {
    const auto again = escrow::Parse(escrow::Format(*key));
    SEALIFT_CHECK(again.ok() && *again == *key);
  }
  return 0;
}
