#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "node-agent/esp/esp_stager.h"
#include "node-agent/esp/os_release.h"
#include "shared/base/untrusted_files.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/public_key.h"
#include "shared/efi/authenticode.h"
#include "shared/efi/pe_image.h"
#include "shared/efi/signature_list.h"
#include "shared/uki/companion_archive.h"

namespace sealift::agent {
namespace {

// Above any image that firmware can load into memory.
constexpr std::uint64_t kMaxImageBytes = 1ull << 30;

Result<efi::SignatureLists> ReadDatabase(EfiVariables& variables, std::string_view name) {
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<Bytes> value, variables.Read(name, kImageSecurityVendor));
  if (!value) return efi::SignatureLists();
  const Result<efi::SignatureLists> lists = efi::ParseSignatureLists(*value);
  if (lists.ok()) return *lists;
  // Says nothing about the image, so it must not count against the version.
  return MakeError(Code::kUnavailable, Reason::kFirmwareVariableUnreadable,
                   fmt::format("read the firmware's {}: {}", name, MessageOf(lists.status())));
}

Result<ByteView> Section(const efi::PeImage& image, std::string_view name) {
  const efi::PeSection* section = image.Find(name);
  if (section == nullptr) {
    return MakeError(Code::kInvalidArgument, Reason::kImageMalformed,
                     fmt::format("read the image: it has no {} section", name));
  }
  return image.Contents(*section);
}

Status CheckBytes(ByteView bytes, const ImageExpectations& expected) {
  if (bytes.size() < expected.size) {
    return MakeError(
        Code::kInvalidArgument, Reason::kImageTruncated,
        fmt::format("verify image {}: {} of {} bytes", expected.version, bytes.size(), expected.size));
  }
  if (bytes.size() != expected.size || Sha256(bytes) != expected.digest) {
    return MakeError(Code::kInvalidArgument, Reason::kImageDigestMismatch,
                     fmt::format("verify image {}: its digest is not the release's", expected.version));
  }
  return OkStatus();
}

Result<Sha256Digest> CheckPcrKey(const efi::PeImage& image, const ImageExpectations& expected) {
  SEALIFT_ASSIGN_OR_RETURN(const ByteView pem, Section(image, ".pcrpkey"));
  const Result<PublicKey> key = PublicKey::FromPem(AsText(pem));
  if (!key.ok()) {
    return MakeError(Code::kInvalidArgument, Reason::kImageMalformed,
                     fmt::format("read .pcrpkey: {}", MessageOf(key.status())));
  }
  const Sha256Digest id = key->key_id();
  const std::vector<Sha256Digest>& allowed = expected.allowed_pcr_keys;
  if (std::find(allowed.begin(), allowed.end(), id) == allowed.end()) {
    return MakeError(Code::kInvalidArgument, Reason::kImagePcrKeyUnknown,
                     fmt::format("verify image {}: its PCR policy key {} is not among the {} of the release",
                                 expected.version, id.hex(), allowed.size()));
  }
  return id;
}

Status CheckVersion(const efi::PeImage& image, const ImageExpectations& expected) {
  SEALIFT_ASSIGN_OR_RETURN(const ByteView osrel, Section(image, ".osrel"));
  SEALIFT_ASSIGN_OR_RETURN(const std::string version, OsReleaseVersion(AsText(osrel)));
  if (version == expected.version) return OkStatus();
  return MakeError(Code::kInvalidArgument, Reason::kImageVersionMismatch,
                   fmt::format("verify image {}: it says it is {}", expected.version, version));
}

Result<std::uint64_t> FileSize(const UniqueFd& fd, const std::filesystem::path& path) {
  struct stat info {};
  if (::fstat(fd.get(), &info) == 0) return static_cast<std::uint64_t>(info.st_size);
  return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable, fmt::format("read '{}'", path.string()),
                    "fstat", errno);
}

// Older manifests say nothing.
bool MeasuresAs(const uki::PcrPrediction& prediction, const std::optional<Sha256Digest>& event) {
  return !event || (prediction.events.size() == 1 && prediction.events.front().digest == *event);
}

