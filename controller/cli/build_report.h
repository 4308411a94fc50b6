// What a build says in the end, wherever it ran.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "controller/build/release_builder.h"
#include "controller/cli/verbs.h"
#include "sealift/v1/build.pb.h"

namespace sealift::cli {

struct ShownBuild {
  std::string type;
  // The folder of a release tree, or the file of a medium.
  std::string path;
  build::BuiltRelease built;
  // Of a build at a controller.
  std::string build_id = {};
  std::optional<v1::BuildResult::Published> published = std::nullopt;
};

void PrintBuild(const Session& session, const ShownBuild& build);
// Sets exit code 1 when the build would be refused.
void PrintPreflight(Session& session, const std::vector<build::Finding>& findings);

}  // namespace sealift::cli
