#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

#include "shared/base/files.h"
#include "shared/base/untrusted_files.h"
#include "shared/tuf/client.h"

namespace sealift::tuf {

Result<std::optional<std::string>> FileMetadataStore::Load(std::string_view name) {
  Result<std::string> text = ReadRegularTextFile(directory_ / name, kMaxTargetsBytes);
  if (text.ok()) return std::optional<std::string>(*std::move(text));
  // A file larger than any metadata is damage like any other: as good as none.
  if (text.status().code() == Code::kNotFound || ReasonOf(text.status()) == Reason::kFileTooLarge) {
    return std::optional<std::string>();
  }
  return text.status();
}

Status FileMetadataStore::Store(std::string_view name, std::string_view bytes) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(directory_, 0700));
  return WriteFileAtomically(directory_ / name, AsBytes(bytes));
}

Status FileMetadataStore::Remove(std::string_view name) {
  const std::filesystem::path path = directory_ / name;
  if (::unlink(path.c_str()) != 0) {
    if (errno == ENOENT) return OkStatus();
    return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("remove '{}'", path.string()),
                      "unlink", errno);
  }
  return SyncDirectory(directory_);
}

}  // namespace sealift::tuf
