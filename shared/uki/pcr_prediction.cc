#include "shared/uki/pcr_prediction.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "shared/crypto/hash.h"
#include "shared/uki/sections.h"

namespace sealift::uki {
namespace {

constexpr std::string_view kBootAction = "Calling EFI Application from Boot Option";

MeasuredEvent Separator() {
  const std::array<std::uint8_t, 4> zeros{};
  return {.description = "separator", .digest = Sha256(zeros)};
}

}  // namespace

Sha256Digest ExtendPcr(const Sha256Digest& old, const Sha256Digest& digest) {
  Sha256Hasher hasher;
  hasher.Update(old.view());
  hasher.Update(digest.view());
  return hasher.Finish();
}

Sha256Digest PcrPrediction::Value() const {
  Sha256Digest value;
  for (const MeasuredEvent& event : events) value = ExtendPcr(value, event.digest);
  return value;
}

Result<std::vector<Pcr11Step>> Pcr11Steps(std::span<const std::string_view> sections, unsigned stub_major,
                                          std::string_view phases) {
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<std::string_view> names, MeasuredSections(stub_major));
  for (const std::string_view name : sections) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                       fmt::format("predict PCR 11: stub {} does not measure section {}", stub_major, name));
    }
  }
  std::vector<Pcr11Step> steps;
  for (const std::string_view name : names) {
    if (std::find(sections.begin(), sections.end(), name) == sections.end()) continue;
    steps.push_back({.description = fmt::format("name of section {}", name),
                     .section = {},
                     .text = std::string(name) + '\0'});
    steps.push_back(
        {.description = fmt::format("section {}", name), .section = std::string(name), .text = {}});
  }
  while (!phases.empty()) {
    const std::size_t end = phases.find(':');
    const std::string_view word = phases.substr(0, end);
    if (word.empty() || end == phases.size() - 1) {
      return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                       "predict PCR 11: a phase path with an empty word");
    }
    steps.push_back({.description = fmt::format("phase {}", word), .section = {}, .text = std::string(word)});
    phases.remove_prefix(end == std::string_view::npos ? phases.size() : end + 1);
  }
  return steps;
}

Result<PcrPrediction> PredictPcr11(const std::map<std::string, Sha256Digest>& section_digests,
                                   unsigned stub_major, std::string_view phases) {
  std::vector<std::string_view> names;
  for (const auto& [name, digest] : section_digests) names.push_back(name);
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<Pcr11Step> steps, Pcr11Steps(names, stub_major, phases));
  PcrPrediction prediction;
  for (const Pcr11Step& step : steps) {
    prediction.events.push_back(
        {.description = step.description,
         .digest = step.section.empty() ? Sha256(AsBytes(step.text)) : section_digests.at(step.section)});
  }
  return prediction;
}

PcrPrediction PredictPcr4(std::span<const StartedImage> images) {
  PcrPrediction prediction;
  prediction.events.push_back({.description = "boot option", .digest = Sha256(AsBytes(kBootAction))});
  prediction.events.push_back(Separator());
  for (const StartedImage& image : images)
    prediction.events.push_back({"image " + image.name, image.authenticode});
  return prediction;
}

Sha256Digest VariableEventDigest(const efi::Guid& vendor, std::string_view name, ByteView data) {
  const Bytes utf16 = Utf16Le(name);
  ByteWriter head(ByteWriter::Endian::kLittle);
  head.Raw(vendor.view());
  head.U64(utf16.size() / 2);
  head.U64(data.size());
  head.Raw(utf16);
  Sha256Hasher hasher;
  hasher.Update(head.bytes());
  hasher.Update(data);
  return hasher.Finish();
}

PcrPrediction PredictPcr7(const SecureBootVariables& variables,
                          std::span<const efi::SignatureEntry> authorities) {
  PcrPrediction prediction;
  const auto add = [&](const efi::Guid& vendor, std::string_view name, ByteView data) {
    prediction.events.push_back({fmt::format("variable {}", name), VariableEventDigest(vendor, name, data)});
  };
  const auto held = [&](const Bytes& data) { return variables.enabled ? ByteView(data) : ByteView(); };
  const std::array<std::uint8_t, 1> flag = {static_cast<std::uint8_t>(variables.enabled ? 1 : 0)};
  add(efi::kGlobalVariable, "SecureBoot", flag);
  add(efi::kGlobalVariable, "PK", held(variables.pk));
  add(efi::kGlobalVariable, "KEK", held(variables.kek));
  add(efi::kImageSecurityDatabase, "db", held(variables.db));
  add(efi::kImageSecurityDatabase, "dbx", held(variables.dbx));
  prediction.events.push_back(Separator());
  if (!variables.enabled) return prediction;
  std::vector<const efi::SignatureEntry*> seen;
  for (const efi::SignatureEntry& entry : authorities) {
    const bool repeated =
        std::any_of(seen.begin(), seen.end(), [&](const auto* old) { return *old == entry; });
    if (repeated) continue;
    seen.push_back(&entry);
    prediction.events.push_back(
        {.description = "authority from db",
         .digest = VariableEventDigest(efi::kImageSecurityDatabase, "db", entry.Serialize())});
  }
  return prediction;
}

PcrPrediction PredictPcr12(std::string_view options) {
  PcrPrediction prediction;
  if (options.empty()) return prediction;
  Bytes text = Utf16Le(options);
  text.resize(text.size() + 2);
  prediction.events.push_back({.description = "options of the boot entry", .digest = Sha256(text)});
  return prediction;
}

MeasuredEvent ProfileEvent(std::uint32_t profile) {
  Bytes text = Utf16Le(std::to_string(profile));
  text.resize(text.size() + 2);
  return {.description = fmt::format("profile {}", profile), .digest = Sha256(text)};
}

}  // namespace sealift::uki
