// What a TPM will have measured once a machine has booted an image: PCRs 4, 7, 11 and 12, SHA-256 bank,
// computed from files before any machine sees them.
//
// Each prediction is the ordered list of its events, so that a verifier can name the first one that differs.
// Thread-safe functions over plain values. Specifications: TCG PC Client Platform Firmware Profile 1.05
// sections 3.3.4.5 (PCR 4) and 3.3.4.8 (PCR 7); systemd-stub(7), systemd-pcrphase(8).
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/efi/signature_list.h"

namespace sealift::uki {

struct MeasuredEvent {
  // For people: "section .initrd", "phase sysinit", "variable PK", "image EFI/BOOT/BOOTX64.EFI".
  std::string description;
  // What the PCR is extended with.
  Sha256Digest digest;
  bool operator==(const MeasuredEvent&) const = default;
};

struct PcrPrediction {
  std::vector<MeasuredEvent> events;
  // The PCR after all of them, starting from zeros.
  Sha256Digest Value() const;
};

// SHA-256(old || digest).
Sha256Digest ExtendPcr(const Sha256Digest& old, const Sha256Digest& digest);

// What PCR 11 is extended with, in order and whatever the bank: a section's digest, or that of a text.
struct Pcr11Step {
  std::string description;
  // With its dot; empty: `text` is hashed.
  std::string section;
  std::string text;
};
// `sections`: names of those that the image has. Errors: as PredictPcr11.
Result<std::vector<Pcr11Step>> Pcr11Steps(std::span<const std::string_view> sections, unsigned stub_major,
                                          std::string_view phases);

// PCR 11. `section_digests`: by name with the dot, as DigestMeasuredSections gives them and the manifest
// holds them; names that the stub does not measure are refused. `phases`: words joined by colons
// ("sysinit:ready"), empty for the value the stub leaves. Errors: INVALID_ARGUMENT/UKI_STUB_UNSUPPORTED;
// INVALID_ARGUMENT/INVALID_ARGUMENT for a section that is not measured or an empty phase word.
Result<PcrPrediction> PredictPcr11(const std::map<std::string, Sha256Digest>& section_digests,
                                   unsigned stub_major, std::string_view phases);

// An image that firmware starts, by its Authenticode digest.
struct StartedImage {
  std::string name;
  Sha256Digest authenticode;
};

// PCR 4 of a boot whose first boot option worked: boot loader, then UKI. With Secure Boot off the stub's
// kernel is measured as a third image; with it on it is not, since the stub overrides the check.
PcrPrediction PredictPcr4(std::span<const StartedImage> images);

// The Secure Boot variables as firmware holds them: signature lists as bytes, exactly as enrolled.
struct SecureBootVariables {
  bool enabled = true;
  Bytes pk;
  Bytes kek;
  Bytes db;
  // Empty when the variable does not exist.
  Bytes dbx;
};

// PCR 7. `authorities`: the entry of db that let each image pass, in the order they were started; repeated
// ones are measured once. With Secure Boot off all variables count as empty and there are no authorities.
PcrPrediction PredictPcr7(const SecureBootVariables& variables,
                          std::span<const efi::SignatureEntry> authorities);

// The digest of one Secure Boot variable event (UEFI_VARIABLE_DATA).
Sha256Digest VariableEventDigest(const efi::Guid& vendor, std::string_view name, ByteView data);

// PCR 12 under Secure Boot: zeros, or one event for the `options` line of a type #1 entry, which systemd-boot
// measures although the stub then ignores it.
PcrPrediction PredictPcr12(std::string_view options);

// The event with which a stub (257 and later) records in PCR 12 that it runs a profile other than the first:
// its number as UTF-16 text with its terminator.
MeasuredEvent ProfileEvent(std::uint32_t profile);

}  // namespace sealift::uki
