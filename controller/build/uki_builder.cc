#include "controller/build/uki_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "controller/build/command_line.h"
#include "shared/crypto/hash.h"
#include "shared/uki/pcr_bank.h"
#include "shared/uki/pcr_policy.h"
#include "shared/uki/pcr_prediction.h"
#include "shared/uki/sbat.h"
#include "shared/uki/sections.h"
#include "shared/uki/uki_layout.h"
#include "shared/uki/uki_writer.h"

namespace sealift::build {
namespace {

constexpr unsigned kParameterPcr = 12;
constexpr unsigned kExtensionPcr = 13;
constexpr std::size_t kMaxProfiles = 64;
constexpr std::size_t kScratchBytes = 256 << 10;
// From 258 on a stub starts the kernel without the firmware, which measures nothing then.
constexpr unsigned kStubThatStartsTheKernelItself = 258;

Status Wrong(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, fmt::format("build UKI: {}", what));
}

Status CheckSignedLine(std::string_view line) {
  if (!line.empty()) return CheckCommandLine(line, "kernel command line");
  return MakeError(Code::kInvalidArgument, Reason::kCommandLineInvalid,
                   "take kernel command line: it is empty, so the stub would take one that nobody signed");
}

Status CheckParts(const UkiParts& parts) {
  SEALIFT_RETURN_IF_ERROR(CheckSignedLine(parts.command_line));
  if (parts.profiles.size() > kMaxProfiles) return Wrong("more than 64 profiles");
  for (const UkiProfile& profile : parts.profiles) {
    if (profile.text.empty()) return Wrong("a profile without a text");
    if (profile.command_line.has_value()) SEALIFT_RETURN_IF_ERROR(CheckSignedLine(*profile.command_line));
  }
  for (const std::string& phase : parts.signed_phases) {
    if (std::find(std::begin(kPhases), std::end(kPhases), phase) == std::end(kPhases))
      return Wrong(fmt::format("'{}' is no phase of this OS: '', 'sysinit' and 'sysinit:ready' are", phase));
  }
  return OkStatus();
}

struct SectionDigest {
  Sha256Digest sha256;
  std::optional<Sha384Digest> sha384;
};
using Digests = std::map<std::string, SectionDigest>;

struct ProfilePlace {
  std::uint32_t number = 0;
  bool unlocks = true;
};

// From parts to a layout. Owns the texts that the layout's sections borrow.
class Assembly {
 public:
  Assembly(const UkiParts& parts, const UkiKeys& keys) : parts_(parts), keys_(keys) {}

  Status Prepare() {
    SEALIFT_RETURN_IF_ERROR(CheckParts(parts_));
    SEALIFT_ASSIGN_OR_RETURN(const efi::PeImage stub, efi::PeImage::Parse(parts_.stub));
    SEALIFT_ASSIGN_OR_RETURN(const uki::SystemdMagic magic, uki::ReadSystemdMagic(stub));
    if (magic.component != "systemd-stub")
      return Wrong(fmt::format("the stub is {} instead of systemd-stub", magic.component));
    built_.stub_version = magic.version;
    major_ = magic.major;
    SEALIFT_ASSIGN_OR_RETURN(measured_, uki::MeasuredSections(major_));
    SEALIFT_RETURN_IF_ERROR(StubDigests(stub));
    // Small parts first and then the policy's signature, so that reading them needs no seek over the large
    // ones.
    SEALIFT_RETURN_IF_ERROR(AddSmall(stub));
    const std::size_t signature_place = sections_.size();
    SEALIFT_RETURN_IF_ERROR(Add(uki::kLinux, parts_.kernel));
    SEALIFT_RETURN_IF_ERROR(AddInitrd());
    SEALIFT_ASSIGN_OR_RETURN(kernel_, KernelDigest());
    if (parts_.profiles.empty()) {
      SEALIFT_RETURN_IF_ERROR(Measure({}, digests_, parts_.command_line, parts_.subject, signature_place));
    } else {
      SEALIFT_RETURN_IF_ERROR(AddProfiles());
    }
    built_.sections = built_.images.front().sections;
    built_.pcr11 = built_.images.front().pcr11;
    return OkStatus();
  }

