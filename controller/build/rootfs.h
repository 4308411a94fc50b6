// A root file system as a list of entries: read from a folder, changed in memory, packed by cpio.h.
//
// The folder is only ever read: nothing in it is executed, followed out of it, or changed. A Tree is not
// thread-safe while it is changed; reading contents from several threads is fine.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
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
  // Of symbolic links.
  std::string target;
  // Names of one file with several names share it (device and inode of the folder).
  std::optional<std::pair<std::uint64_t, std::uint64_t>> link_group;
  // Where the file's bytes lie in the folder; empty when `content` holds them.
  std::string source;
  Bytes content;
};

class Tree {
 public:
  // Reads the folder. What lies inside /dev /proc /run /sys /tmp is left out; sockets too. When this is not
  // root's process, its own files count as root's, since nobody else could have made the tree so.
  // Errors: INVALID_ARGUMENT/ROOTFS_UNUSABLE: not a folder, no /usr, more than a million entries, a name with
  // a control character; FILE_UNREADABLE.
  static Result<Tree> Read(const std::filesystem::path& folder);
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
  // The bytes of `entry` itself.
  Result<Bytes> Contents(const TreeEntry& entry) const;

  // Replace what was there; missing parent folders are made, owned by root, 0755.
  void PutFile(std::string_view path, ByteView content, mode_t permissions = 0644);
  void PutLink(std::string_view path, std::string_view target);
  void PutDirectory(std::string_view path, mode_t permissions = 0755);
  // With everything below it.
  void Remove(std::string_view path);
  // Everything below, but not the folder itself.
  void RemoveContents(std::string_view path);

 private:
  friend class TreeReader;
  void Put(std::string_view path, TreeEntry entry);

  std::shared_ptr<UniqueFd> root_;
  std::map<std::string, TreeEntry> entries_;
};

}  // namespace sealift::build
