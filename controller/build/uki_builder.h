// From parts to a signed unified kernel image whose measurements are known.
//
// Thread-safe functions over plain values; signers are borrowed for the call.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shared/crypto/signer.h"
#include "shared/efi/authenticode.h"
#include "shared/release/manifest.h"
#include "shared/uki/content_source.h"

namespace sealift::build {

// What a whole OS passes: nothing, sysinit, ready. The last is what a running node shows.
inline constexpr std::string_view kPhases[] = {"", "sysinit", "sysinit:ready"};

// One entry of a multi-profile image's menu; needs a stub of 257 or later.
struct UkiProfile {
  // The .profile section: "ID=debug\nTITLE=Debug\n".
  std::string text;
  // In place of the image's own.
  std::optional<std::string> command_line = std::nullopt;
  // Whether it gets policies for the signed phases.
  bool unlocks = true;
};

// Contents may lie in files, which are then never held in memory. What is empty is left out.
struct UkiParts {
  ByteView stub;
  uki::ContentSource kernel;
  // Length a multiple of 4 where companions are appended at boot.
  uki::ContentSource initrd;
  // SHA-256 of the initrd where it is known, as from the packer: saves reading it once more.
  std::optional<Sha256Digest> initrd_digest = std::nullopt;
  std::string os_release;
  // One line, without line end.
  std::string command_line;
  // For the journal: "EFI/kairos/norole.efi 1.2.0".
  std::string subject;
  // Phases whose policy is signed: a TPM unseals in these only. None: the image unlocks nothing.
  std::vector<std::string> signed_phases = {""};
  // The kernel's release, .uname.
  std::string kernel_release = {};
  // Lines to add to those of the stub's own .sbat.
  std::string sbat = {};
  // A BMP.
  uki::ContentSource splash = {};
  // An uncompressed cpio; needs a stub of 256 or later.
  uki::ContentSource microcode = {};
  uki::ContentSource device_tree = {};
  // Device trees of which the stub takes the one that fits the machine, and the list it finds that by: 257
  // and later. Which one is measured depends on the machine, so each, and none, has predictions and policies.
  std::vector<uki::ContentSource> device_trees_auto = {};
  uki::ContentSource hardware_ids = {};
  std::vector<UkiProfile> profiles = {};
  // Predicts and signs for the SHA-384 bank too.
  bool sha384 = false;
  // PCR 13 with what lies beside the image: signs for PCRs 11, 12 and 13 together, too, which is what a
  // Sealift node's disks are bound to. None: PCR 11 alone, byte for byte as systemd-measure would.
  std::optional<Sha256Digest> pcr13 = std::nullopt;
  // What lies beside the image adds to PCR 12, behind a profile's number.
  std::vector<ParameterEvent> companions_pcr12 = {};
};

struct UkiKeys {
  Signer* secure_boot = nullptr;
  ByteView secure_boot_certificate;
  Signer* pcr = nullptr;
};

struct BuiltUki {
  // Its bytes are empty when it was written to a file.
  efi::SignedImage image;
  std::uint64_t size = 0;
  // "252.39-1~deb12u2".
  std::string stub_version;
  // Of the first of `images`.
  std::map<std::string, Sha256Digest> sections;
  // One per kPhases.
  std::vector<PhasePrediction> pcr11;
  // One for each profile and choice of device tree, the ordinary one first. Whoever places the file fills in
  // its path and the boot loader's digest.
  std::vector<ImageMeasurements> images;
};

// The same parts and keys give the same bytes. Hashes every measured byte once for PCR 11 and once for
// Authenticode, a kernel once more. Errors: INVALID_ARGUMENT with COMMAND_LINE_INVALID for a command line
// with control characters or above 2047 bytes, INVALID_ARGUMENT for a phase beyond kPhases; those of
// ReadSystemdMagic, CheckSectionKnown, MergeSbat, LayOutUki, SignPcrPolicies, WriteUki.
Result<BuiltUki> BuildUki(const UkiParts& parts, const UkiKeys& keys);

// The same into a file that appears whole or not at all; memory stays small whatever the image's size.
// Errors: the same, and those of WriteUkiFile.
Result<BuiltUki> BuildUkiFile(const UkiParts& parts, const UkiKeys& keys, const std::filesystem::path& path);

}  // namespace sealift::build
