#include "tests/bench/delta_others.h"

#include "shared/base/subprocess.h"

namespace sealift::bench {
namespace {

namespace fs = std::filesystem;

Status Run(std::vector<std::string> argv) {
  return RunCommandChecked({.argv = std::move(argv), .timeout = std::chrono::minutes(40)}).status();
}

}  // namespace

Result<std::uint64_t> CasyncBytes(const std::vector<FilePair>& files, const fs::path& work) {
  const std::string before = (work / "before.castr").string();
  const std::string after = (work / "after.castr").string();
  const fs::path index = work / "index.caibx";
  std::uint64_t bytes = 0;
  for (const FilePair& file : files) {
    SEALIFT_RETURN_IF_ERROR(Run({"casync", "make", "--store=" + before, index.string(), file.before}));
    SEALIFT_RETURN_IF_ERROR(Run({"casync", "make", "--store=" + after, index.string(), file.after}));
    bytes += fs::file_size(index);
  }
  for (const auto& chunk : fs::recursive_directory_iterator(after)) {
    if (chunk.is_regular_file() && !fs::exists(before / fs::relative(chunk.path(), after)))
      bytes += chunk.file_size();
  }
  return bytes;
}

Result<std::uint64_t> OstreeBytes(const fs::path& before, const fs::path& after, const fs::path& work) {
  const std::string repository = "--repo=" + (work / "ostree").string();
  const std::string file = (work / "ostree.delta").string();
  SEALIFT_RETURN_IF_ERROR(Run({"ostree", repository, "init", "--mode=archive"}));
  for (const fs::path& root : {before, after}) {
    SEALIFT_RETURN_IF_ERROR(
        Run({"ostree", repository, "commit", root == before ? "--branch=before" : "--branch=after",
             "--tree=dir=" + root.string(), "--no-xattrs", "--timestamp=@0"}));
  }
  SEALIFT_RETURN_IF_ERROR(Run({"ostree", repository, "static-delta", "generate", "--from=before",
                               "--to=after", "--inline", "--min-fallback-size=0", "--filename=" + file}));
  return fs::file_size(file);
}

}  // namespace sealift::bench
