// Immutable objects in a folder, named by their SHA-256.
//
//   <dir>/objects/<2 hex>/<64 hex>   complete, verified objects
//   <dir>/incoming/*                 being written; locked by their writer, swept by the next Open otherwise
//
// Thread-safe, and safe with several processes on one folder. An object is visible only once all its bytes
// were verified, synced and renamed into place, so a power cut leaves it whole or absent.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <tuple>

#include "shared/base/bytes.h"
#include "shared/base/files.h"
#include "shared/base/status.h"
#include "shared/crypto/hash.h"

namespace sealift::controller {

struct ContentStoreOptions {
  // Larger objects are refused before a byte is written.
  std::uint64_t max_object_bytes = 8ull << 30;
};

class ContentStore {
 public:
  // Makes the folders where missing. Errors: FILE_UNWRITABLE.
  static Result<std::unique_ptr<ContentStore>> Open(std::filesystem::path directory,
                                                    ContentStoreOptions options = {});

  // One object on its way in. Used by one thread; dropped without Commit it leaves nothing.
  class Writer {
   public:
    Writer(Writer&& other) noexcept;
    Writer& operator=(Writer&&) = delete;
    ~Writer();
    // Errors: INVALID_ARGUMENT/CONTENT_TOO_LONG beyond the announced size; FILE_UNWRITABLE, DISK_FULL.
    Status Write(ByteView piece);
    // Verifies, makes durable, makes visible. Success where the object was there already.
    // Errors: INVALID_ARGUMENT with CONTENT_INCOMPLETE or CONTENT_DIGEST_MISMATCH; FILE_UNWRITABLE,
    // DISK_FULL.
    Status Commit();

   private:
    friend class ContentStore;
    Writer(ContentStore& store, const Sha256Digest& digest, std::uint64_t size)
        : store_(&store), digest_(digest), size_(size) {}
    ContentStore* store_;
    Sha256Digest digest_;
    std::uint64_t size_;
    std::uint64_t written_ = 0;
    Sha256Hasher hasher_;
    std::filesystem::path path_;
    UniqueFd fd_;
  };
  // Errors: INVALID_ARGUMENT/FILE_TOO_LARGE above max_object_bytes; FILE_UNWRITABLE, DISK_FULL.
  Result<Writer> Begin(const Sha256Digest& digest, std::uint64_t size);
  // A small object in one go. Errors: those of Begin, Write and Commit.
  Status Put(const Sha256Digest& digest, ByteView bytes);

  // A verified object, open for reading. Used by one thread.
  class Reader {
   public:
    std::uint64_t size() const { return size_; }
    // Up to `size` bytes from `offset`; fewer only at the end, none beyond it. Errors: FILE_UNREADABLE.
    Result<Bytes> ReadAt(std::uint64_t offset, std::size_t size) const;
    // All of `out`, which does not reach beyond the end. Errors: as ReadAt.
    Status ReadInto(std::uint64_t offset, std::span<std::uint8_t> out) const;

   private:
    friend class ContentStore;
    Reader(UniqueFd fd, std::uint64_t size) : fd_(std::move(fd)), size_(size) {}
    UniqueFd fd_;
    std::uint64_t size_;
  };
  // Hashes the object the first time this process reads it, and again whenever the file was touched since. A
  // damaged one is put aside as "<name>.damaged" and is then as good as absent.
  // Errors: NOT_FOUND/CONTENT_UNKNOWN; DATA_LOSS/CONTENT_DIGEST_MISMATCH; FILE_UNREADABLE.
  Result<Reader> Read(const Sha256Digest& digest);
  // A small object whole. Errors: those of Read; INVALID_ARGUMENT/FILE_TOO_LARGE above `max_bytes`.
  Result<Bytes> ReadAll(const Sha256Digest& digest, std::uint64_t max_bytes);

  bool Has(const Sha256Digest& digest) const;
  // Errors: NOT_FOUND/CONTENT_UNKNOWN.
  Result<std::uint64_t> Size(const Sha256Digest& digest) const;

 private:
  // Device, inode, size, and modification and change time in nanoseconds.
  using FileIdentity = std::tuple<std::uint64_t, std::uint64_t, std::int64_t, std::int64_t, std::int64_t>;

  ContentStore(std::filesystem::path directory, ContentStoreOptions options)
      : directory_(std::move(directory)), options_(options) {}
  std::filesystem::path PathOf(const Sha256Digest& digest) const;
  Status SweepIncoming() const;
  Status VerifyOnce(const Sha256Digest& digest, int fd, const FileIdentity& identity);

  const std::filesystem::path directory_;
  const ContentStoreOptions options_;
  std::mutex mutex_;
  // Guarded by mutex_. What was verified, as it lay there then.
  std::map<Sha256Digest, FileIdentity> verified_;
};

}  // namespace sealift::controller
