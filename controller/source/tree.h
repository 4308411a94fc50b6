// A root file system as a list of entries: read from a folder or an image, changed in memory, packed by
// controller/build/initrd.h.
//
// The folder is only ever read: nothing in it is executed, followed out of it, or changed. Contents stay
// where they are until they are asked for, so a tree takes memory for its names only. A Tree is not
// thread-safe while it is changed; reading contents from several threads is fine.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "shared/base/bytes.h"
#include "shared/base/files.h"

namespace sealift::build {

struct TreeEntry {
  // Type and permissions, as in stat(2).
  mode_t mode = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  // Of device nodes.
  std::uint32_t device_major = 0;
  std::uint32_t device_minor = 0;
  // Of regular files.
  std::uint64_t size = 0;
  // Of regular files: a security.capability attribute, which an initrd cannot carry.
  bool has_capability = false;
  // Of symbolic links.
  std::string target;
  // Names of one file with several names share it (device and inode of the folder; of an image a number of
  // the layer with its highest bit set, which no device has, and one of the link).
  std::optional<std::pair<std::uint64_t, std::uint64_t>> link_group;
  // Where the bytes of a regular file lie: in `content` when there is no store; at `offset` of the store,
  // which is then a file; or in the store's file named `source`, a path below that folder.
  std::shared_ptr<const UniqueFd> store;
  std::string source;
  std::uint64_t offset = 0;
  Bytes content;
};

// The bytes of one regular file, from its start to its end. Used by one thread; borrows the entry.
class ContentReader {
 public:
  // Fills `into` as far as the file goes; 0 at its end. Errors: FILE_UNREADABLE, also when the file is not of
  // the size any more that the tree says.
  Result<std::size_t> Read(std::span<std::uint8_t> into);

 private:
  friend class Tree;
  ContentReader(const TreeEntry& entry, UniqueFd opened);
  Result<std::size_t> ReadAt(std::span<std::uint8_t> into) const;

  const TreeEntry& entry_;
  UniqueFd opened_;
  std::uint64_t done_ = 0;
};

class Tree {
 public:
  // Reads the folder. What lies inside /dev /proc /run /sys /tmp is left out; sockets too. When this is not
  // root's process, its own files count as root's, since nobody else could have made the tree so.
  // Errors: INVALID_ARGUMENT/ROOTFS_UNUSABLE: not a folder, no /usr, more than a million entries, a name with
  // a control character; FILE_UNREADABLE.
  static Result<Tree> Read(const std::filesystem::path& folder);
  // The same of a folder that need not be a root file system. Errors: as Read.
  static Result<Tree> ReadFolder(const std::filesystem::path& folder);
  // A regular file of this machine, for Open and Contents. Errors: FILE_UNREADABLE.
  static Result<TreeEntry> FileAt(const std::filesystem::path& path);
  Tree() = default;

  // By path without a leading slash: "usr/lib/os-release". Sorted by byte values, so parents come first.
  const std::map<std::string, TreeEntry>& entries() const { return entries_; }
  const TreeEntry* Find(std::string_view path) const;
  // Follows symbolic links inside the tree, as a process with this root would see it; empty when nothing is
  // there.
  std::string Resolve(std::string_view path) const;
  // The bytes of a regular file, links followed. Errors: NOT_FOUND/ROOTFS_UNUSABLE; as ReadFile;
  // FILE_UNREADABLE when the file changed since the tree was read.
  Result<Bytes> ReadFile(std::string_view path, std::uint64_t max_bytes = kDefaultMaxFileBytes) const;
  // The bytes of `entry`, a regular file, whole or in pieces. Errors: FILE_UNREADABLE.
  static Result<Bytes> Contents(const TreeEntry& entry);
  static Result<ContentReader> Open(const TreeEntry& entry);

  // Replace what was there; missing parent folders are made, owned by root, 0755.
  void Put(std::string_view path, TreeEntry entry);
  void PutFile(std::string_view path, ByteView content, mode_t permissions = 0644);
  void PutLink(std::string_view path, std::string_view target);
  void PutDirectory(std::string_view path, mode_t permissions = 0755);
  // With everything below it.
  void Remove(std::string_view path);
  // Everything below, but not the folder itself.
  void RemoveContents(std::string_view path);
  // Of the folders that a running system fills itself.
  void RemoveVolatileContents();
  // Errors: INVALID_ARGUMENT/ROOTFS_UNUSABLE when there is no folder /usr.
  Status CheckHasUsr() const;

 private:
  friend class TreeReader;

  std::map<std::string, TreeEntry> entries_;
};

}  // namespace sealift::build
