// The part of YAML 1.1 that an install configuration may use, as a tree: mappings, lists and scalars.
//
// A parser of foreign bytes over libyaml's events. Bounded: kMaxYamlBytes, kMaxYamlNodes, kMaxYamlDepth. Not
// accepted, so that what a person reads is what the machine does: anchors and aliases, tags, several
// documents, keys that are no plain scalars, the same key twice. Plain values; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"

namespace sealift {

inline constexpr std::size_t kMaxYamlBytes = 256u << 10;
inline constexpr std::size_t kMaxYamlNodes = 10000;
inline constexpr std::size_t kMaxYamlDepth = 16;

struct YamlMember;

struct YamlNode {
  enum class Kind { kScalar, kList, kMap };
  Kind kind = Kind::kScalar;
  // Of a scalar. `quoted`: with quotes or as a block, so never a number, a boolean or nothing.
  std::string text;
  bool quoted = false;
  std::vector<YamlNode> items;
  // In the order of the file.
  std::vector<YamlMember> members;
  // From 1.
  std::size_t line = 0;

  // nullptr when this is no mapping or has no such key.
  const YamlNode* Find(std::string_view key) const;
  // A plain scalar of nothing, "~" or "null".
  bool IsNull() const;
};

struct YamlMember {
  std::string key;
  YamlNode value;
};

// An empty document is an empty mapping. Errors: INVALID_ARGUMENT/INSTALL_CONFIG_INVALID with the line.
Result<YamlNode> ParseYaml(std::string_view text);

}  // namespace sealift
