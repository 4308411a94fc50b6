#include "controller/extension/extension_builder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <vector>

#include "controller/extension/extension_release.h"
#include "shared/base/files.h"
#include "shared/base/ids.h"
#include "shared/base/subprocess.h"
#include "shared/content/download.h"
#include "shared/crypto/hash.h"
#include "shared/ddi/extension_image.h"
#include "shared/efi/signed_data.h"

namespace sealift::extension {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kAlignment = 4096;
// The table and its entries in front, their copy at the end (UEFI 2.10 section 5.3).
constexpr std::uint64_t kFirstOffset = 64u << 10;
constexpr std::uint64_t kTailBytes = 32u << 10;
constexpr std::size_t kCopyBytes = 1u << 20;
// pkcs7-data, 1.2.840.113549.1.7.1.
constexpr std::array<std::uint8_t, 9> kDataOid = {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01};

Status Refuse(const ExtensionOptions& options, std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kExtensionInvalid,
                   fmt::format("build extension '{}': {}", options.name, what));
}

Status CheckOptions(const ExtensionOptions& options) {
  if (!IsValidExtensionName(options.name))
    return Refuse(options, "a name has 1 to 64 of letters, digits, '.', '_' and '-', and no .confext behind");
  if (!IsValidVersion(options.version))
    return Refuse(options, fmt::format("'{}' is no version", options.version));
  std::error_code error;
  if (fs::exists(options.out, error)) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kOutputNotEmpty,
        fmt::format("build extension '{}': '{}' is there already", options.name, options.out.string()));
  }
  bool any = false;
  for (const auto& entry : fs::directory_iterator(options.source, error)) {
    const std::string name = entry.path().filename();
    const bool configuration = options.kind == ExtensionKind::kConfiguration;
    if (configuration ? name != "etc" : name != "usr" && name != "opt")
      return Refuse(options,
                    fmt::format("it may hold {}, and has '{}'", configuration ? "etc" : "usr and opt", name));
    any = true;
  }
  if (error) {
    return MakeError(Code::kUnavailable, Reason::kFileUnreadable,
                     fmt::format("read '{}': {}", options.source.string(), error.message()));
  }
  if (!any) return Refuse(options, "the folder is empty");
  // Nothing is written through a link of the copy.
  for (fs::path parent = fs::path(ExtensionReleasePath(options.kind, options.name)).parent_path();
       !parent.empty(); parent = parent.parent_path()) {
    if (fs::is_symlink(options.source / parent, error))
      return Refuse(options, fmt::format("'{}' is a link", parent.string()));
  }
  // It would change what OS this is.
  for (const char* forbidden :
       {"usr/lib/os-release", "usr/lib/sealift", "etc/os-release", "etc/machine-id"}) {
    if (fs::exists(fs::symlink_status(options.source / forbidden, error)))
      return Refuse(options, fmt::format("it may not bring '{}'", forbidden));
  }
  return OkStatus();
}

// A copy to which the extension-release is added; the folder itself stays as it is.
Result<ExtensionRelease> Stage(const ExtensionOptions& options, const fs::path& staged) {
  SEALIFT_RETURN_IF_ERROR(RunCommandChecked({.argv = {"cp", "-a", "--reflink=auto", "--",
                                                      options.source.string() + "/.", staged.string()}})
                              .status());
  const fs::path file = staged / ExtensionReleasePath(options.kind, options.name);
  ExtensionRelease release;
  std::error_code error;
  if (fs::exists(fs::symlink_status(file, error))) {
    SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file, kMaxExtensionReleaseBytes));
    release = ParseExtensionRelease(options.kind, text);
  }
  if (!options.os_id.empty()) release.os_id = options.os_id;
  if (!options.os_version_id.empty()) release.os_version_id = options.os_version_id;
  release.version = options.version;
  if (release.os_id.empty())
    return Refuse(options, fmt::format("neither --os-id nor {} says which OS it is for",
                                       ExtensionReleasePath(options.kind, options.name)));
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(file.parent_path()));
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(file, AsBytes(FormatExtensionRelease(options.kind, release))));
  return release;
}

Status MakeSquashfs(const fs::path& tree, const fs::path& out, UnixMillis built) {
  const std::string seconds = std::to_string(ToUnixMs(built) / 1000);
  // The variable stands for -mkfs-time and -all-time, and excludes them.
  return RunCommandChecked({.argv = {"mksquashfs", tree.string(), out.string(), "-noappend", "-all-root",
                                     "-no-xattrs", "-comp", "zstd", "-no-progress", "-quiet"},
                            .environment = {{"SOURCE_DATE_EPOCH", seconds}}})
      .status();
}

