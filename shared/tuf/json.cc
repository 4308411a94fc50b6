#include "shared/tuf/json.h"

#include <fmt/format.h>

#include <set>
#include <vector>

namespace sealift::tuf {
namespace {

using nlohmann::json;

Status Malformed(std::string_view message) {
  return MakeError(Code::kInvalidArgument, Reason::kTufMalformed, message);
}

// Counted before the parser runs, so that no deep tree is ever built.
bool DeeperThan(std::string_view text, std::size_t max_depth) {
  std::size_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '{' || c == '[') {
      if (++depth > max_depth) return true;
    }
    if ((c == '}' || c == ']') && depth > 0) --depth;
  }
  return false;
}

void WriteString(const std::string& text, std::string& out) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  out += '"';
}

// Depth is bounded by ParseJson, or by our own code for values we build.
bool Write(const json& value, std::string& out) {
  switch (value.type()) {
    case json::value_t::null:
      out += "null";
      return true;
    case json::value_t::boolean:
      out += value.get<bool>() ? "true" : "false";
      return true;
    case json::value_t::number_integer:
      out += std::to_string(value.get<std::int64_t>());
      return true;
    case json::value_t::number_unsigned:
      out += std::to_string(value.get<std::uint64_t>());
      return true;
    case json::value_t::string:
      WriteString(value.get_ref<const std::string&>(), out);
      return true;
    case json::value_t::array: {
      out += '[';
      bool first = true;
      for (const json& item : value) {
        if (!std::exchange(first, false)) out += ',';
        if (!Write(item, out)) return false;
      }
      out += ']';
      return true;
    }
    case json::value_t::object: {
      out += '{';
      bool first = true;
      for (const auto& [key, member] : value.get_ref<const json::object_t&>()) {
        if (!std::exchange(first, false)) out += ',';
        WriteString(key, out);
        out += ':';
        if (!Write(member, out)) return false;
      }
      out += '}';
      return true;
    }
    default:
      return false;
  }
}

const json& EmptyObject() {
  static const json empty = json::object();
  return empty;
}

const json& EmptyArray() {
  static const json empty = json::array();
  return empty;
}

}  // namespace

Result<json> ParseJson(std::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return MakeError(Code::kInvalidArgument, Reason::kTufTooLarge,
                     fmt::format("parse JSON: {} bytes are more than {}", text.size(), limits.max_bytes));
  }
  if (DeeperThan(text, limits.max_depth)) {
    return Malformed(fmt::format("parse JSON: nested deeper than {}", limits.max_depth));
  }
  std::vector<std::set<std::string>> open;
  bool duplicate = false;
  const auto watch = [&](int, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) open.emplace_back();
    if (event == json::parse_event_t::object_end) open.pop_back();
    if (event == json::parse_event_t::key) {
      duplicate = !open.back().insert(parsed.get<std::string>()).second || duplicate;
    }
    return true;
  };
  json value = json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (value.is_discarded()) return Malformed("parse JSON: not well formed");
  if (duplicate) return Malformed("parse JSON: an object names a key twice");
  return value;
}

Result<std::string> CanonicalJson(const json& value) {
  std::string out;
  if (!Write(value, out)) return Malformed("write canonical JSON: a number is not an integer");
  return out;
}

std::string CompactJson(const json& value) { return value.dump(); }

ObjectReader::ObjectReader(const json& object, std::string what) : object_(object), what_(std::move(what)) {
  if (!object_.is_object()) status_ = Malformed(fmt::format("read {}: not an object", what_));
}

void ObjectReader::Problem(std::string_view key, std::string_view what) {
  if (status_.ok()) status_ = Malformed(fmt::format("read {}: '{}' {}", what_, key, what));
}

bool ObjectReader::Has(std::string_view key) const {
  return object_.is_object() && object_.contains(std::string(key));
}

const json* ObjectReader::Find(std::string_view key) {
  if (!status_.ok()) return nullptr;
  const auto found = object_.find(std::string(key));
  if (found == object_.end()) {
    Problem(key, "is missing");
    return nullptr;
  }
  return &*found;
}

std::string ObjectReader::String(std::string_view key, std::size_t max_bytes) {
  const json* value = Find(key);
  if (value == nullptr) return {};
  if (!value->is_string() || value->get_ref<const std::string&>().size() > max_bytes) {
    Problem(key, fmt::format("is not a string of at most {} bytes", max_bytes));
    return {};
  }
  return value->get<std::string>();
}

std::uint64_t ObjectReader::Unsigned(std::string_view key, std::uint64_t min, std::uint64_t max) {
  const json* value = Find(key);
  if (value == nullptr) return 0;
  // A parsed number is number_unsigned; one that our own code put there may be number_integer.
  const bool whole =
      value->is_number_unsigned() || (value->is_number_integer() && value->get<std::int64_t>() >= 0);
  const std::uint64_t number = whole ? value->get<std::uint64_t>() : 0;
  if (!whole || number < min || number > max) {
    Problem(key, fmt::format("is not a whole number from {} to {}", min, max));
    return 0;
  }
  return number;
}

bool ObjectReader::Boolean(std::string_view key) {
  const json* value = Find(key);
  if (value == nullptr) return false;
  if (!value->is_boolean()) {
    Problem(key, "is not true or false");
    return false;
  }
  return value->get<bool>();
}

Sha256Digest ObjectReader::Digest(std::string_view key) {
  const std::string hex = String(key, 64);
  if (!ok()) return {};
  const Result<Sha256Digest> digest = Sha256Digest::FromHex(hex);
  if (!digest.ok() || digest->hex() != hex) {
    Problem(key, "is not a SHA-256 in lower-case hex");
    return {};
  }
  return *digest;
}

const json& ObjectReader::Object(std::string_view key, std::size_t max_members) {
  const json* value = Find(key);
  if (value == nullptr) return EmptyObject();
  if (!value->is_object() || value->size() > max_members) {
    Problem(key, fmt::format("is not an object of at most {} members", max_members));
    return EmptyObject();
  }
  return *value;
}

const json& ObjectReader::Array(std::string_view key, std::size_t max_members) {
  const json* value = Find(key);
  if (value == nullptr) return EmptyArray();
  if (!value->is_array() || value->size() > max_members) {
    Problem(key, fmt::format("is not a list of at most {} members", max_members));
    return EmptyArray();
  }
  return *value;
}

}  // namespace sealift::tuf