  Result<uki::UkiLayout> Layout() const { return uki::LayOutUki(parts_.stub, sections_); }
  uki::ImageSigner Signer() const {
    return {.signer = keys_.secure_boot,
            .certificate = keys_.secure_boot_certificate,
            .intent = "authenticode " + parts_.subject};
  }
  BuiltUki Finish(efi::SignedImage image, std::uint64_t size) {
    built_.image = std::move(image);
    built_.size = size;
    for (ImageMeasurements& one : built_.images) one.pcr4.uki = built_.image.digest;
    return std::move(built_);
  }

 private:
  // Sections that the stub brings along and measures.
  Status StubDigests(const efi::PeImage& stub) {
    for (const efi::PeSection& section : stub.sections()) {
      if (section.virtual_size == 0 || !IsMeasured(section.name)) continue;
      SEALIFT_ASSIGN_OR_RETURN(const ByteView contents, stub.Contents(section));
      SEALIFT_ASSIGN_OR_RETURN(digests_[section.name], Digest(contents));
    }
    return OkStatus();
  }

  Status AddSmall(const efi::PeImage& stub) {
    SEALIFT_RETURN_IF_ERROR(Add(uki::kOsRelease, parts_.os_release));
    SEALIFT_RETURN_IF_ERROR(Add(uki::kCommandLine, parts_.command_line));
    SEALIFT_RETURN_IF_ERROR(Add(uki::kPcrPublicKey, Keep(keys_.pcr->public_key().Pem())));
    SEALIFT_RETURN_IF_ERROR(Add(uki::kKernelRelease, parts_.kernel_release));
    if (!parts_.sbat.empty()) {
      const efi::PeSection* own = stub.Find(uki::kSbat);
      ByteView own_text;
      if (own != nullptr) {
        SEALIFT_ASSIGN_OR_RETURN(own_text, stub.Contents(*own));
      }
      SEALIFT_ASSIGN_OR_RETURN(std::string merged, uki::MergeSbat(AsText(own_text), parts_.sbat));
      SEALIFT_RETURN_IF_ERROR(Add(uki::kSbat, Keep(std::move(merged))));
    }
    SEALIFT_RETURN_IF_ERROR(Add(uki::kHardwareIds, parts_.hardware_ids));
    SEALIFT_RETURN_IF_ERROR(Add(uki::kSplash, parts_.splash));
    SEALIFT_RETURN_IF_ERROR(Add(uki::kDeviceTree, parts_.device_tree));
    for (const uki::ContentSource& tree : parts_.device_trees_auto) {
      SEALIFT_RETURN_IF_ERROR(uki::CheckSectionKnown(uki::kDeviceTreeAuto, major_));
      SEALIFT_ASSIGN_OR_RETURN(SectionDigest digest, Digest(tree));
      device_trees_.push_back(digest);
      sections_.push_back({std::string(uki::kDeviceTreeAuto), tree});
    }
    return Add(uki::kMicrocode, parts_.microcode);
  }

  Status AddInitrd() {
    if (!parts_.initrd_digest.has_value() || parts_.sha384 || parts_.initrd.empty())
      return Add(uki::kInitrd, parts_.initrd);
    digests_[std::string(uki::kInitrd)] = {.sha256 = *parts_.initrd_digest, .sha384 = std::nullopt};
    sections_.push_back({std::string(uki::kInitrd), parts_.initrd});
    return OkStatus();
  }

  Status AddProfiles() {
    std::uint32_t number = 0;
    for (const UkiProfile& profile : parts_.profiles) {
      Digests digests = digests_;
      SEALIFT_RETURN_IF_ERROR(Add(uki::kProfile, profile.text, digests));
      if (profile.command_line.has_value())
        SEALIFT_RETURN_IF_ERROR(Add(uki::kCommandLine, *profile.command_line, digests));
      SEALIFT_RETURN_IF_ERROR(Measure({.number = number, .unlocks = profile.unlocks}, digests,
                                      profile.command_line.value_or(parts_.command_line),
                                      fmt::format("{} profile {}", parts_.subject, number),
                                      sections_.size()));
      ++number;
    }
    return OkStatus();
  }

