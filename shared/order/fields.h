// Reading and writing the JSON of this folder: strict, so that every document has one form.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/status.h"

namespace sealift::order {

Status Malformed(std::string_view what, std::string_view why);

// An object that is its own canonical form (shared/tuf/json.h, without control characters). Errors:
// INVALID_ARGUMENT/ORDER_MALFORMED.
Result<nlohmann::json> ParseCanonical(std::string_view text, std::string_view what, std::size_t max_bytes);
// Of values built here: strings without control characters, integers.
std::string WriteCanonical(const nlohmann::json& value);

// The members of an object, each asked for once. The first thing missing or of the wrong kind makes status()
// an error; members that nobody asked for make Finish() one. Borrows the object.
class Members {
 public:
  Members(const nlohmann::json& object, std::string what) : object_(object), what_(std::move(what)) {}
  std::string Text(std::string_view key, std::size_t max_bytes);
  std::uint64_t Number(std::string_view key, std::uint64_t max);
  UnixMillis Time(std::string_view key);
  Bytes Base64(std::string_view key, std::size_t max_bytes);
  // Lower-case; `sizes`: the one size, or empty where that is allowed.
  Bytes Hex(std::string_view key, std::size_t bytes, bool may_be_empty);
  const nlohmann::json& Object(std::string_view key);
  const nlohmann::json& Array(std::string_view key, std::size_t max_members);
  void Expect(std::string_view key, std::string_view text);
  void Problem(std::string_view key, std::string_view why);
  Status Finish();

 private:
  const nlohmann::json* Find(std::string_view key);

  const nlohmann::json& object_;
  const std::string what_;
  std::size_t asked_ = 0;
  Status status_;
};

}  // namespace sealift::order
