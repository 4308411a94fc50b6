// The cpio format "newc" as the kernel's initramfs unpacker reads it (init/initramfs.c): for initrd.cc and
// frame_plan.cc.
#pragma once

#include <cstdint>
#include <string_view>

#include "controller/build/initrd.h"

namespace sealift::build {

inline constexpr std::string_view kArchiveTrailer = "TRAILER!!!";
inline constexpr std::size_t kArchiveAlignment = 4;

// Header, name and padding of one entry, with `size` bytes of content to follow.
std::string ArchiveHeader(std::string_view path, const TreeEntry& entry, const ArchiveEntry& item,
                          std::uint64_t size);
// How many bytes of content follow an entry's header.
std::uint64_t ArchivedSize(const ArchiveEntry& item);
// What WriteFrame will write.
std::uint64_t ArchiveBytes(const Frame& frame);

}  // namespace sealift::build
