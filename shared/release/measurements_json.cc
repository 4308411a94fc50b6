#include "shared/release/measurements_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace sealift {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxListed = 64;
constexpr std::size_t kMaxPathBytes = 255;
constexpr std::size_t kMaxPhaseBytes = 128;
constexpr std::uint32_t kMaxProfile = 255;
// COMMAND_LINE_SIZE of the kernel on x86, less the NUL.
constexpr std::size_t kMaxCommandLine = 2047;

bool OnlyOf(std::string_view text, std::string_view extra) {
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           extra.find(c) != std::string_view::npos;
  });
}

bool IsPhasePath(std::string_view phase) { return phase.size() <= kMaxPhaseBytes && OnlyOf(phase, ":-"); }

bool HasControl(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

Status ReadStarted(const json& value, StartedImages& started) {
  tuf::ObjectReader reader(value, "pcr4 of release manifest");
  started.boot_loader = reader.Digest("boot_loader");
  started.uki = reader.Digest("uki");
  if (reader.Has("kernel")) started.kernel = reader.Digest("kernel");
  return reader.ok() ? OkStatus() : InvalidManifest(MessageOf(reader.status()));
}

Status ReadSha384(tuf::ObjectReader& reader, ImageMeasurements& image) {
  for (const auto& [phase, value] : reader.Object("pcr11_sha384", kMaxListed).items()) {
    const Result<Sha384Digest> digest = Sha384Digest::FromHex(
        value.is_string() ? std::string_view(value.get_ref<const std::string&>()) : std::string_view());
    if (!digest.ok() || !IsPhasePath(phase))
      return InvalidManifest("'pcr11_sha384' holds no digest by phase");
    image.pcr11_sha384[phase] = *digest;
  }
  return OkStatus();
}

}  // namespace

Status InvalidManifest(std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kReleaseManifestInvalid,
                   fmt::format("read release manifest: {}", why));
}

json Pcr11Json(const std::vector<PhasePrediction>& phases) {
  json list = json::array();
  for (const PhasePrediction& one : phases)
    list.push_back({{"phase", one.phase}, {"pcr11", one.pcr11.hex()}});
  return list;
}

json SectionsJson(const std::map<std::string, Sha256Digest>& sections) {
  json object = json::object();
  for (const auto& [name, digest] : sections) object[name] = digest.hex();
  return object;
}

json EventsJson(const std::vector<ParameterEvent>& events) {
  json list = json::array();
  for (const ParameterEvent& event : events)
    list.push_back({{"description", event.description}, {"sha256", event.digest.hex()}});
  return list;
}

json ImageJson(const ImageMeasurements& image) {
  json value = {{"path", image.path},
                {"command_line", image.command_line},
                {"sections", SectionsJson(image.sections)},
                {"pcr11", Pcr11Json(image.pcr11)},
                {"pcr4", {{"boot_loader", image.pcr4.boot_loader.hex()}, {"uki", image.pcr4.uki.hex()}}},
                {"pcr12", EventsJson(image.pcr12)}};
  if (!image.pcr13.empty()) value["pcr13"] = EventsJson(image.pcr13);
  if (image.profile != 0) value["profile"] = image.profile;
  if (image.pcr4.kernel.has_value()) value["pcr4"]["kernel"] = image.pcr4.kernel->hex();
  for (const auto& [phase, digest] : image.pcr11_sha384) value["pcr11_sha384"][phase] = digest.hex();
  return value;
}

Result<std::vector<PhasePrediction>> ReadPcr11(tuf::ObjectReader& reader) {
  std::vector<PhasePrediction> phases;
  std::set<std::string> seen;
  for (const json& value : reader.Array("pcr11", kMaxListed)) {
    tuf::ObjectReader item(value, "phase of release manifest");
    PhasePrediction prediction{.phase = item.String("phase", kMaxPhaseBytes), .pcr11 = item.Digest("pcr11")};
    if (!item.ok()) return InvalidManifest(MessageOf(item.status()));
    if (!IsPhasePath(prediction.phase))
      return InvalidManifest("a phase has characters beyond words and colons");
    if (!seen.insert(prediction.phase).second) return InvalidManifest("a phase is listed twice");
    phases.push_back(std::move(prediction));
  }
  return phases;
}

Result<std::map<std::string, Sha256Digest>> ReadSections(tuf::ObjectReader& reader) {
  std::map<std::string, Sha256Digest> sections;
  const json& object = reader.Object("sections", kMaxListed);
  tuf::ObjectReader digests(object, "sections of release manifest");
  for (const auto& [name, value] : object.items()) {
    if (name.size() < 2 || name.size() > 16 || name.front() != '.' || !OnlyOf(name, "._-"))
      return InvalidManifest("a section's name is not one");
    sections[name] = digests.Digest(name);
  }
  if (!digests.ok()) return InvalidManifest(MessageOf(digests.status()));
  return sections;
}

Result<std::vector<ParameterEvent>> ReadEvents(tuf::ObjectReader& reader, const char* member) {
  std::vector<ParameterEvent> events;
  for (const json& event : reader.Array(member, kMaxListed)) {
    tuf::ObjectReader item(event, "event of release manifest");
    events.push_back(
        {.description = item.String("description", kMaxPathBytes), .digest = item.Digest("sha256")});
    if (!item.ok()) return InvalidManifest(MessageOf(item.status()));
    if (HasControl(events.back().description)) return InvalidManifest("a description is not one line");
  }
  return events;
}

Result<ImageMeasurements> ReadImage(const json& value) {
  tuf::ObjectReader reader(value, "image of release manifest");
  ImageMeasurements image;
  image.path = reader.String("path", kMaxPathBytes);
  if (reader.Has("profile"))
    image.profile = static_cast<std::uint32_t>(reader.Unsigned("profile", 1, kMaxProfile));
  image.command_line = reader.String("command_line", kMaxCommandLine);
  if (HasControl(image.command_line)) return InvalidManifest("a command line is not one line");
  SEALIFT_ASSIGN_OR_RETURN(image.sections, ReadSections(reader));
  SEALIFT_ASSIGN_OR_RETURN(image.pcr11, ReadPcr11(reader));
  SEALIFT_RETURN_IF_ERROR(ReadStarted(reader.Object("pcr4", kMaxListed), image.pcr4));
  if (reader.Has("pcr11_sha384")) SEALIFT_RETURN_IF_ERROR(ReadSha384(reader, image));
  SEALIFT_ASSIGN_OR_RETURN(image.pcr12, ReadEvents(reader, "pcr12"));
  if (reader.Has("pcr13")) {
    SEALIFT_ASSIGN_OR_RETURN(image.pcr13, ReadEvents(reader, "pcr13"));
  }
  if (!reader.ok()) return InvalidManifest(MessageOf(reader.status()));
  return image;
}

}  // namespace sealift
