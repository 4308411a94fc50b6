// The options of `sealift build-uki`.
#pragma once

#include <string>
#include <vector>

#include "controller/buildhost/build_request.h"
#include "controller/cli/verbs.h"

namespace sealift::cli {

struct BuildArguments {
  controller::BuildRequest request;
  std::string keys_folder;
  std::vector<std::string> tokens;
  std::string journal;
  std::vector<std::string> generations;
  std::string node_config_file;
  std::string install_config_file;
  bool allow_expired = false;
  // Everything happens there; paths are that machine's.
  bool at_controller = false;
  std::string profile;
};

// Adds every option to the verb; `arguments` outlives it.
void AddBuildOptions(CLI::App& verb, BuildArguments& arguments);

}  // namespace sealift::cli
