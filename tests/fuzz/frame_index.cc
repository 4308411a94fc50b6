// The index of an initrd's frames, as a node reads it.
#include "shared/content/frame_index.h"

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto index = sealift::content::ParseFrameIndex({reinterpret_cast<const char*>(data), size});
  if (!index.ok()) return 0;
  // What was read is written in the one form, and read again as the same.
  const auto again = sealift::content::ParseFrameIndex(sealift::content::SerializeFrameIndex(*index));
  if (!again.ok() || *again != *index) std::abort();
  return 0;
}
