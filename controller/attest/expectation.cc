#include "controller/attest/expectation.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"

namespace sealift::controller {
namespace {

constexpr std::uint32_t kBootPcr = 4;
constexpr std::uint32_t kSecureBootPcr = 7;
constexpr std::uint32_t kImagePcr = 11;
constexpr std::uint32_t kParameterPcr = 12;
constexpr std::uint32_t kExtensionPcr = 13;

Status BadManifest(std::string_view cause) {
  return MakeError(Code::kInvalidArgument, Reason::kReleaseManifestInvalid,
                   fmt::format("predict registers: {}", cause));
}

ExpectedValue FromPrediction(std::string label, const uki::PcrPrediction& prediction) {
  ExpectedValue value{.label = std::move(label), .value = prediction.Value(), .events = {}};
  for (const uki::MeasuredEvent& event : prediction.events) {
    value.events.push_back({.description = event.description, .digest = event.digest});
  }
  return value;
}

Result<unsigned> StubMajor(const std::string& version) {
  unsigned major = 0;
  const auto [end, error] = std::from_chars(version.data(), version.data() + version.size(), major);
  if (error != std::errc() || end == version.data()) {
    return BadManifest(fmt::format("stub version '{}' has no number", version));
  }
  return major;
}

Result<ReleaseFile> ImageWithDigest(const Manifest& manifest, FileRole role) {
  SEALIFT_ASSIGN_OR_RETURN(ReleaseFile file, manifest.OnlyFile(role));
  if (!file.authenticode.has_value()) {
    return BadManifest(fmt::format("{} has no Authenticode digest", file.path));
  }
  return file;
}

Result<std::vector<ExpectedValue>> ExpectPcr11(const Manifest& manifest) {
  SEALIFT_ASSIGN_OR_RETURN(const unsigned stub_major, StubMajor(manifest.stub_version));
  std::vector<ExpectedValue> values;
  for (const PhasePrediction& phase : manifest.pcr11) {
    SEALIFT_ASSIGN_OR_RETURN(const uki::PcrPrediction prediction,
                             uki::PredictPcr11(manifest.sections, stub_major, phase.phase));
    values.push_back(FromPrediction(
        phase.phase.empty() ? "no phase yet" : fmt::format("phase {}", phase.phase), prediction));
    if (values.back().value != phase.pcr11) {
      return BadManifest(fmt::format("its PCR 11 at '{}' does not follow from its sections", phase.phase));
    }
  }
  if (values.empty()) return BadManifest("it states no PCR 11");
  return values;
}

// Firmware measures the db entry that let an image pass; which of several generations that is, is its choice.
Result<std::vector<ExpectedValue>> ExpectPcr7(const Manifest& manifest, const KeySet& keys) {
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists db, efi::ParseSignatureLists(keys.variables.db));
  std::vector<ExpectedValue> values;
  for (const efi::SignatureList& list : db) {
    for (const efi::SignatureEntry& entry : list.entries) {
      const Sha256Digest certificate = Sha256(entry.data);
      if (std::ranges::find(manifest.secure_boot_certificates, certificate) ==
          manifest.secure_boot_certificates.end()) {
        continue;
      }
      values.push_back(FromPrediction(fmt::format("db certificate {}", certificate.hex().substr(0, 12)),
                                      uki::PredictPcr7(keys.variables, std::span(&entry, 1))));
    }
  }
  if (values.empty()) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     "predict registers: no certificate in db is one that signed the release");
  }
  return values;
}

}  // namespace

Result<KeySet> LoadKeySet(const std::filesystem::path& folder) {
  KeySet keys;
  SEALIFT_ASSIGN_OR_RETURN(keys.variables.pk, ReadFile(folder / "PK.esl", efi::kMaxSignatureListBytes));
  SEALIFT_ASSIGN_OR_RETURN(keys.variables.kek, ReadFile(folder / "KEK.esl", efi::kMaxSignatureListBytes));
  SEALIFT_ASSIGN_OR_RETURN(keys.variables.db, ReadFile(folder / "db.esl", efi::kMaxSignatureListBytes));
  if (std::filesystem::exists(folder / "dbx.esl")) {
    SEALIFT_ASSIGN_OR_RETURN(keys.variables.dbx, ReadFile(folder / "dbx.esl", efi::kMaxSignatureListBytes));
  }
  for (const Bytes* list :
       {&keys.variables.pk, &keys.variables.kek, &keys.variables.db, &keys.variables.dbx}) {
    const auto parsed = efi::ParseSignatureLists(*list);
    if (!parsed.ok()) return Annotate(parsed.status(), fmt::format("load key set '{}'", folder.string()));
  }
  return keys;
}

