#include "node-agent/esp/efi_variables.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cerrno>

#include "shared/base/files.h"

namespace sealift::agent {
namespace {

// efivarfs puts the attributes, a little-endian u32, before the value.
constexpr std::size_t kAttributeBytes = 4;
// Far above what firmware stores in one variable; a dbx of today is below 64 KiB.
constexpr std::size_t kMaxVariableBytes = 1u << 20;

Status Unreadable(std::string_view name, std::string_view call, int error_number) {
  return ErrnoError(Code::kUnavailable, Reason::kFirmwareVariableUnreadable,
                    fmt::format("read EFI variable {}", name), call, error_number);
}

}  // namespace

Result<std::string> EfiVariables::ReadText(std::string_view name, std::string_view vendor) {
  SEALIFT_ASSIGN_OR_RETURN(std::optional<Bytes> value, Read(name, vendor));
  if (!value) return std::string();
  std::string text = Utf8FromUtf16Le(*value);
  if (const std::size_t end = text.find('\0'); end != std::string::npos) text.resize(end);
  return text;
}

Result<bool> EfiVariables::ReadFlag(std::string_view name, std::string_view vendor) {
  SEALIFT_ASSIGN_OR_RETURN(std::optional<Bytes> value, Read(name, vendor));
  return value && value->size() == 1 && value->front() == 1;
}

Result<std::optional<Bytes>> EfivarfsVariables::Read(std::string_view name, std::string_view vendor) {
  const std::filesystem::path path = mount_ / fmt::format("{}-{}", name, vendor);
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid() && errno == ENOENT) {
    // "No such variable" must not be taken from an empty mount point: that would hide the whole dbx.
    if (std::error_code error;
        !std::filesystem::exists(mount_ / fmt::format("SecureBoot-{}", kGlobalVendor), error)) {
      return MakeError(Code::kUnavailable, Reason::kFirmwareVariableUnreadable,
                       fmt::format("read EFI variable {}: no efivarfs at {}", name, mount_.string()));
    }
    return std::optional<Bytes>();
  }
  if (!fd.valid()) return Unreadable(name, "open", errno);
  // One read of the whole: efivarfs asks firmware anew for each one, and a value may change in between.
  Bytes content(kAttributeBytes + kMaxVariableBytes);
  ssize_t got = 0;
  do {
    got = ::read(fd.get(), content.data(), content.size());
  } while (got < 0 && errno == EINTR);
  if (got < 0) return Unreadable(name, "read", errno);
  // A variable that was deleted while open reads as empty.
  if (got == 0) return std::optional<Bytes>();
  const auto size = static_cast<std::size_t>(got);
  if (size < kAttributeBytes || size == content.size()) {
    return MakeError(Code::kUnavailable, Reason::kFirmwareVariableUnreadable,
                     fmt::format("read EFI variable {}: {} bytes cannot be one", name, size));
  }
  return std::optional<Bytes>(Bytes(content.begin() + kAttributeBytes, content.begin() + got));
}

}  // namespace sealift::agent
