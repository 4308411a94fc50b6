// The sections of a unified kernel image, and which of them a systemd-stub measures into PCR 11, in what
// order (UAPI.5; the order is the stub's own, where the specification's list and its code differ).
//
// Thread-safe functions over plain values.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "shared/efi/pe_image.h"

namespace sealift::uki {

inline constexpr std::string_view kLinux = ".linux";
inline constexpr std::string_view kOsRelease = ".osrel";
inline constexpr std::string_view kCommandLine = ".cmdline";
inline constexpr std::string_view kInitrd = ".initrd";
inline constexpr std::string_view kPcrPublicKey = ".pcrpkey";
inline constexpr std::string_view kPcrSignature = ".pcrsig";
inline constexpr std::string_view kMicrocode = ".ucode";
inline constexpr std::string_view kSplash = ".splash";
inline constexpr std::string_view kDeviceTree = ".dtb";
inline constexpr std::string_view kKernelRelease = ".uname";
inline constexpr std::string_view kSbat = ".sbat";
inline constexpr std::string_view kProfile = ".profile";
inline constexpr std::string_view kDeviceTreeAuto = ".dtbauto";
inline constexpr std::string_view kHardwareIds = ".hwids";
inline constexpr std::string_view kFirmware = ".efifw";
inline constexpr std::string_view kSystemdMagic = ".sdmagic";

// What a systemd EFI program says about itself in .sdmagic.
struct SystemdMagic {
  // "systemd-stub" or "systemd-boot".
  std::string component;
  // "252.39-1~deb12u2".
  std::string version;
  // 252.
  unsigned major = 0;
};

// Errors: INVALID_ARGUMENT/UKI_STUB_UNSUPPORTED when there is no such section or it reads otherwise.
Result<SystemdMagic> ReadSystemdMagic(const efi::PeImage& image);

// The same from the section's bytes.
Result<SystemdMagic> ParseSystemdMagic(ByteView section);

// Names with their dot, in measurement order, for a stub of that major version.
// Errors: INVALID_ARGUMENT/UKI_STUB_UNSUPPORTED below 252 and above 262: what such a stub measures is not
// known here, and a wrong guess would sign policies that never match.
Result<std::vector<std::string_view>> MeasuredSections(unsigned stub_major);

// Whether a stub of that version does anything with a section of that name; .sbat and .uname are for others
// and may be in every image. Errors: INVALID_ARGUMENT/UKI_STUB_UNSUPPORTED, naming the first version that
// does.
Status CheckSectionKnown(std::string_view name, unsigned stub_major);

// The sections of an image as its stub sees them when it runs a profile: those before the first .profile, and
// over them those of the profile. One entry a profile; one entry with all for an image without profiles. Of
// repeated names (.dtbauto) the first; those of a stub itself are among them. Borrows the image's sections.
std::vector<std::map<std::string_view, const efi::PeSection*>> SectionsByProfile(const efi::PeImage& image);

// SHA-256 over the exact bytes of each section that is present, not empty and measured by that stub, by name.
// Hashes each section once. Errors: as MeasuredSections and PeImage::Contents.
Result<std::map<std::string, Sha256Digest>> DigestMeasuredSections(const efi::PeImage& image,
                                                                   unsigned stub_major);

}  // namespace sealift::uki
