// Event logs in the shapes that firmware, shim, GRUB and systemd-boot of other people write: the older form,
// one to four banks, vendor information, MokListTrusted, POST codes, load options, UEFI services, padded
// strings. Of each the fixtures of tpm2-tools have an example; these are made here, so that every test run
// has them, with data of the same structure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "shared/tpm/event_log.h"
#include "tests/support/firmware_log.h"

namespace sealift::test {

struct ShapedEvent {
  std::uint32_t pcr = 0;
  std::uint32_t type = 0;
  Bytes data;
  // What the digest is of; nothing: of the data.
  Bytes measured = {};
};

struct LogShape {
  std::string name;
  // Empty: the older form, SHA-1 alone.
  std::vector<std::uint16_t> banks;
  std::vector<ShapedEvent> events;
  // Of the leading event.
  Bytes vendor_information = {};
  std::uint8_t errata = 0;

  Bytes bytes() const {
    ByteWriter out(ByteWriter::Endian::kLittle);
    if (!banks.empty()) Leading(out);
    for (const ShapedEvent& event : events) {
      out.U32(event.pcr);
      out.U32(event.type);
      const Bytes& measured = event.measured.empty() ? event.data : event.measured;
      if (banks.empty()) {
        WriteDigest(out, event, tpm::kAlgSha1, measured);
      } else {
        out.U32(static_cast<std::uint32_t>(banks.size()));
        for (const std::uint16_t bank : banks) {
          out.U16(bank);
          WriteDigest(out, event, bank, measured);
        }
      }
      out.U32(static_cast<std::uint32_t>(event.data.size()));
      out.Raw(event.data);
    }
    return std::move(out).Finish();
  }

