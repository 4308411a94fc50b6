// What is wrong with an image before it is built: every problem at once, each with a stable name.
//
// Thread-safe functions over plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "controller/build/boot_menu.h"
#include "controller/source/tree.h"

namespace sealift::build {

enum class Severity { kWarning, kError };

// One row of the list of all findings: docs/preflight.md explains them.
struct FindingKind {
  std::string_view name;
  Severity severity = Severity::kError;
};
std::span<const FindingKind> AllFindingKinds();

struct Finding {
  // Of a FindingKind.
  std::string name;
  Severity severity = Severity::kError;
  // One sentence, lower-case, no final period.
  std::string text;
  // The operator means it: no longer an error.
  bool allowed = false;
};

struct PreflightInput {
  const Tree* tree = nullptr;
  const std::vector<MenuEntry>* menu = nullptr;
  // Text of node.toml, if one goes in; else the tree's own is looked at.
  std::optional<std::string> node_config;
  // Found or not; the release from its header, empty where it does not tell.
  Status kernel;
  std::string kernel_release;
  // Version asked for on the command line, else empty.
  std::string version;
};

// Reads small files of the tree only; takes milliseconds. A file that cannot be read counts as absent.
std::vector<Finding> InspectTree(const PreflightInput& input);

struct SizeLimits {
  // An image above it is warned about.
  std::uint64_t warn_image_bytes = std::uint64_t{1024} << 20;
  // What an EFI system partition of these machines holds.
  std::uint64_t esp_bytes = std::uint64_t{1024} << 20;
};
// Once the images exist: `largest` image, and all files of the release together.
std::vector<Finding> InspectSizes(std::uint64_t largest, std::uint64_t total, const SizeLimits& limits);

// Marks findings whose name is in `allowed`. Errors: INVALID_ARGUMENT for a name that no finding can have;
// FAILED_PRECONDITION/PREFLIGHT_FAILED with every error that is left, "; " between them.
Status Judge(std::vector<Finding>& findings, const std::vector<std::string>& allowed);

}  // namespace sealift::build
