#include "controller/attest/expectation.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "controller/attest/evidence_file.h"
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

ExpectedValue FromEvents(std::string_view what, const std::vector<ParameterEvent>& events) {
  uki::PcrPrediction prediction;
  for (const ParameterEvent& event : events)
    prediction.events.push_back({.description = event.description, .digest = event.digest});
  return FromPrediction(fmt::format("{} {}", events.empty() ? "no" : "listed", what), prediction);
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

Result<std::vector<efi::SignatureEntry>> DbEntries(const uki::SecureBootVariables& variables,
                                                   std::span<const Sha256Digest> certificates) {
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists db, efi::ParseSignatureLists(variables.db));
  std::vector<efi::SignatureEntry> entries;
  for (const efi::SignatureList& list : db) {
    for (const efi::SignatureEntry& entry : list.entries) {
      if (std::ranges::find(certificates, Sha256(entry.data)) != certificates.end()) entries.push_back(entry);
    }
  }
  return entries;
}

std::string AuthorityLabel(const efi::SignatureEntry& loader, const efi::SignatureEntry& image) {
  const std::string first = Sha256(loader.data).hex().substr(0, 12);
  if (loader == image) return fmt::format("db certificate {}", first);
  return fmt::format("db certificates {}, then {}", first, Sha256(image.data).hex().substr(0, 12));
}

// Firmware measures the db entry that let an image pass, each once; which of several that is, is its choice.
Status AddPcr7(const uki::SecureBootVariables& variables, std::span<const Sha256Digest> loader_certificates,
               std::span<const Sha256Digest> image_certificates, std::string_view keys,
               std::vector<ExpectedValue>& values) {
  SEALIFT_ASSIGN_OR_RETURN(const auto loaders, DbEntries(variables, loader_certificates));
  SEALIFT_ASSIGN_OR_RETURN(const auto images, DbEntries(variables, image_certificates));
  for (const efi::SignatureEntry& loader : loaders) {
    for (const efi::SignatureEntry& image : images) {
      ExpectedValue value = FromPrediction(AuthorityLabel(loader, image) + std::string(keys),
                                           uki::PredictPcr7(variables, std::array{loader, image}));
      const auto same = [&value](const ExpectedValue& one) { return one.value == value.value; };
      if (std::ranges::none_of(values, same)) values.push_back(std::move(value));
    }
  }
  return OkStatus();
}

Result<std::vector<ExpectedValue>> ExpectPcr7(const Manifest& manifest, const KeySet& keys,
                                              std::span<const AllowedBootLoader> boot_loaders) {
  std::vector<Sha256Digest> loader_certificates;
  for (const AllowedBootLoader& loader : boot_loaders) {
    for (const Sha256Digest& certificate : loader.certificates) {
      if (std::ranges::find(loader_certificates, certificate) == loader_certificates.end())
        loader_certificates.push_back(certificate);
    }
  }
  std::vector<ExpectedValue> values;
  const auto add = [&](const uki::SecureBootVariables& variables, std::string_view label) {
    return AddPcr7(variables, loader_certificates, manifest.secure_boot_certificates, label, values);
  };
  SEALIFT_RETURN_IF_ERROR(add(keys.variables, ""));
  for (const uki::SecureBootVariables& earlier : keys.earlier)
    SEALIFT_RETURN_IF_ERROR(add(earlier, " of earlier keys"));
  if (values.empty()) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     "predict registers: no certificate in db is one that signed the release");
  }
  return values;
}

Result<uki::SecureBootVariables> LoadVariables(const std::filesystem::path& folder) {
  uki::SecureBootVariables variables;
  SEALIFT_ASSIGN_OR_RETURN(variables.pk, ReadFile(folder / "PK.esl", efi::kMaxSignatureListBytes));
  SEALIFT_ASSIGN_OR_RETURN(variables.kek, ReadFile(folder / "KEK.esl", efi::kMaxSignatureListBytes));
  SEALIFT_ASSIGN_OR_RETURN(variables.db, ReadFile(folder / "db.esl", efi::kMaxSignatureListBytes));
  if (std::filesystem::exists(folder / "dbx.esl")) {
    SEALIFT_ASSIGN_OR_RETURN(variables.dbx, ReadFile(folder / "dbx.esl", efi::kMaxSignatureListBytes));
  }
  for (const Bytes* list : {&variables.pk, &variables.kek, &variables.db, &variables.dbx}) {
    const auto parsed = efi::ParseSignatureLists(*list);
    if (!parsed.ok()) return Annotate(parsed.status(), fmt::format("load key set '{}'", folder.string()));
  }
  return variables;
}

