#include "node-agent/esp/boot_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

namespace sealift::agent {
namespace {

// Section 10.3: type, sub-type and length of the device path nodes in use.
constexpr std::uint8_t kMediaPath = 0x04;
constexpr std::uint8_t kHardDrive = 0x01;
constexpr std::uint16_t kHardDriveBytes = 42;
constexpr std::uint8_t kFilePath = 0x04;
constexpr std::uint8_t kGptFormat = 0x02;
constexpr std::uint8_t kGuidSignature = 0x02;
constexpr std::uint32_t kActive = 0x01;
// More than any firmware keeps; bounds the search for a free number.
constexpr std::uint16_t kMaxOptions = 0x100;

Bytes Terminated(std::string_view text) {
  Bytes value = Utf16Le(text);
  value.insert(value.end(), 2, 0);
  return value;
}

std::string OptionName(std::uint16_t number) { return fmt::format("Boot{:04X}", number); }

Result<std::vector<std::uint16_t>> ReadOrder(EfiVariables& variables) {
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<Bytes> value, variables.Read("BootOrder", kGlobalVendor));
  std::vector<std::uint16_t> order;
  if (!value) return order;
  ByteReader reader(*value, ByteReader::Endian::kLittle);
  while (reader.remaining() >= 2) order.push_back(reader.U16());
  return order;
}

Status WriteOrder(EfiVariables& variables, const std::vector<std::uint16_t>& order) {
  ByteWriter value(ByteWriter::Endian::kLittle);
  for (const std::uint16_t number : order) value.U16(number);
  return variables.Write("BootOrder", kGlobalVendor, kPlainVariable, value.bytes());
}

// Of a load option that somebody wrote.
bool HasDescription(ByteView option, const Bytes& description) {
  constexpr std::size_t kHead = 6;
  return option.size() >= kHead + description.size() &&
         std::equal(description.begin(), description.end(), option.begin() + kHead);
}

}  // namespace

Bytes EncodeBootOption(const DiskBootOption& option) {
  std::string path = "\\" + option.path;
  std::replace(path.begin(), path.end(), '/', '\\');
  const Bytes file = Terminated(path);
  ByteWriter paths(ByteWriter::Endian::kLittle);
  paths.U8(kMediaPath);
  paths.U8(kHardDrive);
  paths.U16(kHardDriveBytes);
  paths.U32(option.partition_number);
  paths.U64(option.start_block);
  paths.U64(option.blocks);
  paths.Raw(option.partition.view());
  paths.U8(kGptFormat);
  paths.U8(kGuidSignature);
  paths.U8(kMediaPath);
  paths.U8(kFilePath);
  paths.U16(static_cast<std::uint16_t>(4 + file.size()));
  paths.Raw(file);
  paths.Raw(Bytes{0x7f, 0xff, 0x04, 0x00});
  ByteWriter out(ByteWriter::Endian::kLittle);
  out.U32(kActive);
  out.U16(static_cast<std::uint16_t>(paths.size()));
  out.Raw(Terminated(option.description));
  out.Raw(paths.bytes());
  return std::move(out).Finish();
}

Result<std::uint16_t> EnsureBootOption(EfiVariables& variables, const DiskBootOption& option) {
  const Bytes wanted = EncodeBootOption(option);
  const Bytes description = Terminated(option.description);
  std::optional<std::uint16_t> found;
  std::optional<std::uint16_t> free;
  std::vector<std::uint16_t> stale;
  for (std::uint16_t number = 0; number < kMaxOptions; ++number) {
    SEALIFT_ASSIGN_OR_RETURN(const std::optional<Bytes> value,
                             variables.Read(OptionName(number), kGlobalVendor));
    if (!value) {
      if (!free) free = number;
    } else if (*value == wanted && !found) {
      found = number;
    } else if (HasDescription(*value, description)) {
      stale.push_back(number);
    }
  }
  if (!found && !free) {
    return MakeError(Code::kFailedPrecondition, Reason::kFirmwareRefused,
                     "write boot option: the firmware's menu is full");
  }
  const std::uint16_t number = found ? *found : *free;
  if (!found)
    SEALIFT_RETURN_IF_ERROR(variables.Write(OptionName(number), kGlobalVendor, kPlainVariable, wanted));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<std::uint16_t> old_order, ReadOrder(variables));
  std::vector<std::uint16_t> order{number};
  for (const std::uint16_t other : old_order)
    if (other != number && std::find(stale.begin(), stale.end(), other) == stale.end())
      order.push_back(other);
  if (order != old_order) SEALIFT_RETURN_IF_ERROR(WriteOrder(variables, order));
  for (const std::uint16_t other : stale)
    SEALIFT_RETURN_IF_ERROR(variables.Remove(OptionName(other), kGlobalVendor));
  return number;
}

Status SetBootNext(EfiVariables& variables, std::uint16_t number) {
  ByteWriter value(ByteWriter::Endian::kLittle);
  value.U16(number);
  return variables.Write("BootNext", kGlobalVendor, kPlainVariable, value.bytes());
}

}  // namespace sealift::agent
