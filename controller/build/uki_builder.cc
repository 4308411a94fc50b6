#include "controller/build/uki_builder.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/crypto/hash.h"
#include "shared/uki/pcr_policy.h"
#include "shared/uki/pcr_prediction.h"
#include "shared/uki/sections.h"
#include "shared/uki/uki_layout.h"

namespace sealift::build {
namespace {

// COMMAND_LINE_SIZE of the kernel on x86.
constexpr std::size_t kMaxCommandLine = 2047;

Status Wrong(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, fmt::format("build UKI: {}", what));
}

Status CheckParts(const UkiParts& parts) {
  if (parts.command_line.size() > kMaxCommandLine)
    return Wrong("the command line is longer than 2047 characters");
  if (parts.command_line.find_first_of(std::string_view("\n\r\0", 3)) != std::string::npos)
    return Wrong("the command line must be one line");
  for (const std::string& phase : parts.signed_phases) {
    if (std::find(std::begin(kPhases), std::end(kPhases), phase) == std::end(kPhases))
      return Wrong(fmt::format("'{}' is no phase of this OS: '', 'sysinit' and 'sysinit:ready' are", phase));
  }
  return OkStatus();
}

// Digests of what will be measured: sections of the stub itself and those to be added.
Result<std::map<std::string, Sha256Digest>> MeasuredDigests(const efi::PeImage& stub, unsigned stub_major,
                                                            const std::vector<uki::UkiSection>& added) {
  SEALIFT_ASSIGN_OR_RETURN(auto digests, uki::DigestMeasuredSections(stub, stub_major));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<std::string_view> names, uki::MeasuredSections(stub_major));
  for (const uki::UkiSection& section : added) {
    if (std::find(names.begin(), names.end(), section.name) != names.end())
      digests.emplace(section.name, Sha256(section.content));
  }
  return digests;
}

}  // namespace

Result<BuiltUki> BuildUki(const UkiParts& parts, const UkiKeys& keys) {
  SEALIFT_CHECK(keys.secure_boot != nullptr && keys.pcr != nullptr);
  SEALIFT_RETURN_IF_ERROR(CheckParts(parts));
  SEALIFT_ASSIGN_OR_RETURN(const efi::PeImage stub, efi::PeImage::Parse(parts.stub));
  SEALIFT_ASSIGN_OR_RETURN(const uki::SystemdMagic magic, uki::ReadSystemdMagic(stub));
  if (magic.component != "systemd-stub")
    return Wrong(fmt::format("the stub is {} instead of systemd-stub", magic.component));

  const std::string public_key = keys.pcr->public_key().Pem();
  std::vector<uki::UkiSection> sections = {{std::string(uki::kOsRelease), AsBytes(parts.os_release)},
                                           {std::string(uki::kCommandLine), AsBytes(parts.command_line)},
                                           {std::string(uki::kPcrPublicKey), AsBytes(public_key)},
                                           {std::string(uki::kLinux), parts.kernel},
                                           {std::string(uki::kInitrd), parts.initrd}};
  BuiltUki built{.stub_version = magic.version};
  SEALIFT_ASSIGN_OR_RETURN(built.sections, MeasuredDigests(stub, magic.major, sections));
  std::vector<uki::PhasePolicy> policies;
  for (const std::string_view phase : kPhases) {
    SEALIFT_ASSIGN_OR_RETURN(const uki::PcrPrediction prediction,
                             uki::PredictPcr11(built.sections, magic.major, phase));
    built.pcr11.push_back({.phase = std::string(phase), .pcr11 = prediction.Value()});
    const auto& wanted = parts.signed_phases;
    if (std::find(wanted.begin(), wanted.end(), phase) != wanted.end())
      policies.push_back({.phase = std::string(phase), .pcr11 = prediction.Value()});
  }
  SEALIFT_ASSIGN_OR_RETURN(const uki::PcrSignatures signatures,
                           uki::SignPcrPolicies(policies, parts.subject, *keys.pcr));
  const std::string signature_text = uki::FormatPcrSignatures(signatures);
  // Before the large parts, so that reading it needs no seek over them.
  sections.insert(sections.begin() + 3, {std::string(uki::kPcrSignature), AsBytes(signature_text)});
  SEALIFT_ASSIGN_OR_RETURN(Bytes unsigned_image, uki::AssembleUki(parts.stub, sections));
  SEALIFT_ASSIGN_OR_RETURN(
      built.image, efi::SignImage(std::move(unsigned_image), *keys.secure_boot, keys.secure_boot_certificate,
                                  "authenticode " + parts.subject));
  return built;
}

}  // namespace sealift::build
