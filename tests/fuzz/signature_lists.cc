// The content of db or dbx: what parses comes back when it is written again.
#include "shared/efi/signature_list.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto lists = efi::ParseSignatureLists(ByteView(data, size));
  if (!lists.ok()) return 0;
  const Bytes again = efi::SerializeSignatureLists(*lists);
  SEALIFT_CHECK(efi::ParseSignatureLists(again).value() == *lists);
  return 0;
}