Status CheckCompanions(const LocalImage& local, const ImageExpectations& expected) {
  SEALIFT_CHECK(local.companions.size() == expected.companions.size());
  std::vector<UniqueFd> files;
  std::vector<uki::CompanionFile> measured;
  for (std::size_t i = 0; i < expected.companions.size(); ++i) {
    const Companion& companion = expected.companions[i];
    // The partition they lie on is not trusted.
    SEALIFT_ASSIGN_OR_RETURN(UniqueFd fd, OpenRegularFile(local.companions[i]));
    SEALIFT_ASSIGN_OR_RETURN(const std::uint64_t size, FileSize(fd, local.companions[i]));
    const bool same_size = size == companion.size;
    const uki::ContentSource content(fd, local.companions[i].string(), 0, size);
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest,
                             same_size ? uki::DigestSource(content) : Result<Sha256Digest>(Sha256Digest()));
    if (!same_size || digest != companion.digest) {
      return MakeError(Code::kInvalidArgument, Reason::kImageDigestMismatch,
                       fmt::format("verify image {}: extension '{}' is not the release's", expected.version,
                                   companion.name));
    }
    files.push_back(std::move(fd));
    measured.push_back({.name = companion.name, .content = content});
  }
  SEALIFT_ASSIGN_OR_RETURN(const uki::PcrPrediction pcr13, uki::PredictPcr13(measured));
  SEALIFT_ASSIGN_OR_RETURN(const uki::PcrPrediction confexts, uki::PredictConfexts(measured));
  if (MeasuresAs(pcr13, expected.pcr13_event) && MeasuresAs(confexts, expected.pcr12_event))
    return OkStatus();
  return MakeError(Code::kInvalidArgument, Reason::kExtensionInvalid,
                   fmt::format("verify image {}: its {} extensions do not measure as the release says",
                               expected.version, measured.size()));
}

}  // namespace

Result<efi::AuthorisedImage> EspStager::Authorise(ByteView bytes) {
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists db, ReadDatabase(*variables_, "db"));
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists dbx, ReadDatabase(*variables_, "dbx"));
  return efi::VerifyImage(bytes, db, dbx);
}

Result<EspStager::Checked> EspStager::CheckImage(ByteView bytes, const ImageExpectations& expectations) {
  SEALIFT_RETURN_IF_ERROR(CheckBytes(bytes, expectations));
  SEALIFT_ASSIGN_OR_RETURN(const efi::AuthorisedImage authorised, Authorise(bytes));
  if (expectations.authenticode && *expectations.authenticode != authorised.digest) {
    return MakeError(
        Code::kInvalidArgument, Reason::kImageDigestMismatch,
        fmt::format("verify image {}: its Authenticode digest is not the release's", expectations.version));
  }
  SEALIFT_ASSIGN_OR_RETURN(const efi::PeImage image, efi::PeImage::Parse(bytes));
  SEALIFT_RETURN_IF_ERROR(CheckVersion(image, expectations));
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest pcr_key, CheckPcrKey(image, expectations));
  return Checked{
      .authenticode = authorised.digest, .signer = Sha256(authorised.signer_certificate), .pcr_key = pcr_key};
}

Result<VerifiedImage> EspStager::VerifyImage(const LocalImage& local, const ImageExpectations& expectations) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadRegularFile(local.file, kMaxImageBytes));
  SEALIFT_ASSIGN_OR_RETURN(const Checked checked, CheckImage(bytes, expectations));
  SEALIFT_RETURN_IF_ERROR(CheckCompanions(local, expectations));
  std::vector<VerifiedImage::LocalCompanion> companions;
  for (std::size_t i = 0; i < expectations.companions.size(); ++i)
    companions.push_back({.what = expectations.companions[i], .file = local.companions[i]});
  std::optional<VerifiedImage::LocalBootLoader> boot_loader;
  if (expectations.boot_loader) {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes loader, ReadRegularFile(local.boot_loader, kMaxImageBytes));
    SEALIFT_ASSIGN_OR_RETURN(const std::string version, CheckBootLoader(loader, *expectations.boot_loader));
    boot_loader = {.what = *expectations.boot_loader, .file = local.boot_loader, .version = version};
  }
  return VouchForImage({.file = local.file,
                        .version = expectations.version,
                        .digest = expectations.digest,
                        .size = expectations.size,
                        .authenticode = checked.authenticode,
                        .signer = checked.signer,
                        .pcr_key = checked.pcr_key,
                        .companions = std::move(companions),
                        .boot_loader = std::move(boot_loader)});
}

}  // namespace sealift::agent
