#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/base/untrusted_files.h"
#include "shared/tuf/client.h"

namespace sealift::tuf {

Result<std::optional<std::string>> FileMetadataStore::Load(std::string_view name) {
  Result<std::string> text = ReadRegularTextFile(directory_ / name, kMaxTargetsBytes);
  if (text.ok()) return std::optional<std::string>(*std::move(text));
  // Whatever lies there instead, or cannot be read, is damage and as good as nothing: it is fetched again.
  if (text.status().code() != Code::kNotFound) {
    log::Warning("stored metadata cannot be read, fetching it again",
                 {{"reason", std::string(ReasonId(Reason::kTufStateDamaged))},
                  {"path", (directory_ / name).string()},
                  {"error", Describe(text.status())}});
  }
  return std::optional<std::string>();
}

Status FileMetadataStore::Store(std::string_view name, std::string_view bytes) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(directory_, 0700));
  SEALIFT_RETURN_IF_ERROR(RemoveUnlessRegular(directory_ / name));
  return WriteFileAtomically(directory_ / name, AsBytes(bytes));
}

Status FileMetadataStore::Remove(std::string_view name) {
  std::error_code error;
  if (!std::filesystem::exists(directory_, error)) return OkStatus();
  SEALIFT_RETURN_IF_ERROR(RemoveAnything(directory_ / name));
  return SyncDirectory(directory_);
}

}  // namespace sealift::tuf
