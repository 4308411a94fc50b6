// Puts sections behind a systemd-stub: the PE file that becomes a unified kernel image, and the way back.
//
// Thread-safe functions over plain values.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "shared/efi/pe_image.h"

namespace sealift::uki {

struct UkiSection {
  // With its dot, at most eight characters.
  std::string name;
  // Borrowed for the call. In memory the section is exactly this long, since that is what is measured.
  ByteView content;
};

// Appends `sections` in order. Addresses follow the last one of the stub (never fixed ones), each on a page
// of its own; file offsets are multiples of the stub's file alignment. The stub's symbol table and any
// signature are dropped; where its headers have no room for more sections they grow and the data behind them
// moves. NX_COMPAT is cleared when the kernel in .linux lacks it. The output is unsigned, its length a
// multiple of 8, its checksum zero until SignImage sets it. Errors: INVALID_ARGUMENT/UKI_LAYOUT_INVALID: a
// name twice or already in the stub, empty content, another machine's kernel, headers that would run into the
// first section's address, beyond 4 GiB; those of PeImage::Parse for the stub.
Result<Bytes> AssembleUki(ByteView stub, std::span<const UkiSection> sections);

// The exact bytes of one section. Errors: NOT_FOUND/UKI_SECTION_MISSING; those of PeImage::Contents.
Result<ByteView> UkiSectionContents(const efi::PeImage& image, std::string_view name);

}  // namespace sealift::uki
