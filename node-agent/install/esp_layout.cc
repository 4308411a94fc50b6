#include "node-agent/install/esp_layout.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>

#include "node-agent/esp/boot_entries.h"
#include "node-agent/esp/boot_options.h"
#include "node-agent/esp/esp_stager.h"
#include "shared/base/files.h"
#include "shared/base/untrusted_files.h"
#include "shared/crypto/hash.h"
#include "shared/efi/authenticode.h"
#include "shared/efi/boot_entry.h"
#include "shared/efi/signature_list.h"

namespace sealift::agent {
namespace {

constexpr std::uint64_t kMaxManifestBytes = 1u << 20;
constexpr std::uint64_t kMaxBootLoaderBytes = 16u << 20;
constexpr std::uint64_t kMaxEntryBytes = 64u << 10;
constexpr std::size_t kPiece = 1u << 20;
constexpr std::string_view kExtraSuffix = ".extra.d/";
constexpr std::uint32_t kMenuSeconds = 5;
constexpr std::uint32_t kMaxMenuSeconds = 60;

Status Unusable(std::string_view path, std::string_view why) {
  return MakeError(Code::kFailedPrecondition, Reason::kMediumUnusable,
                   fmt::format("read '{}' of the install medium: {}", path, why));
}

// From the medium, in pieces; a pulled medium is its fault.
Status ReadPieces(const std::filesystem::path& root, const ReleaseFile& file,
                  const std::function<Status(ByteView)>& sink) {
  const UniqueFd fd(::open((root / file.path).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) return Unusable(file.path, std::generic_category().message(errno));
  Sha256Hasher hasher;
  Bytes piece(kPiece);
  std::uint64_t total = 0;
  for (;;) {
    const ssize_t got = ::read(fd.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Unusable(file.path, std::generic_category().message(errno));
    if (got == 0) break;
    const ByteView bytes(piece.data(), static_cast<std::size_t>(got));
    total += bytes.size();
    if (total > file.size) break;
    hasher.Update(bytes);
    SEALIFT_RETURN_IF_ERROR(sink(bytes));
  }
  if (total != file.size) return Unusable(file.path, "it has another size than the release says");
  if (hasher.Finish() != file.digest) return Unusable(file.path, "it is not what the release says");
  return OkStatus();
}

Status CheckBootLoader(const MediumRelease& release, EfiVariables& variables) {
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<Bytes> db, variables.Read("db", kImageSecurityVendor));
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<Bytes> dbx, variables.Read("dbx", kImageSecurityVendor));
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists trusted, efi::ParseSignatureLists(db.value_or(Bytes())));
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists revoked,
                           efi::ParseSignatureLists(dbx.value_or(Bytes())));
  if (release.boot_loader.size > kMaxBootLoaderBytes)
    return Unusable(release.boot_loader.path, "it is too large");
  Bytes bytes;
  SEALIFT_RETURN_IF_ERROR(ReadPieces(release.root, release.boot_loader, [&](ByteView piece) {
    Append(bytes, piece);
    return OkStatus();
  }));
  const Status verified = efi::VerifyImage(bytes, trusted, revoked).status();
  return verified.ok() ? verified : Annotate(verified, "verify boot loader");
}

class Filler {
 public:
  Filler(const MediumRelease& release, FileSystem& esp) : release_(release), esp_(esp) {}

  Status Run() {
    const std::string image = ImageFilePath(release_.manifest.version, release_.image.digest);
    SEALIFT_RETURN_IF_ERROR(esp_.MakeDirectory(kEntriesDirectory));
    SEALIFT_RETURN_IF_ERROR(Copy(release_.image, image));
    for (const ReleaseFile& extension : release_.extensions)
      SEALIFT_RETURN_IF_ERROR(Copy(extension, image + extension.path.substr(release_.image.path.size())));
    SEALIFT_RETURN_IF_ERROR(Copy(release_.boot_loader, std::string(kNamedLoader)));
    SEALIFT_RETURN_IF_ERROR(
        Put("loader/loader.conf", efi::LoaderConf{.timeout_seconds = release_.menu_seconds}.Format()));
    for (const BootRole role : {BootRole::kRecovery, BootRole::kPassive, BootRole::kActive})
      SEALIFT_RETURN_IF_ERROR(PutEntry(role, image));
    // Firmware that tries the disk before this finds nothing to start.
    return Copy(release_.boot_loader, std::string(kFallbackLoader));
  }

 private:
  Status PutEntry(BootRole role, const std::string& image) {
    const char* suffix = role == BootRole::kPassive    ? " (previous)"
                         : role == BootRole::kRecovery ? " (recovery)"
                                                       : "";
    const std::string text = FormatEntry({.title = release_.title + suffix,
                                          .role = role,
                                          .version = release_.manifest.version,
                                          .image_path = "/" + image});
    return Put(fmt::format("{}/{}.conf", kEntriesDirectory, BootRoleName(role)), text);
  }

  Status Put(const std::string& path, std::string_view text) { return esp_.Replace(path, AsBytes(text)); }

