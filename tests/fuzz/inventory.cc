// An inventory as a hostile spreadsheet may shape it. What is accepted holds each machine once.
#include <set>

#include "controller/fleet/admission.h"

using namespace sealift;
using namespace sealift::controller;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text = ToText(ByteView(data, size));
  const Result<std::vector<InventoryEntry>> entries = ParseInventory(text);
  static_cast<void>(HashJoinToken(text));
  if (!entries.ok()) {
    SEALIFT_CHECK(ReasonOf(entries.status()) == Reason::kInventoryInvalid);
    return 0;
  }
  std::set<Sha256Digest> keys;
  for (const InventoryEntry& entry : *entries) {
    SEALIFT_CHECK(keys.insert(entry.ek.ek_digest).second);
    SEALIFT_CHECK(entry.serial.size() <= 64 && CheckLabels(entry.ek.labels).ok());
  }
  SEALIFT_CHECK(!keys.empty());
  return 0;
}
