// One build as it is asked for: by the options of `sealift build-uki`, or by BuildService.
//
// Plain values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "controller/build/release_builder.h"
#include "sealift/v1/build.pb.h"

namespace sealift::controller {

inline constexpr std::size_t kMaxNodeConfigBytes = 1u << 20;

struct BuildRequest {
  BuildRequest();

  // "uki", "iso" or "container".
  std::string type = "uki";
  // Folder for the result: a path, or for a build host a plain name below its output root.
  std::filesystem::path out;
  // Of the ISO or the container archive, without extension; empty: from the version.
  std::string name;
  std::filesystem::path overlay_iso;
  // What happens anyway; excludes a stub and a boot loader of other places.
  bool parts_from_source = false;
  // MiB.
  std::uint64_t efi_size_warn = 1024;
  std::uint64_t esp_size = 1024;
  bool preflight_only = false;
  // The channel to publish in; empty: not published. Of a build host only.
  std::string publish;
  // Sizes and output folder are filled in by the build.
  build::ReleaseOptions release;
};

// Options that do not fit together. Errors: INVALID_ARGUMENT.
Status CheckBuildRequest(const BuildRequest& request);

// Every path in the request that names something to read, the source aside, with its field's name.
void ForEachInputPath(BuildRequest& request,
                      const std::function<void(std::string_view field, std::filesystem::path& path)>& visit);

v1::BuildRequest ToWire(const BuildRequest& request);
// Everything bounded. Errors: INVALID_ARGUMENT naming the field.
Result<BuildRequest> BuildRequestFromWire(const v1::BuildRequest& wire);

}  // namespace sealift::controller
