// What this project predicts that a machine's PCRs hold, from the files of a release and a key set alone:
//
//     e2e_predict RELEASE_DIR KEYS_DIR [OPTIONS]
//
// Prints {"4": hex, "7": hex, "11": hex, "12": hex, "13": hex} of a running node under Secure Boot, for the
// VM story to compare with a real TPM. OPTIONS is the `options` line of the boot entry, none by default.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "shared/base/files.h"
#include "shared/release/manifest.h"
#include "shared/uki/pcr_prediction.h"

namespace sealift {
namespace {

Result<uki::PcrPrediction> PredictPcr4Of(const Manifest& manifest) {
  std::vector<uki::StartedImage> images;
  for (const FileRole role : {FileRole::kBootLoader, FileRole::kUki}) {
    SEALIFT_ASSIGN_OR_RETURN(const ReleaseFile file, manifest.OnlyFile(role));
    if (!file.authenticode)
      return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                       fmt::format("predict PCR 4: {} has no Authenticode digest", file.path));
    images.push_back({.name = file.path, .authenticode = *file.authenticode});
  }
  return uki::PredictPcr4(images);
}

Result<uki::PcrPrediction> PredictPcr7Of(const std::string& keys) {
  uki::SecureBootVariables variables;
  SEALIFT_ASSIGN_OR_RETURN(variables.pk, ReadFile(keys + "/PK.esl"));
  SEALIFT_ASSIGN_OR_RETURN(variables.kek, ReadFile(keys + "/KEK.esl"));
  SEALIFT_ASSIGN_OR_RETURN(variables.db, ReadFile(keys + "/db.esl"));
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists db, efi::ParseSignatureLists(variables.db));
  if (db.empty())
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, "predict PCR 7: db.esl is empty");
  // Boot loader and UKI are both signed by our db key, whose certificate stands first.
  return uki::PredictPcr7(variables, std::span(db.front().entries).first(1));
}

Status Run(const std::string& release, const std::string& keys, const std::string& options) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string json, ReadTextFile(release + "/release.json"));
  SEALIFT_ASSIGN_OR_RETURN(const Manifest manifest, ParseManifest(json));
  SEALIFT_ASSIGN_OR_RETURN(const uki::PcrPrediction pcr4, PredictPcr4Of(manifest));
  SEALIFT_ASSIGN_OR_RETURN(const uki::PcrPrediction pcr7, PredictPcr7Of(keys));
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest pcr11, manifest.FinalPcr11());
  uki::PcrPrediction pcr13;
  for (const ParameterEvent& event : manifest.images.front().pcr13)
    pcr13.events.push_back({.description = event.description, .digest = event.digest});
  const nlohmann::json values = {{"4", pcr4.Value().hex()},
                                 {"7", pcr7.Value().hex()},
                                 {"11", pcr11.hex()},
                                 {"12", uki::PredictPcr12(options).Value().hex()},
                                 {"13", pcr13.Value().hex()}};
  std::puts(values.dump().c_str());
  return OkStatus();
}

}  // namespace
}  // namespace sealift

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fputs("usage: e2e_predict RELEASE_DIR KEYS_DIR [OPTIONS]\n", stderr);
    return 2;
  }
  const sealift::Status status = sealift::Run(argv[1], argv[2], argc > 3 ? argv[3] : "");
  if (!status.ok()) std::fprintf(stderr, "%s\n", sealift::Describe(status).c_str());
  return status.ok() ? 0 : 1;
}
