#include "shared/delta/content_list.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace sealift::delta {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxEntries = 64;
constexpr std::uint64_t kMaxObjectBytes = 1ull << 40;

Status Invalid(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kDeltaInvalid, fmt::format("read content list: {}", what));
}

Json ToJson(const ContentName& name) { return {{"digest", name.digest.hex()}, {"size", name.size}}; }

Result<ContentName> ReadName(const Json& value) {
  const auto digest = value.find("digest");
  const auto size = value.find("size");
  if (!value.is_object() || digest == value.end() || !digest->is_string() || size == value.end() ||
      !size->is_number_unsigned() || size->get<std::uint64_t>() > kMaxObjectBytes)
    return Invalid("an object has no digest or size");
  ContentName name;
  const Result<Sha256Digest> parsed = Sha256Digest::FromHex(digest->get<std::string>());
  if (!parsed.ok()) return Invalid("a digest is malformed");
  name.digest = *parsed;
  name.size = size->get<std::uint64_t>();
  return name;
}

Result<ImageContent> ReadImage(const Json& value) {
  if (!value.is_object()) return Invalid("an image is no object");
  ImageContent content;
  if (const auto index = value.find("index"); index != value.end()) {
    SEALIFT_ASSIGN_OR_RETURN(content.index, ReadName(*index));
  }
  const auto deltas = value.find("deltas");
  if (deltas == value.end()) return content;
  if (!deltas->is_object() || deltas->size() > kMaxEntries) return Invalid("the deltas are malformed");
  for (const auto& item : deltas->items()) {
    const Result<Sha256Digest> from = Sha256Digest::FromHex(item.key());
    if (!from.ok()) return Invalid("a digest is malformed");
    SEALIFT_ASSIGN_OR_RETURN(content.deltas[*from], ReadName(item.value()));
  }
  return content;
}

}  // namespace

std::string SerializeContentList(const ContentList& list) {
  Json images = Json::object();
  for (const auto& [digest, content] : list.images) {
    Json& image = images[digest.hex()] = Json::object();
    if (content.index) image["index"] = ToJson(*content.index);
    Json deltas = Json::object();
    for (const auto& [from, name] : content.deltas) deltas[from.hex()] = ToJson(name);
    if (!deltas.empty()) image["deltas"] = std::move(deltas);
  }
  return Json{{"format", 1}, {"images", std::move(images)}}.dump();
}

Result<ContentList> ParseContentList(std::string_view json) {
  if (json.size() > kMaxContentListBytes) return Invalid("it is too large");
  const Json value = Json::parse(json.begin(), json.end(), nullptr, false);
  if (!value.is_object()) return Invalid("it is no JSON object");
  const auto format = value.find("format");
  if (format == value.end() || !format->is_number_unsigned() || format->get<std::uint64_t>() != 1)
    return Invalid("its format is not known");
  const auto images = value.find("images");
  if (images == value.end() || !images->is_object() || images->size() > kMaxEntries)
    return Invalid("the images are malformed");
  ContentList list;
  for (const auto& item : images->items()) {
    const Result<Sha256Digest> digest = Sha256Digest::FromHex(item.key());
    if (!digest.ok()) return Invalid("a digest is malformed");
    SEALIFT_ASSIGN_OR_RETURN(list.images[*digest], ReadImage(item.value()));
  }
  return list;
}

}  // namespace sealift::delta
