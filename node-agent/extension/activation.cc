#include "node-agent/extension/activation.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <span>

#include "node-agent/esp/os_release.h"
#include "shared/base/files.h"
#include "shared/content/download.h"
#include "shared/crypto/certificate.h"
#include "shared/release/extension_list.h"

namespace sealift::agent {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxListBytes = 256u << 10;
constexpr std::uint64_t kMaxCertificateBytes = 64u << 10;
constexpr std::uint64_t kMaxOsReleaseBytes = 64u << 10;
constexpr std::size_t kMaxFiles = 1024;
constexpr const char* kSystemHierarchies[] = {"usr", "opt"};
constexpr const char* kConfigurationHierarchies[] = {"etc"};

// What the image says.
struct Trusted {
  std::vector<ListedExtension> list;
  // DER.
  std::vector<Bytes> certificates;
  std::string os_id;
  std::string os_version_id;
};

Result<Trusted> ReadTrusted(const fs::path& root) {
  Trusted trusted;
  std::error_code error;
  if (!fs::exists(root / kExtensionListPath, error)) return trusted;
  SEALIFT_ASSIGN_OR_RETURN(const std::string list, ReadTextFile(root / kExtensionListPath, kMaxListBytes));
  SEALIFT_ASSIGN_OR_RETURN(trusted.list, ParseExtensionList(list));
  SEALIFT_ASSIGN_OR_RETURN(const std::string pem,
                           ReadTextFile(root / kExtensionCertificatesPath, kMaxCertificateBytes));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<Certificate> certificates, Certificate::ChainFromPem(pem));
  for (const Certificate& one : certificates) trusted.certificates.push_back(one.der());
  // As os-release(5) says, and the builder does.
  const char* place = fs::exists(root / "etc/os-release", error) ? "etc/os-release" : "usr/lib/os-release";
  SEALIFT_ASSIGN_OR_RETURN(const std::string os, ReadTextFile(root / place, kMaxOsReleaseBytes));
  trusted.os_id = OsReleaseValue(os, "ID");
  trusted.os_version_id = OsReleaseValue(os, "VERSION_ID");
  return trusted;
}

// "*.raw" in the order of their names; what else lies there is nothing the stub would bring.
Result<std::vector<fs::path>> ImagesIn(const fs::path& folder) {
  std::vector<fs::path> images;
  std::error_code error;
  if (!fs::exists(folder, error)) return images;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().extension() == ".raw") images.push_back(entry->path());
    if (images.size() > kMaxFiles)
      return MakeError(Code::kInvalidArgument, Reason::kExtensionInvalid,
                       fmt::format("read '{}': more than {} files", folder.string(), kMaxFiles));
  }
  if (error) {
    return MakeError(Code::kUnavailable, Reason::kFileUnreadable,
                     fmt::format("read '{}': {}", folder.string(), error.message()));
  }
  std::ranges::sort(images);
  return images;
}

Result<ddi::ExtensionImage> Check(const fs::path& file, ExtensionKind kind, const Trusted& trusted) {
  const std::string name = file.filename();
  const auto listed = std::ranges::find_if(
      trusted.list, [&](const ListedExtension& one) { return one.kind == kind && one.FileName() == name; });
  const auto not_listed = [&](std::string_view what) {
    return MakeError(Code::kPermissionDenied, Reason::kExtensionNotListed,
                     fmt::format("use extension '{}': {}", file.filename().string(), what));
  };
  if (listed == trusted.list.end()) return not_listed("the image lists none of this name");
  SEALIFT_ASSIGN_OR_RETURN(ddi::ExtensionImage image, ddi::ExtensionImage::Open(file));
  // A foreign signature is the better thing to be told of, so it is looked at first.
  SEALIFT_RETURN_IF_ERROR(image.Verify(trusted.certificates));
  const auto digest = content::HashFile(file, listed->size);
  if (!digest.ok() && ReasonOf(digest.status()) != Reason::kFileTooLarge) return digest.status();
  if (!digest.ok() || *digest != listed->digest || image.root_hash() != listed->root_hash)
    return not_listed("it is signed, but not the file that the image lists under this name");
  SEALIFT_RETURN_IF_ERROR(CheckExtensionFits(*listed, trusted.os_id, trusted.os_version_id));
  return image;
}

// Files of one kind that passed.
struct CheckedKind {
  std::vector<ddi::ExtensionImage> images;
  std::span<const char* const> hierarchies;
};

Result<CheckedKind> CheckFolder(const fs::path& folder, ExtensionKind kind, const Trusted& trusted,
                                Activation& activation) {
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<fs::path> files, ImagesIn(folder));
  CheckedKind checked;
  for (const fs::path& file : files) {
    auto image = Check(file, kind, trusted);
    if (image.ok()) {
      checked.images.push_back(*std::move(image));
    } else {
      activation.refused.push_back({.name = file.filename(), .why = image.status()});
    }
  }
  for (const ListedExtension& one : trusted.list) {
    const auto is_its = [&](const fs::path& file) { return file.filename() == one.FileName(); };
    if (one.kind != kind || std::ranges::any_of(files, is_its)) continue;
    activation.refused.push_back(
        {.name = one.name,
         .why = MakeError(
             Code::kNotFound, Reason::kExtensionInvalid,
             fmt::format("use extension '{}': it is listed and does not lie beside the image", one.name))});
  }
  return checked;
}

}  // namespace

Result<Activation> ActivateExtensions(const ActivationPlaces& places, Mounter& mounter) {
  SEALIFT_ASSIGN_OR_RETURN(const Trusted trusted, ReadTrusted(places.root));
  Activation activation;
  SEALIFT_ASSIGN_OR_RETURN(CheckedKind system,
                           CheckFolder(places.images, ExtensionKind::kSystem, trusted, activation));
  SEALIFT_ASSIGN_OR_RETURN(
      CheckedKind configuration,
      CheckFolder(places.configurations, ExtensionKind::kConfiguration, trusted, activation));
  system.hierarchies = kSystemHierarchies;
  configuration.hierarchies = kConfigurationHierarchies;
  std::map<std::string, std::vector<fs::path>> layers;
  for (const CheckedKind* kind : {&system, &configuration}) {
    for (const ddi::ExtensionImage& image : kind->images) {
      // Short: the names of all go into one mount option.
      const fs::path on = places.mounts / std::to_string(activation.merged.size());
      SEALIFT_RETURN_IF_ERROR(mounter.MountImage(image.path(), image.data_offset(), image.data_bytes(), on));
      for (const char* hierarchy : kind->hierarchies) {
        std::error_code error;
        // The later name lies on top, as systemd orders them.
        if (fs::is_directory(fs::symlink_status(on / hierarchy, error)))
          layers[hierarchy].insert(layers[hierarchy].begin(), on / hierarchy);
      }
      activation.merged.push_back(image.path().stem());
    }
  }
  // The OS writes to /etc while it runs, as it did before.
  for (const auto& [hierarchy, over] : layers) {
    const fs::path changes = hierarchy == "etc" ? places.mounts / "etc-changes" : fs::path();
    SEALIFT_RETURN_IF_ERROR(mounter.Overlay(over, places.root / hierarchy, changes));
  }
  return activation;
}

}  // namespace sealift::agent
