// Where an operating system comes from: a folder, or an image of containers in any of its usual forms.
//
//   dir:FOLDER                   a root file system
//   oci:FOLDER[:TAG]             an OCI image layout
//   oci-archive:FILE[:TAG]       the same in a tar file
//   docker-archive:FILE[:NAME]   what `docker save` and `podman save` write
//   docker://NAME[:TAG|@DIGEST]  an image in a registry, fetched with skopeo and its configuration
//
// Nothing of an image is executed, and nothing of it gets a name on this machine: contents of files go into
// one temporary file without a name, one after the other, and entries point there. Sources are foreign bytes:
// every blob is checked against the digest that names it before it is read, every layer also against the
// image's configuration, and everything has a bound.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "controller/source/tree.h"

namespace sealift::build {

struct SourceLimits {
  // Of all layers together, as they unpack; holes of sparse files count.
  std::uint64_t max_unpacked_bytes = 8ull << 30;
  // Folders that no entry names but that lie on the way to one count, too.
  std::size_t max_entries = 1'000'000;
  std::size_t max_layers = 256;
  // Of paths and targets of links together: what a tree takes of memory.
  std::uint64_t max_name_bytes = 256u << 20;
};

struct SourceTree {
  Tree tree;
};

// A source as its text names it.
struct SourceReference {
  // "dir", "oci", "oci-archive", "docker-archive" or "docker".
  std::string kind;
  // What follows the colon of the kind, without a tag that an image on this machine is chosen by.
  std::string place;
  // Of an image on this machine: its tag or name; empty: the only one.
  std::string tag;

  std::string Text() const;
};
// Errors: INVALID_ARGUMENT for an unknown prefix or nothing behind it.
Result<SourceReference> ParseSource(std::string_view source);

// One sentence that names the files that lose their capabilities, since a cpio archive cannot carry extended
// attributes; empty when there are none.
std::string LostCapabilities(const Tree& tree);

// Layers are applied in order: whiteouts (".wh.NAME", ".wh..wh..opq"), hard links also to files of lower
// layers, device nodes, sparse files. Of an image for several machines the one for linux/amd64 is taken.
//
// Errors: INVALID_ARGUMENT for an unknown prefix; those of Tree::Read for dir:. Otherwise NOT_FOUND or
// FAILED_PRECONDITION with FILE_UNREADABLE; SOURCE_UNUSABLE (not of that form, a digest that differs, an
// unknown kind of layer, no or several images of that name); SOURCE_UNSAFE (absolute names, "..", links that
// lead out of the root, entries below a symbolic link); SOURCE_TOO_LARGE; ROOTFS_UNUSABLE (no /usr);
// TOOL_MISSING or TOOL_FAILED from skopeo; FILE_UNWRITABLE or DISK_FULL of the temporary file.
Result<SourceTree> ReadSource(std::string_view source, const SourceLimits& limits = {});

}  // namespace sealift::build
