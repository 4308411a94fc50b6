// A tar file (ustar) in which nothing depends on this machine: owner root, 0644, one time, the given order.
#pragma once

#include <filesystem>
#include <vector>

#include "controller/media/media_file.h"
#include "shared/base/bytes.h"

namespace sealift::media {

struct WrittenTar {
  Sha256Digest digest;
  std::uint64_t bytes = 0;
};

// Folders are entries too, before what is in them. Streams: no file is held. Errors: FILE_UNREADABLE;
// FILE_UNWRITABLE, DISK_FULL, also for a name that ustar cannot hold.
Result<WrittenTar> WriteTar(const std::filesystem::path& out, const std::vector<MediaFile>& files,
                            UnixMillis time);

}  // namespace sealift::media
