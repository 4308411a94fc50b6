#include "controller/build/esp_tree.h"

#include <fmt/format.h>

#include "shared/base/files.h"
#include "shared/crypto/hash.h"

namespace sealift::build {
namespace {

namespace fs = std::filesystem;

// Writes files and notes them down for the manifest.
class Writer {
 public:
  explicit Writer(fs::path out) : out_(std::move(out)) {}

  Status Write(const std::string& path, FileRole role, ByteView bytes,
               const Sha256Digest* authenticode = nullptr) {
    SEALIFT_RETURN_IF_ERROR(MakeDirectories((out_ / path).parent_path()));
    SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(out_ / path, bytes));
    ReleaseFile file{.path = path, .role = role, .digest = Sha256(bytes), .size = bytes.size()};
    if (authenticode != nullptr) file.authenticode = *authenticode;
    files_.push_back(std::move(file));
    return OkStatus();
  }
  std::vector<ReleaseFile> TakeFiles() { return std::move(files_); }

 private:
  fs::path out_;
  std::vector<ReleaseFile> files_;
};

std::string EntryText(const EspContents& contents) {
  efi::BootEntry entry;
  entry.Set("title", contents.title);
  entry.Set("efi", std::string("/") + kUkiFile);
  return entry.Format();
}

Manifest MakeManifest(const EspContents& contents, std::vector<ReleaseFile> files) {
  return Manifest{.version = contents.version,
                  .minimum_agent_version = SEALIFT_VERSION,
                  .hardware_class = "generic-x86_64",
                  .built = contents.built,
                  .files = std::move(files),
                  .pcr11 = contents.uki.pcr11,
                  .sections = contents.uki.sections,
                  .stub_version = contents.uki.stub_version,
                  .secure_boot_certificates = {Sha256(contents.secure_boot_certificate)},
                  .pcr_keys = contents.pcr_keys};
}

}  // namespace

Status CheckOutputFolder(const fs::path& out) {
  std::error_code error;
  if (!fs::exists(out, error)) return OkStatus();
  const bool folder = fs::is_directory(out, error);
  if (folder && (fs::is_empty(out, error) || fs::exists(out / kManifestFile, error))) return OkStatus();
  return MakeError(Code::kFailedPrecondition, Reason::kOutputNotEmpty,
                   fmt::format("write release to '{}': {}", out.string(),
                               folder ? "it holds something else" : "it is not a folder"));
}

Result<Manifest> WriteEspTree(const fs::path& out, const EspContents& contents) {
  SEALIFT_RETURN_IF_ERROR(CheckOutputFolder(out));
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(out));
  // The manifest first: what is left without it is no release.
  for (const char* old : {kManifestFile, kFrameIndexFile, "loader", "EFI"}) {
    std::error_code error;
    fs::remove_all(out / old, error);
    if (error) {
      return MakeError(Code::kFailedPrecondition, Reason::kFileUnwritable,
                       fmt::format("write release to '{}': {}", out.string(), error.message()));
    }
  }
  Writer writer(out);
  SEALIFT_RETURN_IF_ERROR(writer.Write(kBootLoaderFile, FileRole::kBootLoader, contents.boot_loader.bytes,
                                       &contents.boot_loader.digest));
  SEALIFT_RETURN_IF_ERROR(
      writer.Write(kUkiFile, FileRole::kUki, contents.uki.image.bytes, &contents.uki.image.digest));
  SEALIFT_RETURN_IF_ERROR(
      writer.Write("loader/loader.conf", FileRole::kLoaderConf, AsBytes(contents.loader_conf.Format())));
  SEALIFT_RETURN_IF_ERROR(
      writer.Write("loader/entries/norole.conf", FileRole::kEntry, AsBytes(EntryText(contents))));
  const std::pair<const char*, const Bytes*> keys[] = {{"PK", &contents.pk_auth},
                                                       {"KEK", &contents.kek_auth},
                                                       {"db", &contents.db_auth},
                                                       {"dbx", &contents.dbx_auth}};
  for (const auto& [name, auth] : keys) {
    if (auth->empty()) continue;
    SEALIFT_RETURN_IF_ERROR(
        writer.Write(fmt::format("loader/keys/auto/{}.auth", name), FileRole::kEnrolmentKey, *auth));
  }
  SEALIFT_RETURN_IF_ERROR(
      writer.Write(kFrameIndexFile, FileRole::kFrameIndex, AsBytes(contents.frame_index)));
  Manifest manifest = MakeManifest(contents, writer.TakeFiles());
  const std::string text = SerializeManifest(manifest);
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(out / kManifestFile, AsBytes(text)));
  return manifest;
}

}  // namespace sealift::build
