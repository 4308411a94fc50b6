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

Status SystemMounter::Overlay(const std::vector<fs::path>& layers, const fs::path& on,
                              const fs::path& changes) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(on, 0755));
  // Names of extensions hold neither ':' nor ',', which would have a meaning here.
  std::string lower;
  for (const fs::path& layer : layers) lower += layer.string() + ":";
  lower += on.string();
  std::string options = "nodev,lowerdir=" + lower;
  if (changes.empty()) {
    options += ",ro";
  } else {
    for (const char* part : {"upper", "work"}) SEALIFT_RETURN_IF_ERROR(MakeDirectories(changes / part, 0755));
    options +=
        fmt::format(",upperdir={},workdir={}", (changes / "upper").string(), (changes / "work").string());
  }
  return RunCommandChecked(
             {.argv = {"mount", "-t", "overlay", "-o", options, "--", "sealift-extensions", on.string()}})
      .status();
}

}  // namespace sealift::agent