// One boot loader signed by several generations of the db key has one digest.
void AddLoader(std::vector<AllowedBootLoader>& loaders, const AllowedBootLoader& loader) {
  const auto known = std::ranges::find(loaders, loader.authenticode, &AllowedBootLoader::authenticode);
  if (known == loaders.end()) {
    loaders.push_back(loader);
    return;
  }
  for (const Sha256Digest& certificate : loader.certificates) {
    if (std::ranges::find(known->certificates, certificate) == known->certificates.end())
      known->certificates.push_back(certificate);
  }
}

}  // namespace

Result<KeySet> LoadKeySet(const std::filesystem::path& folder) {
  KeySet keys;
  SEALIFT_ASSIGN_OR_RETURN(keys.variables, LoadVariables(folder));
  const std::filesystem::path earlier = folder / "earlier";
  if (!std::filesystem::exists(earlier)) return keys;
  std::error_code error;
  std::vector<std::filesystem::path> folders;
  for (std::filesystem::directory_iterator entry(earlier, error), end; !error && entry != end;
       entry.increment(error)) {
    folders.push_back(entry->path());
  }
  if (error) {
    return MakeError(Code::kUnavailable, Reason::kFileUnreadable,
                     fmt::format("load key set '{}': {}", earlier.string(), error.message()));
  }
  std::ranges::sort(folders);
  for (const std::filesystem::path& one : folders) {
    SEALIFT_ASSIGN_OR_RETURN(uki::SecureBootVariables variables, LoadVariables(one));
    keys.earlier.push_back(std::move(variables));
  }
  return keys;
}

Result<AllowedBootLoader> BootLoaderOf(const Manifest& manifest) {
  SEALIFT_ASSIGN_OR_RETURN(const ReleaseFile file, ImageWithDigest(manifest, FileRole::kBootLoader));
  return AllowedBootLoader{.name = file.path,
                           .authenticode = *file.authenticode,
                           .certificates = manifest.secure_boot_certificates};
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
  // Some firmware measures the kernel that the stub starts, though Secure Boot is on.
  std::optional<Sha256Digest> kernel;
  if (!manifest.images.empty()) kernel = manifest.images.front().pcr4.kernel;
  if (kernel.has_value()) expected.allowed_images.push_back(*kernel);
  for (const AllowedBootLoader& loader : boot_loaders) {
    const std::string label = fmt::format("boot loader {}", loader.authenticode.hex().substr(0, 12));
    std::vector<uki::StartedImage> images{{.name = loader.name, .authenticode = loader.authenticode},
                                          {.name = image.path, .authenticode = *image.authenticode}};
    expected.registers[kBootPcr].push_back(FromPrediction(label, uki::PredictPcr4(images)));
    expected.allowed_images.push_back(loader.authenticode);
    if (!kernel.has_value()) continue;
    images.push_back({.name = "the kernel inside", .authenticode = *kernel});
    expected.registers[kBootPcr].push_back(
        FromPrediction(label + ", kernel measured too", uki::PredictPcr4(images)));
  }
  if (boot_loaders.empty()) return BadManifest("no boot loader is known");
  SEALIFT_ASSIGN_OR_RETURN(expected.registers[kSecureBootPcr], ExpectPcr7(manifest, keys, boot_loaders));
  SEALIFT_ASSIGN_OR_RETURN(expected.registers[kImagePcr], ExpectPcr11(manifest));
  const bool measured = !manifest.images.empty();
  expected.registers[kParameterPcr] = {
      FromEvents("parameters", measured ? manifest.images.front().pcr12 : std::vector<ParameterEvent>())};
  expected.registers[kExtensionPcr] = {
      FromEvents("extensions", measured ? manifest.images.front().pcr13 : std::vector<ParameterEvent>())};
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
    if (loader.ok()) AddLoader(loaders, *loader);
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
  encoded_.clear();
  return candidates_;
}

Bytes ExpectationSource::Encoded(const std::shared_ptr<const std::vector<ExpectedRelease>>& candidates) {
  return EncodeExpectations(*candidates);
}

Bytes ReleaseExpectations::Encoded(const std::shared_ptr<const std::vector<ExpectedRelease>>& candidates) {
  const std::lock_guard lock(mutex_);
  if (candidates != candidates_) return EncodeExpectations(*candidates);
  if (encoded_.empty()) encoded_ = EncodeExpectations(*candidates);
  return encoded_;
}

}  // namespace sealift::controller
