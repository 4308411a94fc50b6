// ELF files written another way, so that two builds of one program differ in fewer bytes.
//
// Inserting one instruction moves all that follows it: each call across it, each table of addresses changes.
// In the code form, calls and references relative to the program counter say where they go instead of how
// far, and tables of addresses hold differences of neighbours, column by column. Length and all else stay;
// what is no x86-64 ELF file stays as it is. The form is part of the delta's format: do not change it.
//
// Formats: System V ABI, chapters 4 and 5, and its AMD64 supplement, 4.4; the kernel's ORC tables and
// .eh_frame_hdr of the Linux Standard Base, 10.6.2. Thread-safe functions; `raw` may be any bytes. Memory: a
// copy of the largest table.
#pragma once

#include <cstdint>
#include <span>

namespace sealift::delta {

// Rewrites every ELF file that begins at a multiple of four bytes; says whether there was one.
bool ToCodeForm(std::span<std::uint8_t> raw);
// The bytes that ToCodeForm was given. Of other bytes it makes something of the same length.
void FromCodeForm(std::span<std::uint8_t> raw);

}  // namespace sealift::delta
