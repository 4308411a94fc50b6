#include "shared/order/fields.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/tuf/json.h"

namespace sealift::order {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxDepth = 8;
// 9999-12-31: what any date format here can say.
constexpr std::uint64_t kMaxUnixMs = 253'402'300'799'000;

bool HasControlCharacter(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0x7f;
  });
}

}  // namespace

Status Malformed(std::string_view what, std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kOrderMalformed, fmt::format("read {}: {}", what, why));
}

Result<json> ParseCanonical(std::string_view text, std::string_view what, std::size_t max_bytes) {
  if (HasControlCharacter(text)) return Malformed(what, "control characters in it");
  auto value = tuf::ParseJson(text, {.max_bytes = max_bytes, .max_depth = kMaxDepth});
  if (!value.ok()) return Malformed(what, MessageOf(value.status()));
  if (!value->is_object()) return Malformed(what, "no object");
  const auto canonical = tuf::CanonicalJson(*value);
  if (!canonical.ok() || *canonical != text) return Malformed(what, "not in canonical form");
  return value;
}

std::string WriteCanonical(const json& value) {
  auto text = tuf::CanonicalJson(value);
  SEALIFT_CHECK(text.ok());
  return std::move(text).value();
}

const json* Members::Find(std::string_view key) {
  if (!status_.ok()) return nullptr;
  ++asked_;
  const auto found = object_.find(std::string(key));
  if (found != object_.end()) return &*found;
  Problem(key, "missing");
  return nullptr;
}

void Members::Problem(std::string_view key, std::string_view why) {
  if (status_.ok()) status_ = Malformed(what_, fmt::format("{}: {}", key, why));
}

std::string Members::Text(std::string_view key, std::size_t max_bytes) {
  const json* value = Find(key);
  if (value == nullptr) return {};
  if (!value->is_string()) {
    Problem(key, "no text");
    return {};
  }
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > max_bytes) {
    Problem(key, "too long");
    return {};
  }
  return text;
}

std::uint64_t Members::Number(std::string_view key, std::uint64_t max) {
  const json* value = Find(key);
  if (value == nullptr) return 0;
  if (!value->is_number_unsigned() || value->get<std::uint64_t>() > max) {
    Problem(key, "no number in its range");
    return 0;
  }
  return value->get<std::uint64_t>();
}

UnixMillis Members::Time(std::string_view key) {
  return FromUnixMs(static_cast<std::int64_t>(Number(key, kMaxUnixMs)));
}

Bytes Members::Base64(std::string_view key, std::size_t max_bytes) {
  const std::string text = Text(key, max_bytes / 3 * 4 + 8);
  if (!status_.ok()) return {};
  auto bytes = Base64Decode(text);
  // One form: the decoder forgives white space.
  if (!bytes.ok() || Base64Encode(*bytes) != text) {
    Problem(key, "no base64");
    return {};
  }
  if (bytes->size() > max_bytes) Problem(key, "too long");
  return std::move(bytes).value();
}

Bytes Members::Hex(std::string_view key, std::size_t bytes, bool may_be_empty) {
  const std::string text = Text(key, bytes * 2);
  if (!status_.ok()) return {};
  auto value = HexDecode(text);
  const bool sized = value.ok() && (value->size() == bytes || (may_be_empty && value->empty()));
  if (!sized || HexEncode(*value) != text) {
    Problem(key, fmt::format("not {} bytes in lower-case hex", bytes));
    return {};
  }
  return std::move(value).value();
}

const json& Members::Object(std::string_view key) {
  static const json empty = json::object();
  const json* value = Find(key);
  if (value != nullptr && value->is_object()) return *value;
  Problem(key, "no object");
  return empty;
}

const json& Members::Array(std::string_view key, std::size_t max_members) {
  static const json empty = json::array();
  const json* value = Find(key);
  if (value != nullptr && value->is_array() && value->size() <= max_members) return *value;
  Problem(key, "no list, or too long");
  return empty;
}

void Members::Expect(std::string_view key, std::string_view text) {
  if (Text(key, 128) != text) Problem(key, fmt::format("not '{}'", text));
}

Status Members::Finish() {
  if (status_.ok() && asked_ != object_.size()) status_ = Malformed(what_, "members of another version");
  return status_;
}

}  // namespace sealift::order
