// The .pcrsig section of a foreign image: one form once read, and no signature fits a key that made none.
#include "shared/crypto/signer.h"
#include "shared/uki/pcr_policy.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<SoftwareSigner> key = SoftwareSigner::Generate(KeyType::kRsa).value();
  const auto signatures = uki::ParsePcrSignatures(AsText(ByteView(data, size)));
  if (!signatures.ok()) return 0;
  const auto again = uki::ParsePcrSignatures(uki::FormatPcrSignatures(*signatures));
  SEALIFT_CHECK(again.ok() && *again == *signatures);
  SEALIFT_CHECK(!uki::VerifyPcrPolicy(*signatures, key->public_key(), {}).ok());
  for (const auto& [bank, entries] : *signatures)
    for (const uki::PcrSignature& entry : entries)
      SEALIFT_CHECK(!uki::CheckPcrSignature(bank, entry, key->public_key()).ok());
  return 0;
}
