// The text form of measurements inside the release manifest. Included by this folder alone.
//
// Readers report through the ObjectReader they are given or with RELEASE_MANIFEST_INVALID.
#pragma once

#include "shared/release/image_measurements.h"
#include "shared/tuf/json.h"

namespace sealift {

Status InvalidManifest(std::string_view why);

nlohmann::json Pcr11Json(const std::vector<PhasePrediction>& phases);
nlohmann::json SectionsJson(const std::map<std::string, Sha256Digest>& sections);
nlohmann::json ImageJson(const ImageMeasurements& image);

// The members "pcr11" and "sections" of an object.
Result<std::vector<PhasePrediction>> ReadPcr11(tuf::ObjectReader& reader);
Result<std::map<std::string, Sha256Digest>> ReadSections(tuf::ObjectReader& reader);
Result<ImageMeasurements> ReadImage(const nlohmann::json& value);

}  // namespace sealift
