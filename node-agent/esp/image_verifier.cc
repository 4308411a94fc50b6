#include <fmt/format.h>

#include <algorithm>

#include "node-agent/esp/esp_stager.h"
#include "node-agent/esp/os_release.h"
#include "shared/base/untrusted_files.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/public_key.h"
#include "shared/efi/authenticode.h"
#include "shared/efi/pe_image.h"
#include "shared/efi/signature_list.h"

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

}  // namespace

Result<EspStager::Checked> EspStager::CheckImage(ByteView bytes, const ImageExpectations& expectations) {
  SEALIFT_RETURN_IF_ERROR(CheckBytes(bytes, expectations));
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists db, ReadDatabase(*variables_, "db"));
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists dbx, ReadDatabase(*variables_, "dbx"));
  SEALIFT_ASSIGN_OR_RETURN(const efi::AuthorisedImage authorised, efi::VerifyImage(bytes, db, dbx));
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

Result<VerifiedImage> EspStager::VerifyImage(const std::filesystem::path& file,
                                             const ImageExpectations& expectations) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadRegularFile(file, kMaxImageBytes));
  SEALIFT_ASSIGN_OR_RETURN(const Checked checked, CheckImage(bytes, expectations));
  return VouchForImage({.file = file,
                        .version = expectations.version,
                        .digest = expectations.digest,
                        .size = expectations.size,
                        .authenticode = checked.authenticode,
                        .signer = checked.signer,
                        .pcr_key = checked.pcr_key});
}

}  // namespace sealift::agent
