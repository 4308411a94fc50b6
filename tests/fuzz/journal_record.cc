// A line of a signing journal that somebody else wrote: one form once read, and no checkpoint of a
// stranger's.
#include "hsm/journal_record.h"

#include "hsm/journal_verify.h"
#include "shared/crypto/signer.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<SoftwareSigner> key = SoftwareSigner::Generate(KeyType::kEcP256).value();
  const std::string_view text = AsText(ByteView(data, size));
  const auto record = hsm::JournalRecord::Parse(text);
  if (record.ok()) SEALIFT_CHECK(record->Line() == text);
  const auto found = hsm::FindCheckpoints(text);
  if (found.ok()) {
    for (const hsm::JournalCheckpoint& checkpoint : *found) {
      SEALIFT_CHECK(hsm::JournalCheckpoint::Parse(checkpoint.Json())->Json() == checkpoint.Json());
      SEALIFT_CHECK(!checkpoint.Verify(key->public_key()).ok());
    }
  }
  const std::string intent = hsm::CleanIntent(text);
  SEALIFT_CHECK(intent.size() <= hsm::kMaxIntentBytes);
  const hsm::JournalRecord ours{.sequence = 1, .body = hsm::JournalIntent{.intent = intent}};
  SEALIFT_CHECK(hsm::JournalRecord::Parse(ours.Line()).ok());
  return 0;
}
