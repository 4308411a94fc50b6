// From verified local files to an image on the ESP with all that lies beside it. No entry changes here.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "node-agent/esp/esp_stager.h"
#include "shared/base/log.h"
#include "shared/base/untrusted_files.h"
#include "shared/crypto/hash.h"

namespace sealift::agent {
namespace {

// For entries, directory growth and rounding up to clusters, on top of the files.
constexpr std::uint64_t kSlackBytes = 1u << 20;
constexpr std::size_t kCopyBytes = 1u << 20;

Status NotStaged(std::string_view path, std::string_view why) {
  return MakeError(Code::kNotFound, Reason::kImageNotStaged,
                   fmt::format("find '{}' on the ESP: {}", path, why));
}

Status ReadLocalFile(const std::filesystem::path& path, const std::function<Status(ByteView)>& sink) {
  SEALIFT_ASSIGN_OR_RETURN(const UniqueFd fd, OpenRegularFile(path));
  Bytes piece(kCopyBytes);
  while (true) {
    const ssize_t got = ::read(fd.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable, fmt::format("read '{}'", path.string()),
                        "read", errno);
    }
    if (got == 0) return OkStatus();
    SEALIFT_RETURN_IF_ERROR(sink(ByteView(piece).first(static_cast<std::size_t>(got))));
  }
}

std::string CompanionFolder(std::string_view image_path) {
  return fmt::format("{}{}", image_path, kCompanionSuffix);
}

std::string TemporaryOf(std::string_view path) { return fmt::format("{}{}", path, kTemporarySuffix); }

}  // namespace

std::string ImageFilePath(const std::string& version, const Sha256Digest& digest) {
  return fmt::format("{}/{}-{}.efi", kImagesDirectory, version, digest.hex().substr(0, 12));
}

bool EspStager::IsKept(const View& view, std::string_view path) {
  const std::string key = LowerCase(fmt::format("/{}", path));
  const std::vector<std::string>& named = view.disk.referenced;
  return key == LowerCase(view.inventory.running_image_path) ||
         std::find(named.begin(), named.end(), key) != named.end();
}

Result<std::vector<EspStager::Piece>> EspStager::PiecesOf(const VerifiedImage& image) {
  const std::string path = ImageFilePath(image.version(), image.digest());
  std::vector<Piece> pieces;
  if (image.boot_loader()) {
    const VerifiedImage::LocalBootLoader& loader = *image.boot_loader();
    SEALIFT_ASSIGN_OR_RETURN(const bool installed, BootLoaderInstalled(loader.what.digest));
    if (!installed) {
      pieces.push_back({.path = StagedLoaderPath(loader.what.digest),
                        .digest = loader.what.digest,
                        .size = loader.what.size,
                        .local = loader.file});
    }
  }
  for (const VerifiedImage::LocalCompanion& companion : image.companions()) {
    pieces.push_back({.path = fmt::format("{}/{}", CompanionFolder(path), companion.what.name),
                      .digest = companion.what.digest,
                      .size = companion.what.size,
                      .local = companion.file});
  }
  // Last: an image that is there tells nothing of its companions, but one that is not is surely not staged.
  pieces.push_back({.path = path, .digest = image.digest(), .size = image.size(), .local = image.file()});
  return pieces;
}

Result<EspStager::Found> EspStager::LookAt(const Piece& piece) {
  const Result<FileSystem::Measured> found = fs_->Measure(piece.path);
  if (found.status().code() == Code::kNotFound) return Found::kAbsent;
  SEALIFT_RETURN_IF_ERROR(found.status());
  if (found->digest != piece.digest) return Found::kOther;
  return fs_->Exists(TemporaryOf(piece.path)) ? Found::kDoubtful : Found::kWhole;
}

Result<std::vector<std::string>> EspStager::FindStrangers(const std::string& image_path,
                                                          const std::vector<Companion>& companions) {
  const std::string folder = CompanionFolder(image_path);
  const Result<std::vector<DirectoryEntry>> files = fs_->List(folder);
  std::vector<std::string> strangers;
  if (files.status().code() == Code::kNotFound) return strangers;
  SEALIFT_RETURN_IF_ERROR(files.status());
  for (const DirectoryEntry& file : *files) {
    const bool listed = std::any_of(companions.begin(), companions.end(), [&](const Companion& companion) {
      return SamePath(companion.name, file.name);
    });
    // The stub passes over temporary files, and folders.
    if (listed || file.is_directory || file.name.ends_with(kTemporarySuffix)) continue;
    strangers.push_back(fmt::format("{}/{}", folder, file.name));
  }
  return strangers;
}

