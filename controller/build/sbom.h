// The software bill of materials of an image: SPDX 2.3 as JSON, one package element for each package that the
// tree's databases name.
//
// Thread-safe function. Equal input gives equal text.
#pragma once

#include <string>

#include "controller/source/packages.h"
#include "shared/base/clock.h"

namespace sealift::build {

struct SbomSubject {
  // ID, VERSION_ID and PRETTY_NAME of os-release.
  std::string os_id;
  std::string os_version;
  std::string title;
  // Of the release.
  std::string version;
  UnixMillis built;
  // Of the image's initrd, which holds the packages; also makes the document's namespace its own.
  Sha256Digest initrd;
};

// Licences are left as NOASSERTION, since databases write them in words of their own; what rpm and apk say
// stands in licenseComments. Packages also have a package URL (purl), by which vulnerability scanners match.
std::string WriteSbom(const SbomSubject& subject, const InstalledPackages& installed);

}  // namespace sealift::build
