#include "hsm/inventory.h"

#include <fmt/format.h>

#include <set>

#include "shared/base/files.h"
#include "shared/tuf/json.h"

namespace sealift::hsm {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxBytes = 1u << 20;
constexpr std::size_t kMaxKeys = 1024;
constexpr std::size_t kMaxCopies = 64;

Status Invalid(std::string_view what) {
  return MakeError(Code::kFailedPrecondition, Reason::kKeySetInvalid,
                   fmt::format("read key inventory: {}", what));
}

json ToJson(const InventoryKey& key) {
  json object = {{"role", key.role},
                 {"group", std::string(GroupName(key.group))},
                 {"generation", key.generation},
                 {"algorithm", std::string(AlgorithmName(key.algorithm))},
                 {"key_id", key.key_id.hex()},
                 {"label", key.label},
                 {"token", key.token_uri},
                 {"born_in_token", key.born_in_token}};
  if (key.wrappable) object["wrappable"] = true;
  if (!key.copies.empty()) object["copies"] = key.copies;
  if (key.has_certificate) {
    object["certificate"] = {{"sha256", key.certificate_fingerprint.hex()},
                             {"not_before", FormatRfc3339(key.not_before)},
                             {"not_after", FormatRfc3339(key.not_after)}};
  }
  return object;
}

Status ReadCertificate(const json& object, InventoryKey& key) {
  tuf::ObjectReader reader(object, "certificate");
  key.certificate_fingerprint = reader.Digest("sha256");
  const std::string not_before = reader.String("not_before", 32);
  const std::string not_after = reader.String("not_after", 32);
  if (!reader.ok()) return Invalid(MessageOf(reader.status()));
  SEALIFT_ASSIGN_OR_RETURN(key.not_before, ParseRfc3339(not_before));
  SEALIFT_ASSIGN_OR_RETURN(key.not_after, ParseRfc3339(not_after));
  key.has_certificate = true;
  return OkStatus();
}

Result<InventoryKey> ReadKey(const json& object) {
  tuf::ObjectReader reader(object, "key");
  InventoryKey key;
  key.role = reader.String("role", 64);
  const std::string group = reader.String("group", 64);
  key.generation = static_cast<std::uint32_t>(reader.Unsigned("generation", 1, 1'000'000));
  const std::string algorithm = reader.String("algorithm", 64);
  key.key_id = reader.Digest("key_id");
  key.label = reader.String("label", 128);
  key.token_uri = reader.String("token", 4096);
  key.born_in_token = reader.Boolean("born_in_token");
  if (reader.Has("wrappable")) key.wrappable = reader.Boolean("wrappable");
  if (reader.Has("copies")) {
    for (const json& copy : reader.Array("copies", kMaxCopies)) {
      if (!copy.is_string()) return Invalid("a copy of a key is no text");
      key.copies.push_back(copy.get<std::string>());
    }
  }
  if (!reader.ok()) return Invalid(MessageOf(reader.status()));
  const auto parsed_group = ParseGroup(group);
  const auto parsed_algorithm = AlgorithmFromName(algorithm);
  if (FindRole(key.role) == nullptr || !parsed_group.ok() || !parsed_algorithm.has_value()) {
    return Invalid(
        fmt::format("role '{}', group '{}' or algorithm '{}' is unknown", key.role, group, algorithm));
  }
  key.group = *parsed_group;
  key.algorithm = *parsed_algorithm;
  if (reader.Has("certificate")) {
    SEALIFT_RETURN_IF_ERROR(ReadCertificate(reader.Object("certificate", 8), key));
  }
  return key;
}

Status ReadTimes(const json& object, Inventory& inventory) {
  tuf::ObjectReader reader(object, "variable_times");
  for (const auto& [variable, value] : object.items()) {
    const std::string text = reader.String(variable, 32);
    if (!reader.ok()) return Invalid(MessageOf(reader.status()));
    SEALIFT_ASSIGN_OR_RETURN(inventory.variable_times[variable], ParseRfc3339(text));
  }
  return OkStatus();
}

}  // namespace

const InventoryKey* Inventory::Newest(std::string_view role) const {
  const InventoryKey* newest = nullptr;
  for (const InventoryKey& key : keys) {
    if (key.role == role && (newest == nullptr || key.generation > newest->generation)) newest = &key;
  }
  return newest;
}

std::vector<const InventoryKey*> Inventory::Generations(std::string_view role) const {
  std::vector<const InventoryKey*> found;
  for (const InventoryKey& key : keys) {
    if (key.role == role) found.push_back(&key);
  }
  return found;
}

std::string Inventory::Serialize() const {
  json list = json::array();
  for (const InventoryKey& key : keys) list.push_back(ToJson(key));
  json object = {{"format", kInventoryFormat},
                 {"set", set},
                 {"owner", owner.text()},
                 {"created", FormatRfc3339(created)},
                 {"keys", std::move(list)}};
  for (const auto& [variable, time] : variable_times)
    object["variable_times"][variable] = FormatRfc3339(time);
  return object.dump(2) + "\n";
}

Result<Inventory> Inventory::Parse(std::string_view text) {
  const auto parsed = tuf::ParseJson(text, {.max_bytes = kMaxBytes, .max_depth = 6});
  if (!parsed.ok()) return Invalid(MessageOf(parsed.status()));
  tuf::ObjectReader reader(*parsed, "inventory");
  reader.Unsigned("format", kInventoryFormat, kInventoryFormat);
  Inventory inventory;
  inventory.set = reader.String("set", 64);
  const std::string owner = reader.String("owner", 36);
  const std::string created = reader.String("created", 32);
  const json& keys = reader.Array("keys", kMaxKeys);
  if (!reader.ok()) return Invalid(MessageOf(reader.status()));
  if (!IsValidSetName(inventory.set)) return Invalid("its set name is not valid");
  SEALIFT_ASSIGN_OR_RETURN(inventory.owner, efi::Guid::Parse(owner));
  SEALIFT_ASSIGN_OR_RETURN(inventory.created, ParseRfc3339(created));
  if (reader.Has("variable_times")) {
    SEALIFT_RETURN_IF_ERROR(ReadTimes(reader.Object("variable_times", 8), inventory));
  }
  std::set<std::pair<std::string, std::uint32_t>> seen;
  for (const json& object : keys) {
    SEALIFT_ASSIGN_OR_RETURN(InventoryKey key, ReadKey(object));
    if (!seen.emplace(key.role, key.generation).second) {
      return Invalid(fmt::format("key '{}' generation {} is listed twice", key.role, key.generation));
    }
    inventory.keys.push_back(std::move(key));
  }
  return inventory;
}

Result<Inventory> Inventory::Load(const std::filesystem::path& keys_folder) {
  const auto text = ReadTextFile(keys_folder / kInventoryFile, kMaxBytes);
  if (!text.ok()) return Annotate(text.status(), fmt::format("open key set '{}'", keys_folder.string()));
  auto parsed = Parse(*text);
  if (!parsed.ok()) return Annotate(parsed.status(), fmt::format("open key set '{}'", keys_folder.string()));
  return parsed;
}

}  // namespace sealift::hsm
