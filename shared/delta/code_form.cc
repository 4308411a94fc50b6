#include "shared/delta/code_form.h"

#include <elf.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"

namespace sealift::delta {
namespace {

static_assert(std::endian::native == std::endian::little);

using Span = std::span<std::uint8_t>;
enum class Way { kTo, kFrom };

// A field of a table's entries; where `differences`, each value stands as what it adds to the one before.
struct Column {
  std::size_t width = 0;
  bool differences = false;
};

constexpr std::array<Column, 4> kRela = {{{8, true}, {4, false}, {4, true}, {8, false}}};
// Addends that rise with their entries.
constexpr std::array<Column, 4> kRisingRela = {{{8, true}, {4, false}, {4, true}, {8, true}}};
constexpr std::array<Column, 6> kSymbols = {
    {{4, true}, {1, false}, {1, false}, {2, false}, {8, false}, {8, false}}};
constexpr std::array<Column, 1> kPlaces = {{{4, true}}};
constexpr std::array<Column, 2> kUnwindIndex = {{{4, true}, {4, true}}};
constexpr std::size_t kUnwindIndexHead = 12;
// struct kernel_symbol and struct bug_entry of the kernel.
constexpr std::array<Column, 3> kKernelSymbols = {{{4, true}, {4, true}, {4, true}}};
constexpr std::array<Column, 4> kBugs = {{{4, true}, {4, true}, {2, false}, {2, false}}};

template <typename T>
T Load(Span bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.subspan(at, sizeof value).data(), sizeof value);
  return value;
}

class Rewriter {
 public:
  Rewriter(Span raw, Way way) : raw_(raw), way_(way) {}

  bool Run() {
    bool any = false;
    for (std::size_t at = 0; at + sizeof(Elf64_Ehdr) <= raw_.size();) {
      const std::optional<std::size_t> size = File(raw_.subspan(at));
      any |= size.has_value();
      at += size ? (*size + 3) / 4 * 4 : 4;
    }
    return any;
  }

 private:
  // What is read here is not rewritten, so both ways see the same. Gives the length up to the section table.
  std::optional<std::size_t> File(Span file) {
    if (Load<std::uint32_t>(file, 0) != 0x464c457f) return std::nullopt;
    const auto head = Load<Elf64_Ehdr>(file, 0);
    if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_ident[EI_DATA] != ELFDATA2LSB ||
        head.e_machine != EM_X86_64 || head.e_shentsize != sizeof(Elf64_Shdr) || head.e_shnum == 0)
      return std::nullopt;
    const std::size_t table = head.e_shoff;
    if (table < sizeof head || table > file.size() || head.e_shnum * sizeof(Elf64_Shdr) > file.size() - table)
      return std::nullopt;
    std::vector<Elf64_Shdr> sections(head.e_shnum);
    std::memcpy(sections.data(), file.data() + table, sections.size() * sizeof(Elf64_Shdr));
    std::string_view names;
    std::size_t names_at = 0;
    if (head.e_shstrndx < sections.size()) {
      const Elf64_Shdr& strings = sections[head.e_shstrndx];
      if (strings.sh_type == SHT_STRTAB && strings.sh_offset <= table &&
          strings.sh_size <= table - strings.sh_offset) {
        names_at = strings.sh_offset;
        names = AsText(ByteView(file).subspan(names_at, strings.sh_size));
      }
    }
    std::ranges::stable_sort(sections, {}, &Elf64_Shdr::sh_offset);
    // None twice, and neither the header, the names nor the section table.
    std::size_t done = sizeof head;
    for (const Elf64_Shdr& section : sections) {
      if (section.sh_type == SHT_NOBITS || section.sh_size == 0 || section.sh_offset < done ||
          section.sh_offset > table || section.sh_size > table - section.sh_offset)
        continue;
      if (section.sh_offset < names_at + names.size() && names_at < section.sh_offset + section.sh_size)
        continue;
      done = section.sh_offset + section.sh_size;
      std::string_view name = names.substr(std::min<std::size_t>(section.sh_name, names.size()));
      name = name.substr(0, name.find('\0'));
      Section(section, name, head.e_type == ET_REL, file.subspan(section.sh_offset, section.sh_size));
    }
    return table;
  }

