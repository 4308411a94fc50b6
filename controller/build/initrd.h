// The initrd: our own deterministic newc archive, cut at entry boundaries into independent zstd frames.
//
// One cpio stream: first the skeleton (all folders, links and devices), since the kernel drops a file whose
// folder is not there yet; then the files, package by package and in path order, all names of a file
// together. A package is cut into frames of about 1 MiB, a file of that size or more is a frame of its own.
// Cut points depend on paths and sizes, never on contents, and not on numbers in paths. So equal trees give
// equal bytes, and a change in one file changes its frame only, which is what makes upgrades small.
//
// A frame's bytes are part of the format, since a node makes them again from what it has: level as the index
// says, content size in the header, no checksum, one thread, everything fed with ZSTD_e_continue and the end
// told by ZSTD_e_end with no input. However the input is cut into pieces, libzstd then gives the same bytes.
// They are not those of ZSTD_compress2, which has the whole frame before it and finds other matches where it
// is larger than its window.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "controller/source/packages.h"
#include "controller/source/tree.h"
#include "shared/content/frame_index.h"

namespace sealift::build {

// Entries of the archive in order, grouped into frames. Pointers live as long as the tree.
struct ArchiveEntry {
  std::string_view path;
  const TreeEntry* entry = nullptr;
  // 1 unless the file has several names.
  std::uint32_t links = 1;
  // 0 unless it has; the same for all names of one file, and for no other's.
  std::uint32_t inode = 0;
  // Of the names of one file only the last carries the bytes.
  bool carries_data = false;
};
struct Frame {
  // Name of the package; empty for the skeleton and for files that no package claims.
  std::string group;
  std::vector<ArchiveEntry> entries;
  // Uncompressed.
  std::uint64_t raw_size = 0;
  // Ends with the archive's trailer.
  bool last = false;
};

// Errors: INVALID_ARGUMENT/ROOTFS_UNUSABLE for a path that newc cannot hold.
Result<std::vector<Frame>> PlanFrames(const Tree& tree, const InstalledPackages& packages);

// Takes consecutive pieces; an error ends the work and comes back unchanged.
using ByteSink = std::function<Status(ByteView)>;

// One frame's part of the archive, uncompressed, in pieces. With `files`: appends what the index says about
// the frame's files. Errors: those of Tree::Open and of the sink.
Status WriteFrame(const Frame& frame, const ByteSink& sink, std::vector<content::FrameFile>* files = nullptr);

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
  // Size and digest are those of everything the sink got: the .initrd section.
  content::FrameIndex index;
  std::uint64_t unpacked_bytes = 0;
};

// Hands the initrd to `sink` in order, from any of the threads but one at a time; its length is a multiple
// of 4, as what systemd-stub appends must start so. Memory depends on the number of threads and on the level
// (9: 17 MiB a thread; 19: 90 MiB), not on the size of the tree: at most 3 MiB of finished frames wait for
// their turn. After an error the sink has got part of it. Errors: those of PlanFrames, Tree::Open and the
// sink; INVALID_ARGUMENT for the level.
Result<Initrd> PackInitrd(const Tree& tree, const InstalledPackages& packages, const InitrdOptions& options,
                          const ByteSink& sink);

}  // namespace sealift::build
