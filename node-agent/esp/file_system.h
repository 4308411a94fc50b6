// The few things the agent does to the EFI system partition, as a seam: POSIX behind it on a node, memory
// with power cuts in tests. Both pass tests/contract/file_system_contract.h.
//
// Paths are relative to the partition's root, with forward slashes and without "." or "..": others are
// refused with INVALID_ARGUMENT/INVALID_ARGUMENT. FAT compares names without regard to case and keeps the
// case it was given; callers never rely on names that differ in case only. There are no hard links and no
// owners.
//
// What is durable: a file's bytes after FileWriter::Sync, a directory's names after SyncDirectory. Nothing
// else. Not thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::agent {

struct DirectoryEntry {
  std::string name;
  std::uint64_t size = 0;
  bool is_directory = false;
};

// A file being written. Closing without Sync loses nothing but durability.
class FileWriter {
 public:
  virtual ~FileWriter() = default;
  // Errors: RESOURCE_EXHAUSTED/ESP_FULL, UNAVAILABLE/ESP_IO.
  virtual Status Write(ByteView bytes) = 0;
  virtual Status Sync() = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // Sorted by name. Errors: NOT_FOUND/FILE_UNREADABLE when there is no such directory.
  virtual Result<std::vector<DirectoryEntry>> List(std::string_view directory) = 0;
  // Gives the file to `sink` in pieces, from the device where that can be told from a cache. Stops at the
  // sink's first error and returns it. Errors: NOT_FOUND/FILE_UNREADABLE, UNAVAILABLE/ESP_IO.
  virtual Status ReadPieces(std::string_view path, const std::function<Status(ByteView)>& sink) = 0;
  // Creates or empties. The directory must exist. Errors: as FileWriter::Write.
  virtual Result<std::unique_ptr<FileWriter>> Create(std::string_view path) = 0;
  // A file replaces `to`; of a directory only that name changes, and nothing may be there.
  // Errors: NOT_FOUND/FILE_UNREADABLE, UNAVAILABLE/ESP_IO.
  virtual Status Rename(std::string_view from, std::string_view to) = 0;
  // Errors: NOT_FOUND/FILE_UNREADABLE, UNAVAILABLE/ESP_IO.
  virtual Status Remove(std::string_view path) = 0;
  // An empty directory. Errors: as Remove; UNAVAILABLE/ESP_IO where it holds something.
  virtual Status RemoveDirectory(std::string_view path) = 0;
  // With its parents; success when it is there. Durable once each parent was synced.
  virtual Status MakeDirectory(std::string_view path) = 0;
  virtual Status SyncDirectory(std::string_view path) = 0;
  virtual Result<std::uint64_t> FreeBytes() = 0;

  // The whole file. Errors: as ReadPieces; INVALID_ARGUMENT/FILE_TOO_LARGE above `max_bytes`.
  Result<Bytes> Read(std::string_view path, std::uint64_t max_bytes);
  // SHA-256 and length of a file.
  struct Measured {
    Sha256Digest digest;
    std::uint64_t size = 0;
  };
  Result<Measured> Measure(std::string_view path);
  bool Exists(std::string_view path);
  // Replaces a small file: temporary name beside it, write, sync, rename, sync of the directory. The
  // temporary file is removed on failure.
  Status Replace(std::string_view path, ByteView bytes);
  // MakeDirectory, durable when it returns; costs nothing where it is there. Whatever power cuts leave of it
  // has a temporary name, and stays.
  Status MakeDurableDirectory(std::string_view path);

 protected:
  // Errors: INVALID_ARGUMENT/INVALID_ARGUMENT.
  static Status CheckPath(std::string_view path);
};

// What temporary files on the ESP are called; the boot loader looks at no such name. One that was left over
// by a power cut is never written to, nor removed while the file it was renamed to is kept: FAT writes the
// two names of a rename one after the other, and in between both lead to the same clusters.
inline constexpr std::string_view kTemporarySuffix = ".sealift-tmp";
// "a/b" of "a/b/c"; "" of "c".
std::string_view ParentOf(std::string_view path);

// A directory of the running system, in practice a mounted vfat.
class PosixFileSystem final : public FileSystem {
 public:
  explicit PosixFileSystem(std::filesystem::path root) : root_(std::move(root)) {}

  Result<std::vector<DirectoryEntry>> List(std::string_view directory) override;
  Status ReadPieces(std::string_view path, const std::function<Status(ByteView)>& sink) override;
  Result<std::unique_ptr<FileWriter>> Create(std::string_view path) override;
  Status Rename(std::string_view from, std::string_view to) override;
  Status Remove(std::string_view path) override;
  Status RemoveDirectory(std::string_view path) override;
  Status MakeDirectory(std::string_view path) override;
  Status SyncDirectory(std::string_view path) override;
  Result<std::uint64_t> FreeBytes() override;

 private:
  std::filesystem::path root_;
};

}  // namespace sealift::agent
