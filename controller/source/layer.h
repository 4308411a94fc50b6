// One layer of an image: a tar archive read into entries and whiteouts, then laid over a tree.
//
// Used by one thread.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "controller/source/archive_reader.h"
#include "controller/source/scratch_file.h"
#include "controller/source/source.h"
#include "controller/source/tree.h"

namespace sealift::build {

struct LayerEntry {
  TreeEntry entry;
  // Path of the file this is another name of.
  std::optional<std::string> hard_link;
};

struct Layer {
  // By safe path; the last of several of one name counts.
  std::map<std::string, LayerEntry> entries;
  // What lower layers lose: these paths, and what is in these folders ("" is the root).
  std::vector<std::string> whiteouts;
  std::vector<std::string> opaque_folders;
};

// What is left of the limits while layers are read.
struct SourceBudget {
  explicit SourceBudget(const SourceLimits& limits)
      : unpacked_bytes(limits.max_unpacked_bytes),
        stream_bytes(2 * limits.max_unpacked_bytes),
        name_bytes(limits.max_name_bytes),
        entries(limits.max_entries) {}
  // Errors: RESOURCE_EXHAUSTED/SOURCE_TOO_LARGE.
  Status TakeBytes(std::uint64_t count);
  Status TakeStreamBytes(std::uint64_t count);
  // Of a path, with the target where it is a link.
  Status TakeEntry(std::size_t name_size);

  // Contents of files, holes included; and all that comes out of decompression.
  std::uint64_t unpacked_bytes;
  std::uint64_t stream_bytes;
  std::uint64_t name_bytes;
  std::size_t entries;
};

// Reads the whole archive; contents of files go to the end of `contents`. Errors: SOURCE_UNUSABLE,
// SOURCE_UNSAFE, SOURCE_TOO_LARGE; FILE_UNWRITABLE, DISK_FULL.
Result<Layer> ReadLayer(ArchiveReader& archive, ScratchFile& contents, SourceBudget& budget);

// `number`: of the layer, from 0; names the hard links of a tree. Errors: SOURCE_UNSAFE for an entry below a
// symbolic link, SOURCE_UNUSABLE for one below a file, or a hard link to what is not there.
Status ApplyLayer(Layer&& layer, std::size_t number, Tree& tree);

// "./usr//bin/" -> "usr/bin"; "./" -> "". Errors: SOURCE_UNSAFE for an absolute path or one with "..";
// SOURCE_UNUSABLE for control characters and what is longer than PATH_MAX.
Result<std::string> SafePath(std::string_view name);

}  // namespace sealift::build