 private:
  // What is only said has digests of zeros.
  static void WriteDigest(ByteWriter& out, const ShapedEvent& event, std::uint16_t bank, ByteView measured) {
    if (event.type == tpm::kEvNoAction) {
      out.Zeros(tpm::DigestSize(bank));
    } else {
      out.Raw(tpm::HashWith(bank, measured));
    }
  }
  void Leading(ByteWriter& out) const {
    ByteWriter spec(ByteWriter::Endian::kLittle);
    spec.Raw(AsBytes(std::string_view("Spec ID Event03\0", 16)));
    spec.U32(0);
    for (const std::uint8_t part : {std::uint8_t{0}, std::uint8_t{2}, errata, std::uint8_t{2}}) spec.U8(part);
    spec.U32(static_cast<std::uint32_t>(banks.size()));
    for (const std::uint16_t bank : banks) {
      spec.U16(bank);
      spec.U16(static_cast<std::uint16_t>(tpm::DigestSize(bank)));
    }
    spec.U8(static_cast<std::uint8_t>(vendor_information.size()));
    spec.Raw(vendor_information);
    out.U32(0);
    out.U32(tpm::kEvNoAction);
    out.Zeros(20);
    out.U32(static_cast<std::uint32_t>(spec.size()));
    out.Raw(spec.bytes());
  }
};

namespace shape {

inline constexpr std::uint32_t kNonhostInfo = 0x11;
inline constexpr std::uint32_t kFirmwareBlob2 = 0x8000000A;
inline constexpr std::string_view kGlobalVendor = "61dfe48bca93d211aa0d00e098032b8c";
inline constexpr std::string_view kDbVendor = "cbb219d73a3d9645a3bcdad00e67656f";
inline constexpr std::string_view kShimVendor = "50ab5d6046e00043abb63dd810dd8b23";
inline constexpr std::string_view kX509Type = "a159c0a5e494a74a87b5ab155c2bf072";

inline Bytes Text(std::string_view text) { return ToBytes(AsBytes(text)); }

// UEFI_VARIABLE_DATA.
inline Bytes Variable(std::string_view vendor, std::string_view name, ByteView content) {
  ByteWriter data(ByteWriter::Endian::kLittle);
  data.Raw(HexDecode(std::string(vendor)).value());
  data.U64(name.size());
  data.U64(content.size());
  data.Raw(Utf16Le(name));
  data.Raw(content);
  return std::move(data).Finish();
}

// EFI_SIGNATURE_LIST of certificates.
inline Bytes SignatureList(const std::vector<std::size_t>& sizes) {
  ByteWriter lists(ByteWriter::Endian::kLittle);
  for (const std::size_t size : sizes) {
    lists.Raw(HexDecode(std::string(kX509Type)).value());
    lists.U32(static_cast<std::uint32_t>(28 + 16 + size));
    lists.U32(0);
    lists.U32(static_cast<std::uint32_t>(16 + size));
    lists.Raw(HexDecode(std::string(kDbVendor)).value());
    lists.Raw(Bytes(size, 0x30));
  }
  return std::move(lists).Finish();
}

inline Bytes Blob(std::uint64_t base, std::uint64_t length) {
  ByteWriter data(ByteWriter::Endian::kLittle);
  data.U64(base);
  data.U64(length);
  return std::move(data).Finish();
}

// UEFI_IMAGE_LOAD_EVENT with a path of one file node.
inline Bytes Image(std::string_view file) {
  ByteWriter path(ByteWriter::Endian::kLittle);
  path.U8(4);
  path.U8(4);
  const Bytes name = Utf16Le(file);
  path.U16(static_cast<std::uint16_t>(4 + name.size() + 2));
  path.Raw(name);
  path.U16(0);
  path.U32(0x0004FF7F);
  ByteWriter data(ByteWriter::Endian::kLittle);
  data.U64(0x7DFAB018);
  data.U64(955'656);
  data.U64(0);
  data.U64(path.size());
  data.Raw(path.bytes());
  return std::move(data).Finish();
}

// UEFI_GPT_DATA of one partition.
inline Bytes PartitionTable() {
  ByteWriter data(ByteWriter::Endian::kLittle);
  data.Raw(AsBytes("EFI PART"));
  data.U32(0x10000);
  data.U32(92);
  data.U32(0x12345678);
  data.U32(0);
  for (const std::uint64_t place : {1ull, 2047ull, 34ull, 2014ull}) data.U64(place);
  data.Raw(Bytes(16, 0xD1));
  data.U64(2);
  data.U32(128);
  data.U32(128);
  data.U32(0x9ABCDEF0);
  data.U64(1);
  data.Raw(Bytes(16, 0x28));
  data.Raw(Bytes(16, 0x29));
  data.U64(34);
  data.U64(2000);
  data.U64(0);
  Bytes name = Utf16Le("EFI System");
  name.resize(72, 0);
  data.Raw(name);
  return std::move(data).Finish();
}

inline ShapedEvent Separator(std::uint32_t pcr) { return {pcr, tpm::kEvSeparator, Bytes(4, 0)}; }

inline std::vector<ShapedEvent> Firmware() {
  return {{0, tpm::kEvCrtmVersion, Utf16Le("1.10")},
          {0, tpm::kEvEfiPlatformFirmwareBlob, Blob(0x820000, 0xE0000), Text("PEI volume")},
          {0, tpm::kEvEfiPlatformFirmwareBlob, Blob(0x900000, 0xC00000), Text("DXE volume")},
          {7, tpm::kEvEfiVariableDriverConfig, Variable(kGlobalVendor, "SecureBoot", Bytes{1})},
          {7, tpm::kEvEfiVariableDriverConfig, Variable(kGlobalVendor, "PK", SignatureList({932}))},
          {7, tpm::kEvEfiVariableDriverConfig, Variable(kGlobalVendor, "KEK", SignatureList({932, 1516}))},
          {7, tpm::kEvEfiVariableDriverConfig, Variable(kDbVendor, "db", SignatureList({1499, 1556}))},
          {7, tpm::kEvEfiVariableDriverConfig, Variable(kDbVendor, "dbx", Bytes())},
          Separator(7)};
}

inline std::vector<ShapedEvent> Separators() {
  std::vector<ShapedEvent> events;
  for (std::uint32_t pcr = 0; pcr < 7; ++pcr) events.push_back(Separator(pcr));
  return events;
}

inline std::vector<ShapedEvent> Joined(std::initializer_list<std::vector<ShapedEvent>> parts) {
  std::vector<ShapedEvent> events;
  for (const auto& part : parts) events.insert(events.end(), part.begin(), part.end());
  return events;
}

}  // namespace shape

inline std::vector<LogShape> EventLogShapes() {
  using namespace shape;
  const std::vector<std::uint16_t> sha256{tpm::kAlgSha256};
  const std::vector<std::uint16_t> two{tpm::kAlgSha1, tpm::kAlgSha256};
  const std::vector<std::uint16_t> three{tpm::kAlgSha1, tpm::kAlgSha256, tpm::kAlgSha384};
  const std::vector<std::uint16_t> four{tpm::kAlgSha1, tpm::kAlgSha256, tpm::kAlgSha384, tpm::kAlgSha512};
  const std::vector<ShapedEvent> actions{
      {4, tpm::kEvEfiAction, Text("Calling EFI Application from Boot Option")},
      {5, tpm::kEvEfiAction, Text("Exit Boot Services Invocation")},
      {5, tpm::kEvEfiAction, Text("Exit Boot Services Returned with Success")}};
  const std::vector<ShapedEvent> boot_options{
      {1, tpm::kEvEfiVariableBoot, GlobalVariable("BootOrder", Bytes{0, 0, 1, 0, 2, 0})},
      {1, tpm::kEvEfiVariableBoot, GlobalVariable("Boot0000", LoadOption("UiApp", "firmware"))},
      {1, tpm::kEvEfiVariableBoot,
       GlobalVariable("Boot0001", LoadOption("UEFI disk", "disk of this machine"))},
      {1, tpm::kEvEfiVariableBoot2, GlobalVariable("Boot0002", LoadOption("network", "card"))}};
  const std::vector<ShapedEvent> grub{
      {8, tpm::kEvIpl, Text(std::string_view("grub_cmd: set root='hd0,gpt2'\0", 30))},
      {8, tpm::kEvIpl, Text(std::string_view("kernel_cmdline: /vmlinuz root=/dev/sda1 ro\0", 43))},
      {9, tpm::kEvIpl, Text(std::string_view("/boot/vmlinuz\0", 14)), Text("kernel")}};
  return {
      {"older form", {}, Joined({Firmware(), Separators(), actions, grub})},
      {"older form, one event", {}, {{0, tpm::kEvCrtmVersion, Utf16Le("v")}}},
      {"one bank", sha256, Joined({Firmware(), Separators(), actions})},
      {"two banks", two,
       Joined({Firmware(), Separators(), {{5, tpm::kEvEfiGptEvent, PartitionTable()}}, actions})},
      {"three banks", three, Joined({Firmware(), boot_options, Separators()})},
      {"four banks", four, Joined({Firmware(), Separators(), grub})},
      {"load options", two, Joined({boot_options, Separators()})},
      {"cloud machine", three,
       Joined({{{0, tpm::kEvNoAction, Text(std::string_view("GCE NonHostInfo\0\1\2\3\4", 20))},
                {0, kNonhostInfo, Text("GCE Virtual Firmware v1")}},
               Firmware(),
               Separators(),
               {{4, tpm::kEvEfiBootServicesApplication, Image("\\EFI\\ubuntu\\shimx64.efi"), Text("shim")},
                {4, tpm::kEvEfiBootServicesApplication, Image("\\EFI\\ubuntu\\grubx64.efi"), Text("grub")}},
               grub})},
      {"MokListTrusted", sha256,
       Joined({Firmware(),
               Separators(),
               {{14, tpm::kEvIpl, Text(std::string_view("MokList\0", 8)), Text("its content")},
                {14, tpm::kEvIpl, Text(std::string_view("MokListX\0", 9)), Text("its content")},
                {14, tpm::kEvIpl, Text(std::string_view("MokListTrusted\0", 15)), Bytes{1}},
                {7, tpm::kEvEfiVariableAuthority, Variable(kShimVendor, "MokListTrusted", Bytes{1})},
                {7, tpm::kEvEfiVariableAuthority,
                 Variable(kShimVendor, "SbatLevel", Text("sbat,1,2021030218\n"))}}})},
      {"POST codes",
       two,
       {{0, tpm::kEvPostCode, Text("POST CODE")},
        {0, tpm::kEvPostCode, Text("ACPI DATA"), Text("tables")},
        {0, tpm::kEvPostCode, Blob(0xFFC00000, 0x20000), Text("volume")},
        Separator(0)}},
      {"padded strings of systemd-boot", two,
       Joined({Firmware(),
               Separators(),
               {{12, tpm::kEvIpl, Utf16Le("root=UUID=1 ro rhgb quiet")},
                {8, tpm::kEvIpl, Utf16Le(std::string("initrd=\\initrd.img root=UUID=1\0\0", 32))},
                {9, tpm::kEvEventTag, Text("LOADED_IMAGE::LoadOptions"), Text("options")}}})},
      {"UEFI services", two,
       Joined({{{2, tpm::kEvEfiBootServicesDriver, Image("\\driver"), Text("driver")},
                {2, tpm::kEvEfiRuntimeServicesDriver, Image("\\runtime"), Text("runtime driver")},
                {4, tpm::kEvEfiBootServicesApplication, Image("\\EFI\\BOOT\\BOOTX64.EFI"), Text("loader")}},
               Separators()})},
      {"duplicated separators, no end of boot services", sha256,
       Joined({Separators(), Separators(), {Separator(7), Separator(7)}})},
      {"error separator",
       sha256,
       {{0, tpm::kEvSeparator, Bytes{1, 0, 0, 0}}, {4, tpm::kEvSeparator, Bytes(4, 0xFF)}}},
      {"vendor information of 1.05", two, {}, Bytes{0xDE, 0xAD, 0xBE, 0xEF}, 105},
      {"vendor information of 1.06", two, Separators(), Bytes{0xDE, 0xAD, 0xBE, 0xEF}, 106},
  };
}

}  // namespace sealift::test
