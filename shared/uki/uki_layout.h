// Puts sections behind a systemd-stub: the PE file that becomes a unified kernel image, and the way back.
//
// Thread-safe functions over plain values.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/efi/pe_image.h"
#include "shared/uki/content_source.h"

namespace sealift::uki {

// Holds the headers of every kernel; those of Linux end within 4 KiB.
inline constexpr std::size_t kKernelHeadBytes = 64 << 10;

struct UkiSection {
  // With its dot, at most eight characters.
  std::string name;
  // Borrowed for the call, or for as long as the UkiLayout made of it. In memory the section is exactly this
  // long, since that is what is measured.
  ContentSource content;
};

// A file that is not written yet: headers, then pieces one after the other, each padded with zeros.
struct UkiLayout {
  struct Piece {
    ContentSource content;
    std::uint64_t padded_size = 0;
  };
  // Complete but for the checksum and the security entry, which are zero. It and the stub's pieces borrow
  // nothing: a layout only borrows the sections' contents and the stub's bytes.
  Bytes headers;
  std::vector<Piece> pieces;
  // A multiple of 8; headers and all pieces.
  std::uint64_t file_size = 0;
  std::size_t checksum_offset = 0;
  std::size_t security_entry_offset = 0;
};

// Appends `sections` in order. Addresses follow the last one of the stub (never fixed ones), each on a page
// of its own; file offsets are multiples of the stub's file alignment. The stub's symbol table and any
// signature are dropped; where its headers have no room for more sections they grow and the data behind them
// moves. A section `.sbat` replaces the stub's, which has no room to grow where it lies. A name may repeat
// behind a `.profile`, once for each profile, and `.dtbauto` and `.efifw` anywhere. NX_COMPAT is cleared when
// a kernel in .linux lacks it. Errors: INVALID_ARGUMENT/UKI_LAYOUT_INVALID: a name twice or already in the
// stub, empty content, another machine's kernel, a stub whose sections overlap in memory, headers that would
// run into the first section's address, beyond 4 GiB; those of PeImage::Parse for stub and kernel.
Result<UkiLayout> LayOutUki(ByteView stub, std::span<const UkiSection> sections);

// The same as an unsigned image in memory, its checksum zero until SignImage sets it.
// Errors: those of LayOutUki; FILE_UNREADABLE for contents in files.
Result<Bytes> AssembleUki(ByteView stub, std::span<const UkiSection> sections);

// The exact bytes of one section. Errors: NOT_FOUND/UKI_SECTION_MISSING; those of PeImage::Contents.
Result<ByteView> UkiSectionContents(const efi::PeImage& image, std::string_view name);

}  // namespace sealift::uki