  // Predicts a profile with none and with each of the automatic device trees, signs the policies, and puts
  // them into a section at `place`.
  Status Measure(const ProfilePlace& profile, Digests digests, const std::string& command_line,
                 const std::string& subject, std::size_t place) {
    std::vector<uki::PhasePolicy> policies;
    for (std::size_t tree = 0; tree <= device_trees_.size(); ++tree) {
      if (tree != 0) digests[std::string(uki::kDeviceTreeAuto)] = device_trees_[tree - 1];
      SEALIFT_RETURN_IF_ERROR(Predict(profile, digests, command_line, policies));
    }
    if (policies.empty()) return OkStatus();
    SEALIFT_ASSIGN_OR_RETURN(const uki::PcrSignatures signatures,
                             uki::SignPcrPolicies(policies, subject, *keys_.pcr));
    sections_.insert(sections_.begin() + static_cast<std::ptrdiff_t>(place),
                     {std::string(uki::kPcrSignature), Keep(uki::FormatPcrSignatures(signatures))});
    return OkStatus();
  }

  Status Predict(const ProfilePlace& profile, const Digests& digests, const std::string& command_line,
                 std::vector<uki::PhasePolicy>& policies) {
    ImageMeasurements image{.path = {}, .profile = profile.number, .command_line = command_line};
    if (major_ < kStubThatStartsTheKernelItself) image.pcr4.kernel = kernel_;
    std::map<std::string, Bytes> sha384;
    for (const auto& [name, digest] : digests) {
      image.sections[name] = digest.sha256;
      if (digest.sha384.has_value()) sha384[name] = ToBytes(digest.sha384->view());
    }
    for (const std::string_view phase : kPhases) {
      SEALIFT_ASSIGN_OR_RETURN(const uki::PcrPrediction prediction,
                               uki::PredictPcr11(image.sections, major_, phase));
      image.pcr11.push_back({.phase = std::string(phase), .pcr11 = prediction.Value()});
      uki::PhasePolicy policy{.phase = std::string(phase), .pcr11 = prediction.Value()};
      if (parts_.sha384) {
        SEALIFT_ASSIGN_OR_RETURN(const Bytes value,
                                 uki::Pcr11InBank(*uki::FindPcrBank("sha384"), sha384, phase));
        Sha384Digest digest;
        std::copy(value.begin(), value.end(), digest.bytes.begin());
        image.pcr11_sha384[policy.phase] = digest;
        policy.pcr11_sha384 = digest;
      }
      if (parts_.pcr13.has_value())
        policy.companions = {{kParameterPcr, ParameterPcr(profile.number)}, {kExtensionPcr, *parts_.pcr13}};
      const auto& wanted = parts_.signed_phases;
      if (profile.unlocks && std::find(wanted.begin(), wanted.end(), phase) != wanted.end())
        policies.push_back(std::move(policy));
    }
    image.pcr12 = ParameterEvents(profile.number);
    built_.images.push_back(std::move(image));
    return OkStatus();
  }

  // PCR 12 when the entry passes no options.
  std::vector<ParameterEvent> ParameterEvents(std::uint32_t profile) const {
    std::vector<ParameterEvent> events;
    if (profile != 0) {
      const uki::MeasuredEvent event = uki::ProfileEvent(profile);
      events.push_back({.description = event.description, .digest = event.digest});
    }
    events.insert(events.end(), parts_.companions_pcr12.begin(), parts_.companions_pcr12.end());
    return events;
  }
  Sha256Digest ParameterPcr(std::uint32_t profile) const {
    Sha256Digest pcr;
    for (const ParameterEvent& event : ParameterEvents(profile)) pcr = uki::ExtendPcr(pcr, event.digest);
    return pcr;
  }

