// Which releases a secret is for. An immutable value; thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"

namespace sealift::controller {

// Parts joined by commas, at most 16, each "CHANNEL:VERSIONS"; VERSIONS is one version, "FROM..TO" (both
// included), "FROM..", "..TO" or "*". Versions compare as everywhere (CompareVersions), never by time.
class ReleaseRule {
 public:
  // Errors: INVALID_ARGUMENT/INVALID_ARGUMENT naming the part, also for an empty rule: a secret is never for
  // whatever there may be.
  static Result<ReleaseRule> Parse(std::string_view text);
  bool Allows(std::string_view channel, std::string_view version) const;
  // Canonical, parses to the same.
  std::string text() const;

 private:
  struct Part {
    std::string channel;
    // Empty: no bound.
    std::string from;
    std::string to;
  };
  static Result<Part> ParsePart(std::string_view text);
  std::vector<Part> parts_;
};

}  // namespace sealift::controller
