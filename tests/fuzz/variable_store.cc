// A flash image with variables: nothing in it leads out of it.
#include "shared/efi/variable_store.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto variables = efi::ParseVariableStore(ByteView(data, size));
  if (!variables.ok()) return 0;
  std::size_t bytes = 0;
  for (const efi::StoredVariable& variable : *variables) bytes += variable.data.size();
  SEALIFT_CHECK(bytes <= size);
  return 0;
}
