// ELF files, as both sides of a delta rewrite them: whatever it is, it comes back.
#include "shared/delta/code_form.h"

#include <cstdlib>

#include "shared/base/bytes.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Bytes input(data, data + size);
  Bytes bytes = input;
  delta::ToCodeForm(bytes);
  delta::FromCodeForm(bytes);
  if (bytes != input) std::abort();
  delta::FromCodeForm(bytes);
  return 0;
}
