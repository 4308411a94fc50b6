#include "controller/buildhost/build_job.h"

#include <fmt/format.h>

#include <algorithm>

#include "controller/build/output_folder.h"
#include "controller/buildhost/medium.h"
#include "shared/base/files.h"

namespace sealift::controller {
namespace {

class AttributedSigner final : public Signer {
 public:
  AttributedSigner(std::shared_ptr<Signer> inner, std::string on_behalf)
      : inner_(std::move(inner)), on_behalf_(std::move(on_behalf)) {}
  const PublicKey& public_key() const override { return inner_->public_key(); }
  Result<Bytes> Sign(const SigningRequest& request) override { return inner_->Sign(Attributed(request)); }
  std::vector<Result<Bytes>> SignAll(std::span<const SigningRequest> requests) override {
    std::vector<SigningRequest> attributed;
    for (const SigningRequest& request : requests) attributed.push_back(Attributed(request));
    return inner_->SignAll(attributed);
  }

 private:
  SigningRequest Attributed(const SigningRequest& request) const {
    SigningRequest attributed = request;
    attributed.intent += " for " + on_behalf_;
    return attributed;
  }

  const std::shared_ptr<Signer> inner_;
  const std::string on_behalf_;
};

build::ReleaseOptions OptionsOf(const BuildRequest& request) {
  build::ReleaseOptions options = request.release;
  options.sizes = {.warn_image_bytes = request.efi_size_warn << 20, .esp_bytes = request.esp_size << 20};
  options.out = request.out;
  return options;
}

// One file in the output folder, whatever else lies there.
Result<BuildOutcome> BuildMedium(const BuildRequest& request, const BuildKeys& keys,
                                 const build::Progress& progress) {
  const MediumOptions medium{.type = request.type,
                             .name = request.name,
                             .overlay = request.overlay_iso,
                             .keys_folder = keys.folder,
                             .built = request.release.built};
  SEALIFT_RETURN_IF_ERROR(CheckMediumOptions(medium));
  SEALIFT_ASSIGN_OR_RETURN(build::OutputFolder work, build::OutputFolder::Create(request.out / request.type));
  build::ReleaseOptions options = OptionsOf(request);
  options.out = work.path() / "tree";
  BuildOutcome outcome{.type = request.type};
  SEALIFT_ASSIGN_OR_RETURN(outcome.built, build::BuildRelease(options, keys.release, progress));
  if (progress) progress(request.type, 0, 0);
  SEALIFT_ASSIGN_OR_RETURN(const std::string name, MakeMedium(medium, work.path(), outcome.built.manifest));
  if (options.stop.stop_requested())
    return MakeError(Code::kCancelled, Reason::kCancelled, "build medium: it was called off");
  SEALIFT_RETURN_IF_ERROR(work.CommitFile(name));
  if (!medium.overlay.empty()) {
    outcome.built.remarks.push_back(
        "files of --overlay-iso are neither signed nor measured: trust none of them unchecked");
  }
  outcome.path = request.out / name;
  return outcome;
}

}  // namespace

std::shared_ptr<Signer> OnBehalf(std::shared_ptr<Signer> signer, const std::string& on_behalf) {
  if (on_behalf.empty()) return signer;
  return std::make_shared<AttributedSigner>(std::move(signer), on_behalf);
}

Result<BuildKeys> OpenBuildKeys(hsm::KeyRing& ring, bool with_extensions, const std::string& on_behalf) {
  BuildKeys keys{.folder = ring.folder()};
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Signer> db, ring.SignerFor("db"));
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Signer> pcr, ring.SignerFor("pcr"));
  SEALIFT_ASSIGN_OR_RETURN(const Certificate certificate, ring.CertificateFor("db"));
  keys.db = OnBehalf(std::move(db), on_behalf);
  keys.pcr = OnBehalf(std::move(pcr), on_behalf);
  build::ReleaseKeys& release = keys.release;
  release.secure_boot = keys.db.get();
  release.pcr = keys.pcr.get();
  release.secure_boot_certificate = certificate.der();
  SEALIFT_ASSIGN_OR_RETURN(release.pk_auth, ReadFile(keys.folder / "PK.auth"));
  SEALIFT_ASSIGN_OR_RETURN(release.kek_auth, ReadFile(keys.folder / "KEK.auth"));
  SEALIFT_ASSIGN_OR_RETURN(release.db_auth, ReadFile(keys.folder / "db.auth"));
  if (std::filesystem::exists(keys.folder / "dbx.auth")) {
    SEALIFT_ASSIGN_OR_RETURN(release.dbx_auth, ReadFile(keys.folder / "dbx.auth"));
  }
  if (with_extensions) {
    SEALIFT_ASSIGN_OR_RETURN(const std::vector<Certificate> trusted, ring.CertificatesFor("extensions"));
    for (const Certificate& one : trusted) release.extension_certificates.push_back(one.der());
  }
  for (const hsm::InventoryKey* key : ring.inventory().Generations("pcr")) {
    release.pcr_keys.push_back(key->key_id);
    SEALIFT_ASSIGN_OR_RETURN(const PublicKey public_key, ring.PublicKeyFor(*key));
    release.pcr_keys_pem += public_key.Pem();
  }
  return keys;
}

Result<BuildOutcome> RunBuild(const BuildRequest& request, const BuildKeys& keys,
                              const build::Progress& progress) {
  SEALIFT_RETURN_IF_ERROR(CheckBuildRequest(request));
  if (request.type != "uki") return BuildMedium(request, keys, progress);
  BuildOutcome outcome{.type = request.type, .path = request.out};
  SEALIFT_ASSIGN_OR_RETURN(outcome.built, build::BuildRelease(OptionsOf(request), keys.release, progress));
  return outcome;
}

Result<std::vector<build::Finding>> RunPreflight(const BuildRequest& request) {
  SEALIFT_RETURN_IF_ERROR(CheckBuildRequest(request));
  return build::CheckRelease(OptionsOf(request));
}

bool MayBeBuilt(const std::vector<build::Finding>& findings) {
  return std::none_of(findings.begin(), findings.end(), [](const build::Finding& finding) {
    return finding.severity == build::Severity::kError && !finding.allowed;
  });
}

std::string_view SeverityName(const build::Finding& finding) {
  if (finding.allowed) return "allowed";
  return finding.severity == build::Severity::kError ? "error" : "warning";
}

}  // namespace sealift::controller