  void Section(const Elf64_Shdr& section, std::string_view name, bool relocatable, Span bytes) {
    switch (section.sh_type) {
      case SHT_RELA:
        if (name == ".rela.dyn" || name.find("orc_unwind") != name.npos || name.find("mcount") != name.npos ||
            name.ends_with("_sites"))
          return Columns(bytes, kRisingRela);
        return Columns(bytes, kRela);
      case SHT_SYMTAB:
      case SHT_DYNSYM:
        return Columns(bytes, kSymbols);
      case SHT_PROGBITS:
        if (name == ".orc_unwind_ip" || name == "__ex_table" || name == ".smp_locks" ||
            name == ".retpoline_sites" || name == ".return_sites" || name == ".call_sites")
          return Columns(bytes, kPlaces);
        if (name == "__ksymtab" || name == "__ksymtab_gpl") return Columns(bytes, kKernelSymbols);
        if (name == "__bug_table") return Columns(bytes, kBugs);
        if (name == ".eh_frame_hdr" && bytes.size() > kUnwindIndexHead)
          return Columns(bytes.subspan(kUnwindIndexHead), kUnwindIndex);
        // A relocatable file's calls are in its relocations.
        if ((section.sh_flags & SHF_EXECINSTR) != 0 && !relocatable) Code(bytes);
        return;
      default:
        return;
    }
  }

  void Columns(Span bytes, std::span<const Column> columns) {
    std::size_t width = 0;
    for (const Column& column : columns) width += column.width;
    const std::size_t count = bytes.size() / width;
    copy_.assign(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count * width));
    std::size_t field = 0;
    std::size_t base = 0;
    for (const Column& column : columns) {
      std::uint64_t last = 0;
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t row = i * width + field;
        const std::size_t packed = base + i * column.width;
        std::uint64_t value = 0;
        std::memcpy(&value, copy_.data() + (way_ == Way::kTo ? row : packed), column.width);
        std::uint64_t made = value;
        if (column.differences) made = way_ == Way::kTo ? value - last : value + last;
        last = way_ == Way::kTo ? value : made;
        std::memcpy(bytes.data() + (way_ == Way::kTo ? packed : row), &made, column.width);
      }
      field += column.width;
      base += count * column.width;
    }
  }

  // Where a call (E8) or a move, load of an address or comparison with an operand relative to the program
  // counter seems to be, its operand is passed over whatever it holds: so both ways stop at the same places.
  void Code(Span bytes) const {
    for (std::size_t at = 0; at + 7 <= bytes.size();) {
      const std::uint8_t code = bytes[at];
      if (code == 0xe8) {
        at += 1;
      } else if ((code == 0x8b || code == 0x8d || code == 0x89 || code == 0x3b || code == 0x39) &&
                 (bytes[at + 1] & 0xc7u) == 5) {
        at += 2;
      } else {
        ++at;
        continue;
      }
      Operand(bytes, at);
      at += 4;
    }
  }

  // A distance of up to 16 MiB either way, that is of 25 bits; its place is one modulo 2^25.
  void Operand(Span bytes, std::size_t at) const {
    auto value = Load<std::uint32_t>(bytes, at);
    if (value >> 24 != 0 && value >> 24 != 0xff) return;
    const auto place = static_cast<std::uint32_t>(at + 4);
    value = (way_ == Way::kTo ? value + place : value - place) & 0x1ffffffu;
    if ((value & 0x1000000u) != 0) value |= 0xfe000000u;
    std::memcpy(bytes.data() + at, &value, sizeof value);
  }

  const Span raw_;
  const Way way_;
  std::vector<std::uint8_t> copy_;
};

}  // namespace

bool ToCodeForm(Span raw) { return Rewriter(raw, Way::kTo).Run(); }
void FromCodeForm(Span raw) { Rewriter(raw, Way::kFrom).Run(); }

}  // namespace sealift::delta
