#include "shared/release/extension_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "shared/base/ids.h"

namespace sealift {
namespace {

using nlohmann::json;

constexpr int kFormat = 1;
constexpr char kConfextKind[] = "confext";
constexpr std::string_view kConfextSuffix = ".confext.raw";
constexpr std::size_t kMaxListBytes = 256u << 10;
constexpr std::size_t kMaxNameBytes = 64;
constexpr std::size_t kMaxOsWordBytes = 128;
constexpr std::string_view kAny = "_any";

Status Bad(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kExtensionInvalid,
                   fmt::format("read extension list: {}", what));
}

// `missing` is set where the member is not what it has to be.
class Members {
 public:
  explicit Members(const json& object) : object_(object) {}
  std::string Text(const char* key, std::size_t most) {
    const auto found = object_.find(key);
    if (found != object_.end() && found->is_string()) {
      auto text = found->get<std::string>();
      if (text.size() <= most) return text;
    }
    whole_ = false;
    return "";
  }
  Sha256Digest Digest(const char* key) {
    const auto digest = Sha256Digest::FromHex(Text(key, 64));
    if (digest.ok()) return *digest;
    whole_ = false;
    return {};
  }
  std::uint64_t Number(const char* key) {
    const auto found = object_.find(key);
    if (found != object_.end() && found->is_number_unsigned()) return found->get<std::uint64_t>();
    whole_ = false;
    return 0;
  }
  bool whole() const { return whole_; }

 private:
  const json& object_;
  bool whole_ = true;
};

Result<ListedExtension> ExtensionFrom(const json& value) {
  if (!value.is_object()) return Bad("an entry is no object");
  Members members(value);
  ListedExtension extension{.name = members.Text("name", kMaxNameBytes),
                            .version = members.Text("version", kMaxOsWordBytes),
                            .digest = members.Digest("sha256"),
                            .size = members.Number("size"),
                            .root_hash = members.Digest("root_hash"),
                            .os_id = members.Text("os_id", kMaxOsWordBytes),
                            .os_version_id = members.Text("os_version_id", kMaxOsWordBytes)};
  if (!members.whole()) return Bad("an entry lacks a member, or has one of the wrong kind");
  if (!IsValidExtensionName(extension.name)) return Bad("a name is not one of an extension");
  if (!IsValidVersion(extension.version)) return Bad(fmt::format("{}: its version is none", extension.name));
  if (extension.os_id.empty()) return Bad(fmt::format("{}: it names no OS", extension.name));
  if (const auto kind = value.find("kind"); kind != value.end()) {
    if (*kind != kConfextKind) return Bad(fmt::format("{}: its kind is unknown", extension.name));
    extension.kind = ExtensionKind::kConfiguration;
  }
  return extension;
}

}  // namespace

bool IsValidExtensionName(std::string_view name) {
  const auto alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  return !name.empty() && name.size() <= kMaxNameBytes && alphanumeric(name.front()) &&
         !name.ends_with(".confext") && !name.ends_with(".sysext") && std::ranges::all_of(name, [&](char c) {
           return alphanumeric(c) || c == '.' || c == '_' || c == '-';
         });
}

ExtensionKind ExtensionKindOfFile(std::string_view file_name) {
  return file_name.ends_with(kConfextSuffix) ? ExtensionKind::kConfiguration : ExtensionKind::kSystem;
}

std::string ListedExtension::FileName() const {
  return fmt::format("{}{}", name, kind == ExtensionKind::kConfiguration ? kConfextSuffix : ".raw");
}

std::string FormatExtensionList(const std::vector<ListedExtension>& extensions) {
  json list = json::array();
  for (const ListedExtension& one : extensions) {
    json entry = {{"name", one.name},
                  {"version", one.version},
                  {"sha256", one.digest.hex()},
                  {"size", one.size},
                  {"root_hash", one.root_hash.hex()},
                  {"os_id", one.os_id},
                  {"os_version_id", one.os_version_id}};
    if (one.kind == ExtensionKind::kConfiguration) entry["kind"] = kConfextKind;
    list.push_back(std::move(entry));
  }
  return json{{"format", kFormat}, {"extensions", std::move(list)}}.dump();
}

Result<std::vector<ListedExtension>> ParseExtensionList(std::string_view text) {
  if (text.size() > kMaxListBytes) return Bad("it is larger than 256 KiB");
  const json value = json::parse(text, nullptr, false);
  if (!value.is_object() || value.value("format", json()) != json(kFormat))
    return Bad("it is no extension list of format 1");
  const auto list = value.find("extensions");
  if (list == value.end() || !list->is_array() || list->size() > kMaxExtensions)
    return Bad("it has no list of at most 64 extensions");
  std::vector<ListedExtension> extensions;
  for (const json& one : *list) {
    SEALIFT_ASSIGN_OR_RETURN(ListedExtension extension, ExtensionFrom(one));
    const auto same = [&](const ListedExtension& other) { return other.name == extension.name; };
    if (std::ranges::any_of(extensions, same)) return Bad(fmt::format("{} is there twice", extension.name));
    extensions.push_back(std::move(extension));
  }
  return extensions;
}

Status CheckExtensionFits(const ListedExtension& extension, std::string_view os_id,
                          std::string_view os_version_id) {
  const auto refuse = [&](std::string_view wants, std::string_view has) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kExtensionInvalid,
        fmt::format("use extension {}: it is for {}, and this is {}", extension.name, wants, has));
  };
  if (extension.os_id == kAny) return OkStatus();
  if (extension.os_id != os_id) return refuse("ID=" + extension.os_id, fmt::format("ID={}", os_id));
  if (extension.os_version_id.empty() || extension.os_version_id == os_version_id) return OkStatus();
  return refuse("VERSION_ID=" + extension.os_version_id, fmt::format("VERSION_ID={}", os_version_id));
}

}  // namespace sealift