  Status Add(std::string_view name, const uki::ContentSource& content) {
    return Add(name, content, digests_);
  }
  Status Add(std::string_view name, const uki::ContentSource& content, Digests& digests) {
    if (content.empty()) return OkStatus();
    SEALIFT_RETURN_IF_ERROR(uki::CheckSectionKnown(name, major_));
    if (IsMeasured(name)) {
      SEALIFT_ASSIGN_OR_RETURN(digests[std::string(name)], Digest(content));
    }
    sections_.push_back({std::string(name), content});
    return OkStatus();
  }

  bool IsMeasured(std::string_view name) const {
    return std::find(measured_.begin(), measured_.end(), name) != measured_.end();
  }

  Result<SectionDigest> Digest(const uki::ContentSource& content) {
    Sha384Hasher sha384;
    scratch_.resize(kScratchBytes);
    SEALIFT_RETURN_IF_ERROR(content.ForEach(scratch_, 0, [&](ByteView bytes) -> Status {
      hasher_.Update(bytes);
      if (parts_.sha384) sha384.Update(bytes);
      return OkStatus();
    }));
    SectionDigest digest{.sha256 = hasher_.Finish(), .sha384 = std::nullopt};
    if (parts_.sha384) digest.sha384 = sha384.Finish();
    return digest;
  }

  // As firmware measures the kernel when the stub starts it: without the padding that signing would add.
  Result<Sha256Digest> KernelDigest() {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes head, parts_.kernel.Head(uki::kKernelHeadBytes));
    const Result<efi::PeImage> image = efi::PeImage::ParseHead(head, parts_.kernel.size());
    if (!image.ok()) return Annotate(image.status(), "read kernel");
    for (const efi::FileRange& range : efi::AuthenticodeRanges(*image)) {
      SEALIFT_RETURN_IF_ERROR(
          parts_.kernel.Part(range.offset, range.size).ForEach(scratch_, 0, [&](ByteView bytes) -> Status {
            hasher_.Update(bytes);
            return OkStatus();
          }));
    }
    return hasher_.Finish();
  }

  std::string_view Keep(std::string text) { return texts_.emplace_back(std::move(text)); }

  const UkiParts& parts_;
  const UkiKeys& keys_;
  unsigned major_ = 0;
  std::vector<std::string_view> measured_;
  std::deque<std::string> texts_;
  std::vector<uki::UkiSection> sections_;
  Digests digests_;
  std::vector<SectionDigest> device_trees_;
  std::optional<Sha256Digest> kernel_;
  Sha256Hasher hasher_;
  Bytes scratch_;
  BuiltUki built_;
};

}  // namespace

Result<BuiltUki> BuildUki(const UkiParts& parts, const UkiKeys& keys) {
  SEALIFT_CHECK(keys.secure_boot != nullptr && keys.pcr != nullptr);
  Assembly assembly(parts, keys);
  SEALIFT_RETURN_IF_ERROR(assembly.Prepare());
  SEALIFT_ASSIGN_OR_RETURN(const uki::UkiLayout layout, assembly.Layout());
  SEALIFT_ASSIGN_OR_RETURN(efi::SignedImage image, uki::WriteUki(layout, assembly.Signer()));
  const std::uint64_t size = image.bytes.size();
  return assembly.Finish(std::move(image), size);
}

Result<BuiltUki> BuildUkiFile(const UkiParts& parts, const UkiKeys& keys, const std::filesystem::path& path) {
  SEALIFT_CHECK(keys.secure_boot != nullptr && keys.pcr != nullptr);
  Assembly assembly(parts, keys);
  SEALIFT_RETURN_IF_ERROR(assembly.Prepare());
  SEALIFT_ASSIGN_OR_RETURN(const uki::UkiLayout layout, assembly.Layout());
  SEALIFT_ASSIGN_OR_RETURN(const uki::WrittenImage written,
                           uki::WriteUkiFile(layout, assembly.Signer(), path));
  return assembly.Finish({.bytes = {}, .digest = written.digest}, written.size);
}

}  // namespace sealift::build
