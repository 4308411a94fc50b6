// A backup file that somebody else made: one form once read.
#include "hsm/key_backup.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto backup = hsm::KeyBackup::Parse(AsText(ByteView(data, size)));
  if (!backup.ok()) return 0;
  const auto again = hsm::KeyBackup::Parse(backup->Json());
  SEALIFT_CHECK(again.ok() && again->Json() == backup->Json());
  SEALIFT_CHECK(again->SignedBytes() == backup->SignedBytes());
  return 0;
}