Result<std::vector<EspStager::Piece>> EspStager::FindMissing(const VerifiedImage& image,
                                                             const std::vector<Piece>& pieces) {
  SEALIFT_ASSIGN_OR_RETURN(const View view, Look());
  const std::string& image_path = pieces.back().path;
  const bool kept = IsKept(view, image_path);
  std::vector<Companion> companions;
  for (const VerifiedImage::LocalCompanion& companion : image.companions())
    companions.push_back(companion.what);
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<std::string> strangers, FindStrangers(image_path, companions));
  for (const std::string& stranger : strangers) {
    log::Warning("a file beside an image is not of its release and goes", {{"path", stranger}});
    SEALIFT_RETURN_IF_ERROR(fs_->Remove(stranger));
  }
  if (!strangers.empty()) SEALIFT_RETURN_IF_ERROR(fs_->SyncDirectory(CompanionFolder(image_path)));
  std::vector<Piece> missing;
  for (const Piece& piece : pieces) {
    SEALIFT_ASSIGN_OR_RETURN(const Found found, LookAt(piece));
    if (found == Found::kWhole || (found == Found::kDoubtful && kept)) continue;
    missing.push_back(piece);
    if (found == Found::kAbsent) continue;
    if (kept) {
      // Other bytes under the name of these: damage. What an entry names stays for a person to look at.
      if (piece.path == image_path) {
        return MakeError(Code::kDataLoss, Reason::kEspReadbackMismatch,
                         fmt::format("stage '{}': an entry names a damaged file of this name", piece.path));
      }
      continue;  // replaced by the rename
    }
    if (found == Found::kDoubtful) SEALIFT_RETURN_IF_ERROR(fs_->Remove(TemporaryOf(piece.path)));
    SEALIFT_RETURN_IF_ERROR(fs_->Remove(piece.path));
    SEALIFT_RETURN_IF_ERROR(fs_->SyncDirectory(ParentOf(piece.path)));
  }
  return missing;
}

Result<std::vector<EspStager::Piece>> EspStager::MakeRoom(const VerifiedImage& image) {
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<Piece> pieces, PiecesOf(image));
  for (int round = 0;; ++round) {
    SEALIFT_ASSIGN_OR_RETURN(std::vector<Piece> missing, FindMissing(image, pieces));
    std::uint64_t needed = missing.empty() ? 0 : kSlackBytes;
    for (const Piece& piece : missing) needed += piece.size;
    SEALIFT_ASSIGN_OR_RETURN(const std::uint64_t free, fs_->FreeBytes());
    if (free >= needed) return missing;
    bool changed = round == 0;
    SEALIFT_ASSIGN_OR_RETURN(const View view, Look());
    // A fallback was remembered before another version got this far, so its entry has told what it had to.
    if (round == 1) {
      SEALIFT_ASSIGN_OR_RETURN(changed, RemoveExhausted(view));
    }
    if (round > 0 && !changed) {
      SEALIFT_ASSIGN_OR_RETURN(changed, ReleasePassive(view, needed - free));
    }
    if (!changed) {
      return MakeError(Code::kResourceExhausted, Reason::kEspFull,
                       fmt::format("stage an image: {} bytes needed on the ESP, {} free", needed, free));
    }
    SEALIFT_RETURN_IF_ERROR(CollectGarbage().status());
  }
}

Status EspStager::CopyVerified(const Piece& piece, const std::string& temporary) {
  SEALIFT_ASSIGN_OR_RETURN(std::unique_ptr<FileWriter> writer, fs_->Create(temporary));
  Sha256Hasher hasher;
  SEALIFT_RETURN_IF_ERROR(ReadLocalFile(piece.local, [&](ByteView bytes) {
    hasher.Update(bytes);
    return writer->Write(bytes);
  }));
  if (hasher.Finish() != piece.digest) {
    return MakeError(Code::kInvalidArgument, Reason::kImageDigestMismatch,
                     fmt::format("stage '{}': the file changed after it was verified", piece.local.string()));
  }
  SEALIFT_RETURN_IF_ERROR(writer->Sync());
  writer.reset();
  SEALIFT_ASSIGN_OR_RETURN(const FileSystem::Measured written, fs_->Measure(temporary));
  if (written.digest != piece.digest) {
    return MakeError(Code::kDataLoss, Reason::kEspReadbackMismatch,
                     fmt::format("read back '{}': {} bytes with another digest", temporary, written.size));
  }
  return OkStatus();
}

