#include "shared/delta/code_form.h"

#include <elf.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>

#include "shared/base/files.h"
#include "tests/support/status_matchers.h"

namespace sealift::delta {
namespace {

struct SectionRecipe {
  std::string name;
  std::uint32_t type = SHT_PROGBITS;
  std::uint64_t flags = 0;
  Bytes content;
};

template <typename T>
void AppendAs(Bytes& to, const T& value) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(&value);
  to.insert(to.end(), bytes, bytes + sizeof value);
}

// Header, contents, names, section table: as linkers lay out relocatable files.
Bytes Elf(std::uint16_t type, const std::vector<SectionRecipe>& recipes) {
  Bytes out(sizeof(Elf64_Ehdr));
  std::vector<Elf64_Shdr> table(1);
  std::string names(1, '\0');
  const auto add = [&](const std::string& name, std::uint32_t kind, std::uint64_t flags, ByteView content) {
    Elf64_Shdr header{};
    header.sh_name = static_cast<std::uint32_t>(names.size());
    names += name + '\0';
    header.sh_type = kind;
    header.sh_flags = flags;
    header.sh_offset = out.size();
    header.sh_size = content.size();
    Append(out, content);
    table.push_back(header);
  };
  for (const SectionRecipe& recipe : recipes) add(recipe.name, recipe.type, recipe.flags, recipe.content);
  add(".shstrtab", SHT_STRTAB, 0, {});
  table.back().sh_size = names.size();
  Append(out, AsBytes(names));
  out.resize((out.size() + 7) / 8 * 8);
  Elf64_Ehdr head{};
  std::ranges::copy(std::string_view("\x7f"
                                     "ELF\x02\x01\x01"),
                    head.e_ident);
  head.e_type = type;
  head.e_machine = EM_X86_64;
  head.e_shoff = out.size();
  head.e_shentsize = sizeof(Elf64_Shdr);
  head.e_shnum = static_cast<std::uint16_t>(table.size());
  head.e_shstrndx = static_cast<std::uint16_t>(table.size() - 1);
  for (const Elf64_Shdr& header : table) AppendAs(out, header);
  std::memcpy(out.data(), &head, sizeof head);
  return out;
}

Bytes There(Bytes bytes) {
  ToCodeForm(bytes);
  return bytes;
}
Bytes Back(Bytes bytes) {
  FromCodeForm(bytes);
  return bytes;
}

std::size_t Differing(ByteView a, ByteView b) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i]) ++count;
  return count;
}

// Calls to one place from everywhere, as if `shift` bytes had been put in before the callee.
Bytes Calls(std::int32_t shift) {
  Bytes code;
  while (code.size() < 5000) {
    const auto end = static_cast<std::int32_t>(code.size()) + 5;
    code.push_back(0xe8);
    AppendAs(code, 1000000 + shift - end);
    Append(code, AsBytes("\x31\xc0\xc3"));
  }
  return code;
}

TEST(CodeFormTest, ACallSaysWhereItGoes) {
  const Bytes elf = Elf(ET_DYN, {{".text", SHT_PROGBITS, SHF_EXECINSTR, Calls(0)}});
  const Bytes form = There(elf);
  std::set<std::string> targets;
  for (std::size_t at = sizeof(Elf64_Ehdr); at + 8 < sizeof(Elf64_Ehdr) + 5000; at += 8)
    targets.insert(ToText(ByteView(form).subspan(at + 1, 4)));
  EXPECT_EQ(targets.size(), 1u);
  EXPECT_EQ(Back(form), elf);
}

TEST(CodeFormTest, CallsOfARelocatableFileStay) {
  const Bytes elf = Elf(ET_REL, {{".text", SHT_PROGBITS, SHF_EXECINSTR, Calls(0)}});
  EXPECT_EQ(There(elf), elf);
}

TEST(CodeFormTest, ATableThatMovedDiffersInOneEntry) {
  const auto table = [](std::uint64_t shift) {
    Bytes bytes;
    for (std::uint64_t i = 0; i < 500; ++i)
      AppendAs(bytes, Elf64_Rela{.r_offset = 0x4321 + i * 24 + shift,
                                 .r_info = ELF64_R_INFO(7, R_X86_64_PC32),
                                 .r_addend = static_cast<std::int64_t>(i * 3 + shift)});
    return Elf(ET_REL, {{".rela.orc_unwind_ip", SHT_RELA, 0, bytes}});
  };
  const Bytes before = table(0);
  const Bytes after = table(0x1010);
  EXPECT_GT(Differing(before, after), 1500u);
  EXPECT_LE(Differing(There(before), There(after)), 4u);
  EXPECT_EQ(Back(There(after)), after);
}

TEST(CodeFormTest, WhatIsNoElfFileStays) {
  const Bytes text = ToBytes(std::string(5000, 'x') +
                             "\x7f"
                             "ELF but only by name" +
                             std::string(5000, 'y'));
  Bytes bytes = text;
  EXPECT_FALSE(ToCodeForm(bytes));
  EXPECT_EQ(bytes, text);
  Bytes few = ToBytes(
      "\x7f"
      "ELF");
  EXPECT_FALSE(ToCodeForm(few));
}

// Archives of files that others' tools made, kernel modules among them where this machine has some.
TEST(CodeFormTest, RealFilesComeBack) {
  Bytes all;
  std::size_t files = 0;
  for (const char* path : {"/bin/bash", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/proc/self/exe",
                           "/usr/lib/x86_64-linux-gnu/crt1.o", "/usr/lib/x86_64-linux-gnu/libm.so.6"}) {
    const auto bytes = ReadFile(path, 64u << 20);
    if (!bytes.ok()) continue;
    Append(all, *bytes);
    all.resize((all.size() + 3) / 4 * 4);
    ++files;
  }
  ASSERT_GE(files, 3u);
  const Bytes form = There(all);
  EXPECT_GT(Differing(form, all), 100000u);
  EXPECT_TRUE(Back(form) == all);
}

TEST(CodeFormTest, DamagedFilesComeBackToo) {
  Bytes symbols;
  for (std::uint32_t i = 0; i < 40; ++i)
    AppendAs(symbols, Elf64_Sym{.st_name = i * 9, .st_value = i * 100ull});
  const Bytes elf = Elf(ET_DYN, {{".text", SHT_PROGBITS, SHF_EXECINSTR, Calls(0)},
                                 {".symtab", SHT_SYMTAB, 0, symbols},
                                 {".eh_frame_hdr", SHT_PROGBITS, 0, Calls(77)},
                                 {"__bug_table", SHT_PROGBITS, 0, Calls(5)},
                                 {"__ksymtab_gpl", SHT_PROGBITS, 0, Calls(9)},
                                 {".orc_unwind_ip", SHT_PROGBITS, 0, Calls(3)}});
  ASSERT_NE(There(elf), elf);
  ASSERT_EQ(Back(There(elf)), elf);
  std::mt19937 random(1);
  // Of the header and the section table, whose fields overlap, wrap and point outside when they are changed.
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < sizeof(Elf64_Ehdr); ++i) places.push_back(i);
  for (std::size_t i = elf.size() - 8 * sizeof(Elf64_Shdr); i < elf.size(); ++i) places.push_back(i);
  for (int round = 0; round < 4000; ++round) {
    Bytes bad = elf;
    for (auto count = 1 + random() % 4; count > 0; --count)
      bad[places[random() % places.size()]] = static_cast<std::uint8_t>(random());
    ASSERT_TRUE(Back(There(bad)) == bad) << round;
  }
}

}  // namespace
}  // namespace sealift::delta
