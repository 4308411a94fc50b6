// JSON of foreign origin, read with bounds, and the one form in which it is hashed and signed.
//
// Thread-safe functions. Only shared/tuf, shared/release and shared/order include this header: nlohmann's
// type stays behind their own models.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::tuf {

struct JsonLimits {
  std::size_t max_bytes = 1u << 20;
  // Nesting of objects and arrays.
  std::size_t max_depth = 16;
};

// Refuses what is larger or deeper than `limits`, invalid UTF-8, text after the value, and an object that
// names a key twice (two readers could take different values for the same signed bytes).
// Errors: INVALID_ARGUMENT/TUF_TOO_LARGE, INVALID_ARGUMENT/TUF_MALFORMED.
Result<nlohmann::json> ParseJson(std::string_view text, const JsonLimits& limits);

// OLPC canonical JSON: no white space, keys in byte order, only `"` and `\` escaped, integers only. For
// hashing and signing alone: with control characters in a string, such as the line ends of a PEM, it is no
// JSON that a parser takes.
// Errors: INVALID_ARGUMENT/TUF_MALFORMED for a number that is not an integer.
Result<std::string> CanonicalJson(const nlohmann::json& value);

// JSON to store and send: no white space, keys in byte order. `value` holds valid UTF-8, as all that
// ParseJson returns does.
std::string CompactJson(const nlohmann::json& value);

// Typed access to the members of an object of foreign origin. Not thread-safe; borrows the object.
//
// Like ByteReader, the first thing missing or of the wrong kind makes every later read fail too: read a whole
// structure, then check status() once. Members nobody asks for are allowed.
class ObjectReader {
 public:
  // `what` begins every message: "tuf root".
  ObjectReader(const nlohmann::json& object, std::string what);

  std::string String(std::string_view key, std::size_t max_bytes);
  std::uint64_t Unsigned(std::string_view key, std::uint64_t min, std::uint64_t max);
  bool Boolean(std::string_view key);
  // Lower-case hex of 32 bytes.
  Sha256Digest Digest(std::string_view key);
  // An empty object or array when it is missing or of another kind.
  const nlohmann::json& Object(std::string_view key, std::size_t max_members);
  const nlohmann::json& Array(std::string_view key, std::size_t max_members);
  bool Has(std::string_view key) const;

  void Problem(std::string_view key, std::string_view what);
  bool ok() const { return status_.ok(); }
  // Errors: INVALID_ARGUMENT/TUF_MALFORMED naming the first problem.
  const Status& status() const { return status_; }

 private:
  const nlohmann::json* Find(std::string_view key);

  const nlohmann::json& object_;
  std::string what_;
  Status status_;
};

}  // namespace sealift::tuf
