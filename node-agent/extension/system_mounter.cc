#include <fmt/format.h>

#include "node-agent/extension/activation.h"
#include "shared/base/files.h"
#include "shared/base/subprocess.h"

namespace sealift::agent {

namespace fs = std::filesystem;

Status SystemMounter::MountImage(const fs::path& file, std::uint64_t offset, std::uint64_t bytes,
                                 const fs::path& on) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(on, 0755));
  return RunCommandChecked({.argv = {"mount", "-t", "squashfs", "-o",
                                     fmt::format("ro,nodev,loop,offset={},sizelimit={}", offset, bytes), "--",
                                     file.string(), on.string()}})
      .status();
}

Status SystemMounter::Overlay(const std::vector<fs::path>& layers, const fs::path& on) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(on, 0755));
  // Names of extensions hold neither ':' nor ',', which would have a meaning here.
  std::string lower;
  for (const fs::path& layer : layers) lower += layer.string() + ":";
  lower += on.string();
  return RunCommandChecked({.argv = {"mount", "-t", "overlay", "-o", "ro,nodev,lowerdir=" + lower, "--",
                                     "sealift-extensions", on.string()}})
      .status();
}

}  // namespace sealift::agent
