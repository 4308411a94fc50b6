// The archive that a systemd-stub makes of files beside a UKI before it starts the kernel, and its
// measurement: system extensions go to /.extra/sysext and into PCR 13; configuration extensions, from stub
// 256 on, to /.extra/confext and into PCR 12 (systemd-stub(7); src/boot/efi/cpio.c). Older stubs take every
// *.raw for a system extension.
//
// The stub writes newc with inodes from 1, no times and owners, folders 0555 and files 0444, files in the
// order of their names, and measures the whole archive as one event. Thread-safe.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "shared/uki/content_source.h"
#include "shared/uki/pcr_prediction.h"

namespace sealift::uki {

inline constexpr std::string_view kExtensionFolder = ".extra/sysext";
inline constexpr std::string_view kConfextFolder = ".extra/confext";
inline constexpr std::string_view kConfextSuffix = ".confext.raw";
inline constexpr unsigned kStubThatTakesConfexts = 256;

struct CompanionFile {
  // "tools.raw": ASCII, without a folder. The stub's order is that of UTF-16 code units.
  std::string name;
  ContentSource content;
};

// PCR 13 for these files in `<image>.efi.extra.d/`, those with kConfextSuffix left out; no event for none.
// Reads each once, holds none. Errors: INVALID_ARGUMENT/EXTENSION_INVALID for a name the stub would pass over
// or a size of 4 GiB or more; those of ContentSource.
Result<PcrPrediction> PredictPcr13(std::span<const CompanionFile> companions);
// What those with kConfextSuffix extend PCR 12 with, as its last event; none without them. Errors: the same.
Result<PcrPrediction> PredictConfexts(std::span<const CompanionFile> companions);

}  // namespace sealift::uki
