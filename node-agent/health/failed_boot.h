// Why the boot before this one failed, as far as it left word: its journal, else what its kernel wrote as it
// died.
//
// Pure reading; thread-compatible. All of it is text of foreign origin, and hearsay: for people only.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

namespace sealift::agent {

struct FailedBootPlaces {
  // Empty: not asked. Answers for the boot before this one, where a journal outlives boots.
  std::vector<std::string> journal_command = {"journalctl", "--boot=-1", "--priority=err", "--lines=5",
                                              "--no-pager", "--quiet",   "--output=cat"};
  std::chrono::milliseconds timeout = std::chrono::seconds(10);
  // Where systemd-pstore puts what it takes from the firmware, and the firmware's own.
  std::vector<std::filesystem::path> pstore = {"/var/lib/systemd/pstore", "/sys/fs/pstore"};
};

// One line, at most `max_bytes`; empty where nothing is known.
std::string WhyBootFailed(const FailedBootPlaces& places, std::size_t max_bytes = 400);

}  // namespace sealift::agent
