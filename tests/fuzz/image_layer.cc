// Layers of images, plain or compressed, as anyone may have made them: read, laid over a tree, packed again.
#include "controller/build/initrd.h"
#include "controller/source/layer_file.h"

using namespace sealift;
using namespace sealift::build;

namespace {

// What a tree from outside must never hold.
void CheckPaths(const Tree& tree) {
  for (const auto& [path, entry] : tree.entries()) {
    const Result<std::string> safe = SafePath(path);
    SEALIFT_CHECK(safe.ok() && *safe == path && !path.empty());
    const std::size_t slash = path.rfind('/');
    if (slash == std::string::npos) continue;
    const TreeEntry* parent = tree.Find(path.substr(0, slash));
    SEALIFT_CHECK(parent != nullptr && (parent->mode & 0170000) == 0040000);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  SourceBudget budget({.max_unpacked_bytes = 1u << 20, .max_entries = 200});
  Result<ScratchFile> contents = ScratchFile::Create();
  SEALIFT_CHECK(contents.ok());
  Tree tree;
  tree.PutFile("usr/lib/lower", AsBytes("lower"));
  tree.PutLink("lib", "usr/lib");
  TreeEntry file{.mode = 0100644, .size = size};
  file.content.assign(data, data + size);
  Result<LayerFile> read = ReadLayerFile(file, *contents, budget);
  if (!read.ok() || !ApplyLayer(std::move(read->layer), 0, tree).ok()) return 0;
  CheckPaths(tree);
  std::uint64_t packed = 0;
  const auto count = [&packed](ByteView piece) {
    packed += piece.size();
    return OkStatus();
  };
  const Result<Initrd> initrd = PackInitrd(tree, {}, {.zstd_level = 1, .threads = 1}, count);
  SEALIFT_CHECK(initrd.ok() && initrd->index.size == packed);
  return 0;
}