Status EspStager::CopyPiece(const Piece& piece) {
  SEALIFT_RETURN_IF_ERROR(fs_->MakeDurableDirectory(ParentOf(piece.path)));
  const std::string temporary = TemporaryOf(piece.path);
  if (Status copied = CopyVerified(piece, temporary); !copied.ok()) {
    if (Status removed = fs_->Remove(temporary); !removed.ok() && removed.code() != Code::kNotFound) {
      log::Warning("a temporary file stays on the ESP", {{"path", temporary}, {"error", Describe(removed)}});
    }
    return copied;
  }
  SEALIFT_RETURN_IF_ERROR(fs_->Rename(temporary, piece.path));
  return fs_->SyncDirectory(ParentOf(piece.path));
}

Result<StagedImage> EspStager::Stage(const VerifiedImage& image) {
  SEALIFT_ASSIGN_OR_RETURN(const View view, Look());
  SEALIFT_RETURN_IF_ERROR(RequireInstalled(view.inventory));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<Piece> missing, MakeRoom(image));
  for (const Piece& piece : missing) SEALIFT_RETURN_IF_ERROR(CopyPiece(piece));
  std::optional<Sha256Digest> loader;
  if (image.boot_loader()) {
    SEALIFT_ASSIGN_OR_RETURN(loader, WantBootLoader(image.boot_loader()->what, image.boot_loader()->version));
  }
  return VouchForStaged(image.version(), image.digest(), "/" + ImageFilePath(image.version(), image.digest()),
                        loader);
}

Result<StagedImage> EspStager::FindStaged(const ImageExpectations& expectations) {
  const std::string path = ImageFilePath(expectations.version, expectations.digest);
  const Result<Bytes> bytes = fs_->Read(path, expectations.size);
  if (bytes.status().code() == Code::kNotFound) return NotStaged(path, "no such file");
  if (ReasonOf(bytes.status()) == Reason::kFileTooLarge) return NotStaged(path, "its content is another");
  SEALIFT_RETURN_IF_ERROR(bytes.status());
  if (bytes->size() != expectations.size || Sha256(*bytes) != expectations.digest) {
    return NotStaged(path, "its content is another");
  }
  SEALIFT_RETURN_IF_ERROR(FindBeside(path, expectations));
  SEALIFT_RETURN_IF_ERROR(CheckImage(*bytes, expectations).status());
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<Sha256Digest> loader, FindBootLoader(expectations));
  return VouchForStaged(expectations.version, expectations.digest, "/" + path, loader);
}

Status EspStager::FindBeside(const std::string& path, const ImageExpectations& expectations) {
  SEALIFT_ASSIGN_OR_RETURN(const View view, Look());
  const auto whole = [&](const Piece& piece) -> Result<bool> {
    SEALIFT_ASSIGN_OR_RETURN(const Found found, LookAt(piece));
    return found == Found::kWhole || (found == Found::kDoubtful && IsKept(view, path));
  };
  if (fs_->Exists(TemporaryOf(path)) && !IsKept(view, path))
    return NotStaged(path, "a power cut left it in doubt");
  for (const Companion& companion : expectations.companions) {
    const std::string beside = fmt::format("{}/{}", CompanionFolder(path), companion.name);
    SEALIFT_ASSIGN_OR_RETURN(
        const bool there,
        whole({.path = beside, .digest = companion.digest, .size = companion.size, .local = {}}));
    if (!there) return NotStaged(beside, "not there, or its content is another");
  }
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<std::string> strangers,
                           FindStrangers(path, expectations.companions));
  if (!strangers.empty()) return NotStaged(path, fmt::format("'{}' lies beside it", strangers.front()));
  return OkStatus();
}

}  // namespace sealift::agent
