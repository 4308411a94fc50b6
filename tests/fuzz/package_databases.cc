// Package databases of dpkg and apk, and what rpm prints: whatever they say becomes a bill of materials.
#include <nlohmann/json.hpp>

#include "controller/build/sbom.h"

using namespace sealift;
using namespace sealift::build;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text = AsText(ByteView(data, size)).substr(1);
  std::vector<PackageFiles> found;
  switch (data[0] % 3) {
    case 0:
      found = ParseDpkgStatus(text);
      break;
    case 1:
      found = ParseApkInstalled(text);
      break;
    default:
      found = ParseRpmQuery(text);
      break;
  }
  InstalledPackages installed;
  for (PackageFiles& one : found) {
    SEALIFT_CHECK(!one.package.name.empty() && !one.package.version.empty());
    installed.packages.push_back(std::move(one.package));
  }
  const std::string sbom = WriteSbom({.os_id = "x", .title = std::string(text)}, installed);
  SEALIFT_CHECK(nlohmann::json::accept(sbom));
  return 0;
}