// The root hash as veritysetup has it.
Result<Sha256Digest> MakeHashes(const ExtensionOptions& options, const fs::path& data,
                                const fs::path& hashes) {
  const Sha256Digest seed =
      Sha256(AsBytes(fmt::format("sealift extension {} {}", options.name, options.version)));
  SEALIFT_ASSIGN_OR_RETURN(const efi::Guid uuid, efi::Guid::FromBytes(seed.view().first(16)));
  SEALIFT_ASSIGN_OR_RETURN(
      const CommandOutput output,
      RunCommandChecked({.argv = {"veritysetup", "format", data.string(), hashes.string(), "--hash=sha256",
                                  "--data-block-size=4096", "--hash-block-size=4096", "--uuid=" + uuid.text(),
                                  "--salt=" + seed.hex()}}));
  constexpr std::string_view kLabel = "Root hash:";
  const std::size_t label = output.out.find(kLabel);
  const std::size_t begin = label == std::string::npos
                                ? label
                                : output.out.find_first_of("0123456789abcdef", label + kLabel.size());
  const auto root =
      begin == std::string::npos
          ? Result<Sha256Digest>(MakeError(Code::kInternal, Reason::kToolFailed, "no root hash"))
          : Sha256Digest::FromHex(std::string_view(output.out).substr(begin, 64));
  if (root.ok()) return root;
  return MakeError(Code::kInternal, Reason::kToolFailed,
                   "make verity hashes: veritysetup names no root hash");
}

struct Part {
  efi::Guid type;
  efi::Guid id;
  std::string name;
  fs::path file;
  std::uint64_t size = 0;
  std::uint64_t offset = 0;
};

std::uint64_t Aligned(std::uint64_t value) { return (value + kAlignment - 1) / kAlignment * kAlignment; }

Status WriteTable(const fs::path& image, const std::vector<Part>& parts, const Sha256Digest& root) {
  // The disk's own id has no meaning; derived, it keeps builds equal.
  const Sha256Digest seed = Sha256(root.view());
  SEALIFT_ASSIGN_OR_RETURN(const efi::Guid disk, efi::Guid::FromBytes(seed.view().first(16)));
  std::string script = fmt::format("label: gpt\nlabel-id: {}\nunit: sectors\nfirst-lba: 34\n", disk.text());
  for (const Part& part : parts) {
    script +=
        fmt::format("start={}, size={}, type={}, uuid={}, name=\"{}\"\n", part.offset / ddi::kSectorBytes,
                    part.size / ddi::kSectorBytes, part.type.text(), part.id.text(), part.name);
  }
  return RunCommandChecked({.argv = {"sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never",
                                     image.string()},
                            .stdin_text = script})
      .status();
}

Status CopyInto(int to, const fs::path& image, const Part& part) {
  UniqueFd from(::open(part.file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!from.valid())
    return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable,
                      fmt::format("read '{}'", part.file.string()), "open", errno);
  if (::lseek(to, static_cast<off_t>(part.offset), SEEK_SET) < 0)
    return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("write '{}'", image.string()),
                      "lseek", errno);
  Bytes buffer(kCopyBytes);
  while (true) {
    const ssize_t got = ::read(from.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable,
                        fmt::format("read '{}'", part.file.string()), "read", errno);
    if (got == 0) return OkStatus();
    SEALIFT_RETURN_IF_ERROR(WriteAll(to, image, ByteView(buffer).first(static_cast<std::size_t>(got))));
  }
}

Status Assemble(const fs::path& image, std::vector<Part> parts, const Sha256Digest& root) {
  std::uint64_t end = kFirstOffset;
  for (Part& part : parts) {
    part.offset = end;
    part.size = Aligned(fs::file_size(part.file));
    end += part.size;
  }
  UniqueFd fd(::open(image.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd.valid() || ::ftruncate(fd.get(), static_cast<off_t>(end + kTailBytes)) != 0)
    return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("write '{}'", image.string()),
                      "ftruncate", errno);
  SEALIFT_RETURN_IF_ERROR(WriteTable(image, parts, root));
  for (const Part& part : parts) SEALIFT_RETURN_IF_ERROR(CopyInto(fd.get(), image, part));
  if (::fsync(fd.get()) != 0)
    return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("write '{}'", image.string()),
                      "fsync", errno);
  return fd.Close();
}

}  // namespace

