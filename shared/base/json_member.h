// Members of JSON objects that came from elsewhere: what is not there, or is something else, is empty, which
// no such member may be. Pure, thread-safe.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift {

// The text member `name`.
inline std::string TextMember(const nlohmann::ordered_json& object, const char* name) {
  const auto found = object.find(name);
  const std::string* text = found == object.end() ? nullptr : found->get_ptr<const std::string*>();
  return text == nullptr ? std::string() : *text;
}

// The bytes of a text member in Base64; empty also where it is not that.
inline Bytes Base64Member(const nlohmann::ordered_json& object, const char* name) {
  Result<Bytes> bytes = Base64Decode(TextMember(object, name));
  return bytes.ok() ? *std::move(bytes) : Bytes();
}

}  // namespace sealift
