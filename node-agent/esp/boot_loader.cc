// The boot loader of a release: staged beside the images, installed with the one it was predicted with.
//
// Two copies lie on the ESP: the one that our boot option names, and the one that firmware finds by itself.
// The first is complete and durable before the second is touched.
#include <fmt/format.h>

#include "node-agent/esp/boot_options.h"
#include "node-agent/esp/esp_stager.h"
#include "shared/base/ids.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "shared/efi/authenticode.h"
#include "shared/efi/pe_image.h"
#include "shared/uki/sections.h"

namespace sealift::agent {
namespace {

constexpr std::uint64_t kMaxLoaderBytes = 16u << 20;
constexpr std::string_view kComponent = "systemd-boot";

Result<std::string> VersionOf(ByteView bytes) {
  SEALIFT_ASSIGN_OR_RETURN(const efi::PeImage image, efi::PeImage::Parse(bytes));
  const Result<uki::SystemdMagic> magic = uki::ReadSystemdMagic(image);
  if (magic.ok() && magic->component == kComponent) return magic->version;
  return MakeError(Code::kInvalidArgument, Reason::kImageMalformed,
                   "read the boot loader: it does not say that it is one of systemd");
}

}  // namespace

std::string StagedLoaderPath(const Sha256Digest& digest) {
  return fmt::format("{}/{}-{}.efi", kImagesDirectory, kComponent, digest.hex().substr(0, 12));
}

Result<std::string> EspStager::CheckBootLoader(ByteView bytes, const BootLoader& expected) {
  if (bytes.size() != expected.size || Sha256(bytes) != expected.digest) {
    return MakeError(Code::kInvalidArgument, Reason::kImageDigestMismatch,
                     "verify the boot loader: it is not the release's");
  }
  SEALIFT_ASSIGN_OR_RETURN(const efi::AuthorisedImage authorised, Authorise(bytes));
  if (expected.authenticode && *expected.authenticode != authorised.digest) {
    return MakeError(Code::kInvalidArgument, Reason::kImageDigestMismatch,
                     "verify the boot loader: its Authenticode digest is not the release's");
  }
  return VersionOf(bytes);
}

Result<bool> EspStager::BootLoaderInstalled(const Sha256Digest& digest) {
  for (const std::string_view copy : {kNamedLoader, kFallbackLoader}) {
    const auto there = fs_->Measure(copy);
    if (there.status().code() == Code::kNotFound) return false;
    SEALIFT_RETURN_IF_ERROR(there.status());
    if (there->digest != digest) return false;
  }
  return true;
}

Result<std::optional<Sha256Digest>> EspStager::WantBootLoader(const BootLoader& loader,
                                                              const std::string& version) {
  SEALIFT_ASSIGN_OR_RETURN(const bool done, BootLoaderInstalled(loader.digest));
  if (done) return std::optional<Sha256Digest>();
  const Result<Bytes> there = fs_->Read(kFallbackLoader, kMaxLoaderBytes);
  if (!there.ok() && there.status().code() != Code::kNotFound) return there.status();
  const Result<std::string> installed = there.ok() ? VersionOf(*there) : there.status();
  if (!installed.ok() || CompareVersions(version, *installed) >= 0) return std::optional(loader.digest);
  log::Info("the boot loader stays: it is newer than the release's", {{"version", *installed}});
  return std::optional<Sha256Digest>();
}

Result<std::optional<Sha256Digest>> EspStager::FindBootLoader(const ImageExpectations& expectations) {
  if (!expectations.boot_loader) return std::optional<Sha256Digest>();
  const BootLoader& loader = *expectations.boot_loader;
  SEALIFT_ASSIGN_OR_RETURN(const bool done, BootLoaderInstalled(loader.digest));
  if (done) return std::optional<Sha256Digest>();
  const std::string path = StagedLoaderPath(loader.digest);
  const Result<Bytes> bytes = fs_->Read(path, loader.size);
  if (!bytes.ok() || bytes->size() != loader.size || Sha256(*bytes) != loader.digest) {
    return MakeError(Code::kNotFound, Reason::kImageNotStaged,
                     fmt::format("find '{}' on the ESP: it is not there, or holds other bytes", path));
  }
  SEALIFT_ASSIGN_OR_RETURN(const std::string version, CheckBootLoader(*bytes, loader));
  return WantBootLoader(loader, version);
}

Status EspStager::ReplaceWithCopy(const std::string& from, const std::string& to,
                                  const Sha256Digest& digest) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, fs_->Read(from, kMaxLoaderBytes));
  if (Sha256(bytes) != digest) {
    return MakeError(Code::kNotFound, Reason::kImageNotStaged,
                     fmt::format("find '{}' on the ESP: its content is another", from));
  }
  SEALIFT_RETURN_IF_ERROR(fs_->MakeDurableDirectory(ParentOf(to)));
  SEALIFT_RETURN_IF_ERROR(fs_->Replace(to, bytes));
  SEALIFT_ASSIGN_OR_RETURN(const FileSystem::Measured written, fs_->Measure(to));
  if (written.digest == digest) return OkStatus();
  return MakeError(Code::kDataLoss, Reason::kEspReadbackMismatch,
                   fmt::format("read back '{}': {} bytes with another digest", to, written.size));
}

Status EspStager::InstallBootLoader(const Sha256Digest& digest) {
  const std::string staged = StagedLoaderPath(digest);
  for (const std::string_view copy : {kNamedLoader, kFallbackLoader}) {
    const auto there = fs_->Measure(copy);
    if (there.ok() && there->digest == digest) continue;
    SEALIFT_RETURN_IF_ERROR(ReplaceWithCopy(staged, std::string(copy), digest));
    log::Info("boot loader replaced", {{"path", std::string(copy)}, {"digest", digest.hex()}});
  }
  return OkStatus();
}

}  // namespace sealift::agent