Result<ListedExtension> BuildExtension(const ExtensionOptions& options, Signer& signer,
                                       ByteView certificate_der) {
  SEALIFT_RETURN_IF_ERROR(CheckOptions(options));
  SEALIFT_ASSIGN_OR_RETURN(const TempDir work, TempDir::Create("extension"));
  SEALIFT_ASSIGN_OR_RETURN(const ExtensionRelease release, Stage(options, work.path() / "tree"));
  const fs::path data = work.path() / "data";
  const fs::path hashes = work.path() / "hashes";
  SEALIFT_RETURN_IF_ERROR(MakeSquashfs(work.path() / "tree", data, options.built));
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest root, MakeHashes(options, data, hashes));
  const std::string message = root.hex();
  const std::array<ByteView, 1> pieces = {AsBytes(message)};
  SEALIFT_ASSIGN_OR_RETURN(
      const Bytes pkcs7,
      efi::BuildSignedData({.content_type = kDataOid,
                            .content = {},
                            .message = pieces,
                            .content_info = true,
                            .certificate = certificate_der,
                            .intent = fmt::format("extension {} {}", options.name, options.version),
                            .signer_kind = efi::SignerKind::kRsaOrP256},
                           signer));
  const fs::path signature = work.path() / "signature";
  SEALIFT_RETURN_IF_ERROR(
      WriteFileAtomically(signature, AsBytes(ddi::FormatVeritySignature(root, certificate_der, pkcs7))));
  const ddi::PartitionIds ids = ddi::IdsOf(root);
  SEALIFT_ASSIGN_OR_RETURN(const efi::Guid signature_id,
                           efi::Guid::FromBytes(Sha256(AsBytes(message)).view().first(16)));
  const fs::path partial = options.out.string() + ".partial";
  const auto finish = [&]() -> Result<ListedExtension> {
    SEALIFT_RETURN_IF_ERROR(Assemble(
        partial,
        {{.type = ddi::kRootX86, .id = ids.data, .name = options.name, .file = data},
         {.type = ddi::kRootX86Verity, .id = ids.hashes, .name = options.name + "-verity", .file = hashes},
         {.type = ddi::kRootX86VeritySignature,
          .id = signature_id,
          .name = options.name + "-verity-sig",
          .file = signature}},
        root));
    // As a node will look at it.
    const std::vector<Bytes> certificates = {ToBytes(certificate_der)};
    SEALIFT_ASSIGN_OR_RETURN(const ddi::ExtensionImage image, ddi::ExtensionImage::Open(partial));
    SEALIFT_RETURN_IF_ERROR(image.Verify(certificates));
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, content::HashFile(image.path(), image.file_size()));
    if (::rename(partial.c_str(), options.out.c_str()) != 0)
      return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable,
                        fmt::format("write '{}'", options.out.string()), "rename", errno);
    return ListedExtension{.name = options.name,
                           .version = options.version,
                           .digest = digest,
                           .size = image.file_size(),
                           .root_hash = root,
                           .os_id = release.os_id,
                           .os_version_id = release.os_version_id,
                           .kind = options.kind};
  };
  Result<ListedExtension> built = finish();
  std::error_code ignored;  // What is not there needs not be removed.
  if (!built.ok()) fs::remove(partial, ignored);
  return built;
}

Result<ListedExtension> DescribeExtension(const fs::path& path, std::span<const Bytes> certificates) {
  SEALIFT_ASSIGN_OR_RETURN(const ddi::ExtensionImage image, ddi::ExtensionImage::Open(path));
  SEALIFT_RETURN_IF_ERROR(image.Verify(certificates));
  const ExtensionKind kind = ExtensionKindOfFile(path.filename().string());
  const std::string name =
      kind == ExtensionKind::kConfiguration ? path.stem().stem().string() : path.stem().string();
  if (path.extension() != ".raw" || !IsValidExtensionName(name)) {
    return MakeError(Code::kInvalidArgument, Reason::kExtensionInvalid,
                     fmt::format("read extension '{}': its file is not called NAME.raw or NAME.confext.raw",
                                 path.string()));
  }
  SEALIFT_ASSIGN_OR_RETURN(const CommandOutput output,
                           RunCommand({.argv = {"unsquashfs", "-o", std::to_string(image.data_offset()),
                                                "-cat", path.string(), ExtensionReleasePath(kind, name)},
                                       .max_output_bytes = kMaxExtensionReleaseBytes}));
  const ExtensionRelease release = ParseExtensionRelease(kind, output.out);
  if (output.exit_code != 0 || release.os_id.empty() || !IsValidVersion(release.version)) {
    return MakeError(Code::kFailedPrecondition, Reason::kExtensionInvalid,
                     fmt::format("read extension '{}': it has no {} that names an OS and a version",
                                 path.string(), ExtensionReleasePath(kind, name)));
  }
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, content::HashFile(image.path(), image.file_size()));
  return ListedExtension{.name = name,
                         .version = release.version,
                         .digest = digest,
                         .size = image.file_size(),
                         .root_hash = image.root_hash(),
                         .os_id = release.os_id,
                         .os_version_id = release.os_version_id,
                         .kind = kind};
}

}  // namespace sealift::extension
