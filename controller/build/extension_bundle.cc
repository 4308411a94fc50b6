#include "controller/build/extension_bundle.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "controller/build/agent.h"
#include "controller/extension/extension_builder.h"
#include "shared/crypto/certificate.h"
#include "shared/uki/companion_archive.h"

namespace sealift::build {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kUnitPath = "usr/lib/systemd/system/sealift-extensions.service";

std::vector<ParameterEvent> EventsOf(const uki::PcrPrediction& prediction) {
  std::vector<ParameterEvent> events;
  for (const uki::MeasuredEvent& event : prediction.events)
    events.push_back({.description = event.description, .digest = event.digest});
  return events;
}

Status Measure(ExtensionBundle& bundle) {
  std::vector<UniqueFd> opened;
  std::vector<uki::CompanionFile> companions;
  for (std::size_t i = 0; i < bundle.list.size(); ++i) {
    const std::string path = bundle.files[i].string();
    opened.emplace_back(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!opened.back().valid())
      return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable, fmt::format("read '{}'", path), "open",
                        errno);
    companions.push_back({.name = bundle.list[i].FileName(),
                          .content = uki::ContentSource(opened.back(), path, 0, bundle.list[i].size)});
  }
  SEALIFT_ASSIGN_OR_RETURN(const uki::PcrPrediction pcr13, uki::PredictPcr13(companions));
  SEALIFT_ASSIGN_OR_RETURN(const uki::PcrPrediction confexts, uki::PredictConfexts(companions));
  bundle.pcr13 = EventsOf(pcr13);
  bundle.pcr12 = EventsOf(confexts);
  return OkStatus();
}

Status CheckStub(const ListedExtension& extension, unsigned stub_major) {
  if (extension.kind == ExtensionKind::kSystem || stub_major >= uki::kStubThatTakesConfexts)
    return OkStatus();
  return MakeError(
      Code::kInvalidArgument, Reason::kUkiStubUnsupported,
      fmt::format("bundle extension '{}': systemd-stub {} takes configuration extensions for system "
                  "extensions, and {} is the first that does not",
                  extension.name, stub_major, uki::kStubThatTakesConfexts));
}

Status Sync(const fs::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.valid() && ::fsync(fd.get()) == 0) return OkStatus();
  return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("write '{}'", path.string()),
                    "fsync", errno);
}

Status CheckDistinct(const std::vector<ListedExtension>& list, const std::string& name) {
  // FAT does not tell case apart.
  const auto same = [&name](const ListedExtension& one) {
    return std::ranges::equal(
        one.name, name, [](unsigned char a, unsigned char b) { return std::tolower(a) == std::tolower(b); });
  };
  if (std::ranges::none_of(list, same)) return OkStatus();
  return MakeError(Code::kInvalidArgument, Reason::kExtensionInvalid,
                   fmt::format("bundle extension '{}': there is one of this name already", name));
}

}  // namespace

Result<ExtensionBundle> BundleExtensions(std::span<const fs::path> files, std::span<const Bytes> certificates,
                                         const OsRelease& os_release, unsigned stub_major, Tree& tree) {
  ExtensionBundle bundle;
  if (files.empty()) return bundle;
  for (const std::string_view needed : {kAgentPath, kUnitPath}) {
    if (!tree.Resolve(needed).empty()) continue;
    return MakeError(Code::kFailedPrecondition, Reason::kRootfsUnusable,
                     fmt::format("bundle extensions: the tree has no '{}', which lays them over", needed));
  }
  for (const fs::path& file : files) {
    SEALIFT_ASSIGN_OR_RETURN(ListedExtension extension, extension::DescribeExtension(file, certificates));
    SEALIFT_RETURN_IF_ERROR(CheckStub(extension, stub_major));
    SEALIFT_RETURN_IF_ERROR(CheckDistinct(bundle.list, extension.name));
    SEALIFT_RETURN_IF_ERROR(
        CheckExtensionFits(extension, os_release.Get("ID"), os_release.Get("VERSION_ID")));
    bundle.list.push_back(std::move(extension));
    bundle.files.push_back(file);
  }
  SEALIFT_RETURN_IF_ERROR(Measure(bundle));
  std::string pem;
  for (const Bytes& der : certificates) {
    SEALIFT_ASSIGN_OR_RETURN(const Certificate certificate, Certificate::FromDer(der));
    pem += certificate.Pem();
  }
  tree.PutFile(kExtensionListPath, AsBytes(FormatExtensionList(bundle.list)));
  tree.PutFile(kExtensionCertificatesPath, AsBytes(pem));
  tree.PutLink("etc/systemd/system/sysinit.target.wants/sealift-extensions.service",
               fmt::format("/{}", kUnitPath));
  return bundle;
}

Status WriteExtensions(const ExtensionBundle& bundle, const std::string& image_path, EspTree& esp) {
  for (std::size_t i = 0; i < bundle.list.size(); ++i) {
    const ListedExtension& extension = bundle.list[i];
    const std::string path = fmt::format("{}.extra.d/{}", image_path, extension.FileName());
    SEALIFT_ASSIGN_OR_RETURN(const fs::path place, esp.PlaceFor(path));
    std::error_code error;
    if (!fs::copy_file(bundle.files[i], place, error)) {
      const bool full = error == std::errc::no_space_on_device;
      return MakeError(Code::kUnavailable, full ? Reason::kDiskFull : Reason::kFileUnwritable,
                       fmt::format("write '{}': {}", path, error.message()));
    }
    SEALIFT_RETURN_IF_ERROR(Sync(place));
    SEALIFT_RETURN_IF_ERROR(esp.AddWritten(path, FileRole::kExtension));
    if (esp.files().back().digest != extension.digest) {
      return MakeError(Code::kFailedPrecondition, Reason::kExtensionInvalid,
                       fmt::format("bundle extension '{}': its file changed meanwhile", extension.name));
    }
  }
  return OkStatus();
}

}  // namespace sealift::build
