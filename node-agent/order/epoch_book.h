// Which security epoch each image on the ESP is of, as far as this machine has seen it run.
//
// A file in the state folder, read as foreign: a lie in it can keep the epoch from being raised, or raise it
// while an older image is still named, which then opens nothing; no more. Not thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "node-agent/esp/staging.h"
#include "shared/base/status.h"

namespace sealift::agent {

inline constexpr std::string_view kEpochBookName = "epochs.json";

class EpochBook {
 public:
  EpochBook(std::filesystem::path file, std::function<bool()> mounted)
      : file_(std::move(file)), mounted_(std::move(mounted)) {}
  // What runs, and its epoch. Forgets images that no entry names. Errors: those of WriteFileAtomically.
  Status Note(const BootInventory& inventory, std::uint64_t epoch);
  // Of the image that the role's blessed entry names; 0: not known.
  std::uint64_t EpochOf(const BootInventory& inventory, BootRole role) const;
  // Whether everything that this machine may boot is of `epoch` or above. Errors:
  // FAILED_PRECONDITION/BOOT_NOT_BLESSED while an image is on trial; EPOCH_TOO_LOW naming the entry.
  Status CheckRaise(const BootInventory& inventory, std::uint64_t epoch) const;

 private:
  void Load();
  const std::filesystem::path file_;
  const std::function<bool()> mounted_;
  std::map<std::string, std::uint64_t> by_image_;
  bool loaded_ = false;
};

}  // namespace sealift::agent
