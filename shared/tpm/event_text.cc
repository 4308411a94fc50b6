// Events in words, for evidence. What the data says is untrusted: it is cut, and cleared of control
// characters.
#include <fmt/format.h>

#include <algorithm>

#include "shared/crypto/hash.h"
#include "shared/tpm/event_log.h"

namespace sealift::tpm {
namespace {

using Endian = ByteReader::Endian;

constexpr std::size_t kMaxWords = 120;
constexpr std::uint8_t kDevicePathMedia = 4;
constexpr std::uint8_t kDevicePathFile = 4;
constexpr std::uint8_t kDevicePathEnd = 0x7F;

std::string Clean(std::string_view text) {
  std::string clean;
  for (const char c : text.substr(0, kMaxWords)) {
    if (c == '\0') break;
    clean.push_back(c >= ' ' && c <= '~' ? c : '?');
  }
  return clean;
}

std::string CleanUtf16(ByteView utf16) {
  return Clean(Utf8FromUtf16Le(utf16.first(std::min(utf16.size(), 2 * kMaxWords))));
}

// UEFI_VARIABLE_DATA, 10.2.6.
std::string VariableText(ByteView data) {
  ByteReader reader(data, Endian::kLittle);
  reader.Skip(16);
  const std::uint64_t name_chars = reader.U64();
  const std::uint64_t size = reader.U64();
  if (!reader.ok() || name_chars > reader.remaining() / 2) return "unreadable variable";
  const ByteView name = reader.Take(static_cast<std::size_t>(name_chars) * 2);
  return fmt::format("{}, {} bytes", CleanUtf16(name), size);
}

// UEFI_IMAGE_LOAD_EVENT, 10.2.3: the file names in its device path.
std::string ImageText(ByteView data) {
  ByteReader reader(data, Endian::kLittle);
  reader.Skip(4 * 8);  // location, length, link address, length of the device path
  std::string file;
  while (reader.ok() && reader.remaining() >= 4) {
    const std::uint8_t type = reader.U8();
    const std::uint8_t subtype = reader.U8();
    const std::uint16_t size = reader.U16();
    if (size < 4 || type == kDevicePathEnd) break;
    const ByteView node = reader.Take(size - 4u);
    if (type == kDevicePathMedia && subtype == kDevicePathFile) file += CleanUtf16(node);
  }
  return file.empty() ? "image without a file name" : Clean(file);
}

// The loaders write their text as UTF-16 (systemd) or ASCII (others).
std::string LooseText(ByteView data) {
  if (data.size() >= 2 && data[1] == 0) return CleanUtf16(data);
  return Clean(AsText(data));
}

std::string DataText(const Event& event) {
  const ByteView data = event.data;
  switch (event.type) {
    case kEvEfiVariableDriverConfig:
    case kEvEfiVariableBoot:
    case kEvEfiVariableBoot2:
    case kEvEfiVariableAuthority:
      return VariableText(data);
    case kEvEfiBootServicesApplication:
    case kEvEfiBootServicesDriver:
    case kEvEfiRuntimeServicesDriver:
      return ImageText(data);
    case kEvAction:
    case kEvEfiAction:
      return fmt::format("\"{}\"", Clean(AsText(data)));
    case kEvIpl:
    case kEvPostCode:
      return LooseText(data);
    case kEvEventTag:
      return data.size() > 8 ? Clean(AsText(data.subspan(8))) : "";
    default:
      return "";
  }
}

}  // namespace

std::string EventTypeName(std::uint32_t type) {
  switch (type) {
    case kEvPostCode:
      return "EV_POST_CODE";
    case kEvNoAction:
      return "EV_NO_ACTION";
    case kEvSeparator:
      return "EV_SEPARATOR";
    case kEvAction:
      return "EV_ACTION";
    case kEvEventTag:
      return "EV_EVENT_TAG";
    case kEvCrtmVersion:
      return "EV_S_CRTM_VERSION";
    case kEvIpl:
      return "EV_IPL";
    case kEvEfiVariableDriverConfig:
      return "EV_EFI_VARIABLE_DRIVER_CONFIG";
    case kEvEfiVariableBoot:
      return "EV_EFI_VARIABLE_BOOT";
    case kEvEfiVariableBoot2:
      return "EV_EFI_VARIABLE_BOOT2";
    case kEvEfiBootServicesApplication:
      return "EV_EFI_BOOT_SERVICES_APPLICATION";
    case kEvEfiBootServicesDriver:
      return "EV_EFI_BOOT_SERVICES_DRIVER";
    case kEvEfiRuntimeServicesDriver:
      return "EV_EFI_RUNTIME_SERVICES_DRIVER";
    case kEvEfiGptEvent:
      return "EV_EFI_GPT_EVENT";
    case kEvEfiAction:
      return "EV_EFI_ACTION";
    case kEvEfiPlatformFirmwareBlob:
      return "EV_EFI_PLATFORM_FIRMWARE_BLOB";
    case kEvEfiHcrtmEvent:
      return "EV_EFI_HCRTM_EVENT";
    case kEvEfiVariableAuthority:
      return "EV_EFI_VARIABLE_AUTHORITY";
    default:
      return fmt::format("event type {:#010x}", type);
  }
}

bool DataMatchesDigest(const Event& event) {
  switch (event.type) {
    case kEvSeparator:
    case kEvAction:
    case kEvEfiAction:
    case kEvCrtmVersion:
    case kEvEfiVariableDriverConfig:
    case kEvEfiVariableAuthority:
    case kEvEfiGptEvent:
      break;
    default:
      return false;
  }
  const auto digest = event.digests.find(kAlgSha256);
  return digest != event.digests.end() && std::ranges::equal(digest->second, Sha256(event.data).view());
}

std::string DescribeEvent(const Event& event) {
  const std::string text = DataText(event);
  return text.empty() ? EventTypeName(event.type) : fmt::format("{} {}", EventTypeName(event.type), text);
}

}  // namespace sealift::tpm