  Status Copy(const ReleaseFile& file, const std::string& to) {
    const std::string folder(ParentOf(to));
    SEALIFT_RETURN_IF_ERROR(esp_.MakeDirectory(folder));
    SEALIFT_ASSIGN_OR_RETURN(const std::unique_ptr<FileWriter> writer, esp_.Create(to));
    SEALIFT_RETURN_IF_ERROR(
        ReadPieces(release_.root, file, [&](ByteView piece) { return writer->Write(piece); }));
    SEALIFT_RETURN_IF_ERROR(writer->Sync());
    SEALIFT_RETURN_IF_ERROR(esp_.SyncDirectory(folder));
    SEALIFT_ASSIGN_OR_RETURN(const FileSystem::Measured back, esp_.Measure(to));
    if (back.digest == file.digest) return OkStatus();
    return MakeError(Code::kDataLoss, Reason::kEspReadbackMismatch,
                     fmt::format("write '{}' to the ESP: the disk gives other bytes back", to));
  }

  const MediumRelease& release_;
  FileSystem& esp_;
};

// The medium's own, within reason.
std::uint32_t MenuSeconds(const std::filesystem::path& root) {
  const Result<std::string> text = ReadTextFile(root / "loader/loader.conf", kMaxEntryBytes);
  const auto conf = text.ok() ? efi::BootEntry::Parse(*text) : text.status();
  if (!conf.ok()) return kMenuSeconds;
  const std::string_view value = conf->Get("timeout");
  std::uint32_t seconds = 0;
  const auto [stop, error] = std::from_chars(value.data(), value.data() + value.size(), seconds);
  return error == std::errc() && stop == value.data() + value.size() && seconds <= kMaxMenuSeconds
             ? seconds
             : kMenuSeconds;
}

std::string TitleOf(const std::filesystem::path& root, const Manifest& manifest) {
  for (const ReleaseFile& file : manifest.files) {
    if (file.role != FileRole::kEntry || !file.path.ends_with("/norole.conf")) continue;
    const Result<std::string> text = ReadTextFile(root / file.path, kMaxEntryBytes);
    const auto entry = text.ok() ? efi::BootEntry::Parse(*text) : text.status();
    if (entry.ok() && !entry->Get("title").empty()) return std::string(entry->Get("title"));
  }
  return "Kairos";
}

}  // namespace

Result<MediumRelease> ReadMediumRelease(const std::filesystem::path& root) {
  constexpr std::string_view kManifest = "release.json";
  const Result<std::string> json = ReadTextFile(root / kManifest, kMaxManifestBytes);
  if (!json.ok()) return Unusable(kManifest, MessageOf(json.status()));
  MediumRelease release{.root = root};
  Result<Manifest> manifest = ParseManifest(*json);
  if (!manifest.ok()) return Unusable(kManifest, MessageOf(manifest.status()));
  release.manifest = std::move(*manifest);
  const Result<ReleaseFile> image = release.manifest.OnlyFile(FileRole::kUki);
  const Result<ReleaseFile> loader = release.manifest.OnlyFile(FileRole::kBootLoader);
  if (!image.ok()) return Unusable(kManifest, MessageOf(image.status()));
  if (!loader.ok()) return Unusable(kManifest, MessageOf(loader.status()));
  release.image = *image;
  release.boot_loader = *loader;
  release.sizes.image_bytes = image->size;
  release.sizes.other_bytes = 2 * loader->size + json->size();
  for (const ReleaseFile& file : release.manifest.files) {
    if (file.role != FileRole::kExtension || !file.path.starts_with(image->path + std::string(kExtraSuffix)))
      continue;
    release.extensions.push_back(file);
    release.sizes.image_bytes += file.size;
  }
  release.title = TitleOf(root, release.manifest);
  release.menu_seconds = MenuSeconds(root);
  return release;
}

Status VerifyMediumRelease(const MediumRelease& release, EfiVariables& variables,
                           const RunningSystem& running) {
  const Manifest& manifest = release.manifest;
  if (manifest.version != running.version) {
    return Unusable("release.json",
                    fmt::format("the release is {}, but {} runs", manifest.version, running.version));
  }
  // What the verifier needs of the ESP is nothing.
  EspStager verifier(nullptr, &variables, {});
  const ImageExpectations expected{.version = manifest.version,
                                   .digest = release.image.digest,
                                   .size = release.image.size,
                                   .authenticode = release.image.authenticode,
                                   .allowed_pcr_keys = {running.pcr_key.key_id()}};
  const std::filesystem::path file = release.root / release.image.path;
  if (std::error_code error; !std::filesystem::is_regular_file(file, error))
    return Unusable(release.image.path, "it is not there");
  SEALIFT_RETURN_IF_ERROR(verifier.VerifyImage({.file = file}, expected).status());
  SEALIFT_RETURN_IF_ERROR(CheckBootLoader(release, variables));
  for (const ReleaseFile& extension : release.extensions)
    SEALIFT_RETURN_IF_ERROR(ReadPieces(release.root, extension, [](ByteView) { return OkStatus(); }));
  return OkStatus();
}

Status FillEsp(const MediumRelease& release, FileSystem& esp) { return Filler(release, esp).Run(); }

}  // namespace sealift::agent
