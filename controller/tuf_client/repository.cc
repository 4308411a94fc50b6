#include "controller/tuf_client/repository.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/tuf/delegations.h"

namespace sealift::tuf_client {
namespace {

constexpr std::string_view kRootFile = "root.json";
constexpr std::size_t kMaxFileName = 200;
constexpr std::size_t kReadBytes = 64u << 10;

// "7.root.json".
bool IsNumberedRoot(std::string_view name) {
  const std::size_t dot = name.find('.');
  return dot != std::string_view::npos && dot > 0 && name.substr(dot + 1) == kRootFile &&
         name.substr(0, dot).find_first_not_of("0123456789") == std::string_view::npos;
}

// The client's own note, which is no metadata.
std::string_view FileOf(std::string_view name) { return name == "rotated.json" ? "rotated" : name; }

Status Mismatch(std::string_view target_path, std::string_view what) {
  return MakeError(
      Code::kFailedPrecondition, Reason::kContentDigestMismatch,
      fmt::format("download target '{}': {} is not the one the metadata lists", target_path, what));
}

// False for a file that is missing, another one, or cannot be read: it is fetched then.
bool IsThere(const std::filesystem::path& path, const tuf::Target& target) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error) || error) return false;
  if (std::filesystem::file_size(path, error) != target.length || error) return false;
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file.valid()) return false;
  Sha256Hasher hasher;
  Bytes buffer(kReadBytes);
  for (;;) {
    const ssize_t size = read(file.get(), buffer.data(), buffer.size());
    if (size < 0) return false;
    if (size == 0) return hasher.Finish() == target.sha256;
    hasher.Update(ByteView(buffer).subspan(0, static_cast<std::size_t>(size)));
  }
}

// Beside the target, gone unless it was renamed to it.
class PartFile {
 public:
  explicit PartFile(std::filesystem::path path) : path_(std::move(path)) {
    fd_ = UniqueFd(open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
  }
  ~PartFile() {
    std::error_code error;
    if (!kept_) std::filesystem::remove(path_, error);
  }
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  Status Write(ByteView bytes) {
    if (!fd_.valid()) return Unwritable();
    return WriteAll(fd_.get(), path_, bytes);
  }
  Status RenameTo(const std::filesystem::path& target) {
    if (!fd_.valid() || fsync(fd_.get()) != 0) return Unwritable();
    SEALIFT_RETURN_IF_ERROR(fd_.Close());
    std::error_code error;
    std::filesystem::rename(path_, target, error);
    if (error) return Unwritable();
    kept_ = true;
    return SyncDirectory(target.parent_path());
  }

 private:
  Status Unwritable() const {
    return MakeError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("write '{}'", path_.string()));
  }
  std::filesystem::path path_;
  UniqueFd fd_;
  bool kept_ = false;
};

bool MayStandInPath(char c) {
  constexpr std::string_view kAllowed = "-._~!$&'()*+,;=:@/";
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         kAllowed.find(c) != std::string_view::npos;
}

}  // namespace

std::string JoinUrl(std::string_view base, std::string_view path) {
  return fmt::format("{}{}{}", base, base.ends_with('/') ? "" : "/", path);
}

Result<std::string> HttpMetadataSource::Fetch(std::string_view name, std::size_t max_bytes) {
  std::string text;
  SEALIFT_RETURN_IF_ERROR(http_.Read(JoinUrl(base_url_, name), max_bytes, [&](ByteView bytes) {
    text += AsText(bytes);
    return true;
  }));
  return text;
}

Result<std::optional<std::string>> NewestRootStore::Load(std::string_view name) {
  if (IsNumberedRoot(name)) return std::optional<std::string>();
  return files_.Load(FileOf(name));
}

Status NewestRootStore::Store(std::string_view name, std::string_view bytes) {
  return files_.Store(IsNumberedRoot(name) ? kRootFile : FileOf(name), bytes);
}

Status NewestRootStore::Remove(std::string_view name) { return files_.Remove(FileOf(name)); }

std::string TargetUrlPath(std::string_view target_path, const tuf::FoundTarget& found) {
  std::string encoded;
  for (const char c : target_path) {
    encoded += MayStandInPath(c) ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  if (!found.consistent_snapshot) return encoded;
  const std::size_t slash = encoded.rfind('/');
  const std::size_t name = slash == std::string::npos ? 0 : slash + 1;
  return fmt::format("{}{}.{}", encoded.substr(0, name), found.target.sha256.hex(), encoded.substr(name));
}

std::string TargetFileName(std::string_view target_path) {
  std::string name = tuf::PercentEncodeName(target_path);
  if (name == "." || name == "..") return name == "." ? "%2E" : "%2E%2E";
  if (name.size() > kMaxFileName) return "sha256-" + Sha256(AsBytes(target_path)).hex();
  return name;
}

Status DownloadTarget(HttpReader& http, std::string_view base_url, std::string_view target_path,
                      const tuf::FoundTarget& found, const std::filesystem::path& directory) {
  const tuf::Target& target = found.target;
  const std::filesystem::path path = directory / TargetFileName(target_path);
  if (IsThere(path, target)) return OkStatus();
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(directory));
  PartFile part(path.string() + ".part");
  Sha256Hasher hasher;
  std::uint64_t size = 0;
  Status written;
  const Status fetched =
      http.Read(JoinUrl(base_url, TargetUrlPath(target_path, found)), target.length, [&](ByteView bytes) {
        hasher.Update(bytes);
        size += bytes.size();
        written = part.Write(bytes);
        return written.ok();
      });
  SEALIFT_RETURN_IF_ERROR(written);
  if (ReasonOf(fetched) == Reason::kTufTooLarge) return Mismatch(target_path, "its length");
  SEALIFT_RETURN_IF_ERROR(fetched);
  if (size != target.length) return Mismatch(target_path, "its length");
  if (hasher.Finish() != target.sha256) return Mismatch(target_path, "its digest");
  return part.RenameTo(path);
}

}  // namespace sealift::tuf_client