Result<AllowedBootLoader> BootLoaderOf(const Manifest& manifest) {
  SEALIFT_ASSIGN_OR_RETURN(const ReleaseFile file, ImageWithDigest(manifest, FileRole::kBootLoader));
  return AllowedBootLoader{.name = file.path, .authenticode = *file.authenticode};
}

Result<ExpectedRelease> ExpectRelease(std::string_view manifest_json, const KeySet& keys,
                                      std::span<const AllowedBootLoader> boot_loaders) {
  SEALIFT_ASSIGN_OR_RETURN(const Manifest manifest, ParseManifest(manifest_json));
  SEALIFT_ASSIGN_OR_RETURN(const ReleaseFile image, ImageWithDigest(manifest, FileRole::kUki));
  ExpectedRelease expected{.id = ReleaseIdOf(manifest_json),
                           .version = manifest.version,
                           .registers = {},
                           .allowed_images = {*image.authenticode},
                           .uki = *image.authenticode};
  for (const AllowedBootLoader& loader : boot_loaders) {
    const std::array<uki::StartedImage, 2> images{
        uki::StartedImage{.name = loader.name, .authenticode = loader.authenticode},
        uki::StartedImage{.name = image.path, .authenticode = *image.authenticode}};
    expected.registers[kBootPcr].push_back(FromPrediction(
        fmt::format("boot loader {}", loader.authenticode.hex().substr(0, 12)), uki::PredictPcr4(images)));
    expected.allowed_images.push_back(loader.authenticode);
  }
  if (boot_loaders.empty()) return BadManifest("no boot loader is known");
  SEALIFT_ASSIGN_OR_RETURN(expected.registers[kSecureBootPcr], ExpectPcr7(manifest, keys));
  SEALIFT_ASSIGN_OR_RETURN(expected.registers[kImagePcr], ExpectPcr11(manifest));
  expected.registers[kParameterPcr] = {FromPrediction("no parameters", uki::PredictPcr12(""))};
  expected.registers[kExtensionPcr] = {{.label = "no extensions", .value = {}, .events = {}}};
  return expected;
}

Result<std::shared_ptr<const std::vector<ExpectedRelease>>> ReleaseExpectations::Candidates() {
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<ReleaseRecord> records, releases_.List(""));
  std::vector<ReleaseId> ids;
  for (const ReleaseRecord& record : records) ids.push_back(record.release_id);
  const std::lock_guard lock(mutex_);
  if (candidates_ != nullptr && ids == known_) return candidates_;

  std::vector<AllowedBootLoader> loaders;
  for (const ReleaseRecord& record : records) {
    const auto manifest = ParseManifest(record.manifest_json);
    if (!manifest.ok()) continue;  // told below, where the whole release is predicted
    const auto loader = BootLoaderOf(*manifest);
    const auto same = [&](const AllowedBootLoader& one) { return one.authenticode == loader->authenticode; };
    if (loader.ok() && std::ranges::none_of(loaders, same)) loaders.push_back(*loader);
  }
  auto candidates = std::make_shared<std::vector<ExpectedRelease>>();
  for (const ReleaseRecord& record : records) {
    auto expected = ExpectRelease(record.manifest_json, keys_, loaders);
    if (expected.ok()) {
      candidates->push_back(*std::move(expected));
    } else {
      log::Warning("release cannot be attested",
                   {{"version", record.version}, {"error", Describe(expected.status())}});
    }
  }
  known_ = std::move(ids);
  candidates_ = std::move(candidates);
  return candidates_;
}

}  // namespace sealift::controller
