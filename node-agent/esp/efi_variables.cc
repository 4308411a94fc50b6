#include "node-agent/esp/efi_variables.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
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

Status Refused(std::string_view verb, std::string_view name, std::string_view call, int error_number) {
  return ErrnoError(Code::kFailedPrecondition, Reason::kFirmwareRefused,
                    fmt::format("{} EFI variable {}", verb, name), call, error_number);
}

// efivarfs marks most variables immutable, so that nobody removes them by accident. Where the flag cannot be
// asked for or taken away the write itself will tell.
class Mutable {
 public:
  explicit Mutable(const std::filesystem::path& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW)) {
    if (!fd_.valid() || ::ioctl(fd_.get(), FS_IOC_GETFLAGS, &flags_) != 0) return;
    if ((flags_ & FS_IMMUTABLE_FL) == 0) return;
    int without = flags_ & ~FS_IMMUTABLE_FL;
    restore_ = ::ioctl(fd_.get(), FS_IOC_SETFLAGS, &without) == 0;
  }
  Mutable(const Mutable&) = delete;
  Mutable& operator=(const Mutable&) = delete;
  ~Mutable() {
    if (restore_) static_cast<void>(::ioctl(fd_.get(), FS_IOC_SETFLAGS, &flags_));
  }
  bool exists() const { return fd_.valid(); }

 private:
  UniqueFd fd_;
  int flags_ = 0;
  bool restore_ = false;
};

}  // namespace

Status EfiVariables::WriteText(std::string_view name, std::string_view vendor, std::string_view text) {
  Bytes value = Utf16Le(text);
  value.insert(value.end(), 2, 0);
  return Write(name, vendor, kPlainVariable, value);
}

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

std::filesystem::path EfivarfsVariables::PathOf(std::string_view name, std::string_view vendor) const {
  return mount_ / fmt::format("{}-{}", name, vendor);
}

Status EfivarfsVariables::RequireMounted(std::string_view doing, std::string_view name) const {
  std::error_code error;
  if (std::filesystem::exists(PathOf("SecureBoot", kGlobalVendor), error)) return OkStatus();
  return MakeError(Code::kUnavailable, Reason::kFirmwareVariableUnreadable,
                   fmt::format("{} EFI variable {}: no efivarfs at {}", doing, name, mount_.string()));
}

Status EfivarfsVariables::Write(std::string_view name, std::string_view vendor, std::uint32_t attributes,
                                ByteView value) {
  SEALIFT_RETURN_IF_ERROR(RequireMounted("write", name));
  const std::filesystem::path path = PathOf(name, vendor);
  const Mutable unlocked(path);
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd.valid()) return Refused("write", name, "open", errno);
  ByteWriter content(ByteWriter::Endian::kLittle);
  content.U32(attributes);
  content.Raw(value);
  // efivarfs hands each write(2) to the firmware as one whole variable.
  ssize_t put = 0;
  do {
    put = ::write(fd.get(), content.bytes().data(), content.size());
  } while (put < 0 && errno == EINTR);
  if (put == static_cast<ssize_t>(content.size())) return OkStatus();
  const int error_number = put < 0 ? errno : EIO;
  // A name without a variable behind it is left by a refused creation.
  if (!unlocked.exists()) static_cast<void>(::unlink(path.c_str()));
  return Refused("write", name, "write", error_number);
}

Status EfivarfsVariables::Remove(std::string_view name, std::string_view vendor) {
  SEALIFT_RETURN_IF_ERROR(RequireMounted("remove", name));
  const std::filesystem::path path = PathOf(name, vendor);
  const Mutable unlocked(path);
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return OkStatus();
  return Refused("remove", name, "unlink", errno);
}

Result<std::optional<Bytes>> EfivarfsVariables::Read(std::string_view name, std::string_view vendor) {
  const UniqueFd fd(::open(PathOf(name, vendor).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid() && errno == ENOENT) {
    // "No such variable" must not be taken from an empty mount point: that would hide the whole dbx.
    SEALIFT_RETURN_IF_ERROR(RequireMounted("read", name));
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
