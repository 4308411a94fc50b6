// A boot entry and its file name, as anybody may have left them on a FAT partition.
#include "shared/efi/boot_entry.h"

#include "shared/base/bytes.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = AsText(ByteView(data, size));
  if (const auto entry = efi::BootEntry::Parse(text); entry.ok()) {
    const auto again = efi::BootEntry::Parse(entry->Format());
    SEALIFT_CHECK(again.ok() && *again == *entry);
  }
  const auto name = efi::BootEntryName::Parse(text.substr(0, text.find('\n')));
  if (name.ok()) SEALIFT_CHECK(efi::BootEntryName::Parse(name->Format()).value() == *name);
  return 0;
}
