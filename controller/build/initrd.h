// The initrd: our own deterministic newc archive, cut at entry boundaries into independent zstd frames.
//
// One cpio stream: first the skeleton (all folders, links and devices), then the files in path order, all
// names of a file together. Equal trees give equal bytes; a change in one file changes the frames around it
// only, which is what makes upgrades small. Cut points depend on paths and sizes, never on contents.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "controller/build/rootfs.h"

namespace sealift::build {

// Entries of the archive in order, grouped into frames. Pointers live as long as the tree.
struct ArchiveEntry {
  std::string path;
  const TreeEntry* entry = nullptr;
  // 1 unless the file has several names.
  std::uint32_t links = 1;
  // 0 unless it has; the same for all names of one file.
  std::uint32_t inode = 0;
  // Of the names of one file only the last carries the bytes.
  bool carries_data = false;
};
using Frame = std::vector<ArchiveEntry>;

// The last frame ends with the archive's trailer. Errors: INVALID_ARGUMENT/ROOTFS_UNUSABLE for a path that
// newc cannot hold.
Result<std::vector<Frame>> PlanFrames(const Tree& tree);
// One frame's part of the archive, uncompressed. `last`: with the trailer.
Result<Bytes> WriteFrame(const Tree& tree, const Frame& frame, bool last);

struct InitrdOptions {
  // 1 (fast) to 19 (small). 9 packs a whole OS in seconds.
  int zstd_level = 9;
  // 0: as many as the machine has hardware threads.
  unsigned threads = 0;
  // Called after each frame with uncompressed bytes done and in total, from any of the threads but one at a
  // time.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;
};

struct Initrd {
  // Length a multiple of 4: what systemd-stub appends must start so.
  Bytes bytes;
  std::uint64_t unpacked_bytes = 0;
  std::size_t frames = 0;
};

// Errors: those of Tree::Contents; INVALID_ARGUMENT for the level.
Result<Initrd> PackInitrd(const Tree& tree, const InitrdOptions& options);

}  // namespace sealift::build
