// The options of `sealift build-uki`.
#pragma once

#include <string>
#include <vector>

#include "controller/build/release_builder.h"
#include "controller/cli/verbs.h"

namespace sealift::cli {

struct BuildArguments {
  std::string source;
  std::string type = "uki";
  std::string out;
  // Of the ISO or the container archive, without extension; empty: from the version.
  std::string name;
  std::string overlay_iso;
  std::string keys_folder;
  std::vector<std::string> tokens;
  std::string journal;
  std::vector<std::string> generations;
  std::string node_config_file;
  bool allow_expired = false;
  bool preflight_only = false;
  // What happens anyway; the option excludes others.
  bool parts_from_source = false;
  // MiB.
  std::uint64_t efi_size_warn = 1024;
  std::uint64_t esp_size = 1024;
  build::ReleaseOptions release;
};

// Adds every option to the verb; `arguments` outlives it.
void AddBuildOptions(CLI::App& verb, BuildArguments& arguments);

}  // namespace sealift::cli
