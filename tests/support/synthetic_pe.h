// A small PE32+ image made from nothing, for tests that need to know every byte.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shared/base/bytes.h"

namespace sealift::test {

struct SyntheticPe {
  // Name and content; placed one after the other.
  std::vector<std::pair<std::string, std::string>> sections = {{".text", "code"}, {".data", "data"}};
  std::string tail;
  std::uint32_t file_alignment = 0x200;
  std::uint32_t section_alignment = 0x1000;
  std::uint32_t header_bytes = 0x400;
  std::uint32_t first_address = 0x4000;

  Bytes Build() const {
    const auto up = [](std::size_t value, std::size_t to) { return (value + to - 1) / to * to; };
    ByteWriter writer(ByteWriter::Endian::kLittle);
    writer.Raw(AsBytes("MZ"));
    writer.Zeros(0x3c - writer.size());
    writer.U32(0x80);
    writer.Zeros(0x80 - writer.size());
    writer.Raw(AsBytes(std::string_view("PE\0\0", 4)));
    writer.U16(0x8664);
    writer.U16(static_cast<std::uint16_t>(sections.size()));
    writer.Zeros(12);
    writer.U16(240);
    writer.U16(0x2026);
    const std::size_t optional = writer.size();
    writer.U16(0x20b);
    writer.Zeros(14);
    writer.U32(first_address);  // entry point
    writer.Zeros(12);           // base of code, image base
    writer.U32(section_alignment);
    writer.U32(file_alignment);
    writer.Zeros(16);
    std::size_t address = first_address;
    for (const auto& [name, content] : sections) address = up(address + content.size(), section_alignment);
    writer.U32(static_cast<std::uint32_t>(address));
    writer.U32(header_bytes);
    writer.U32(0);
    writer.U16(10);  // EFI application
    writer.Zeros(optional + 108 - writer.size());
    writer.U32(16);
    writer.Zeros(128);
    address = first_address;
    std::size_t raw = header_bytes;
    for (const auto& [name, content] : sections) {
      std::string padded = name;
      padded.resize(8);
      writer.Raw(AsBytes(padded));
      writer.U32(static_cast<std::uint32_t>(content.size()));
      writer.U32(static_cast<std::uint32_t>(address));
      writer.U32(static_cast<std::uint32_t>(up(content.size(), file_alignment)));
      writer.U32(static_cast<std::uint32_t>(raw));
      writer.Zeros(12);
      writer.U32(0x40000040);
      address = up(address + content.size(), section_alignment);
      raw += up(content.size(), file_alignment);
    }
    writer.PadTo(header_bytes);
    for (const auto& [name, content] : sections) {
      writer.Raw(AsBytes(content));
      writer.PadTo(file_alignment);
    }
    writer.Raw(AsBytes(tail));
    return std::move(writer).Finish();
  }
};

}  // namespace sealift::test
