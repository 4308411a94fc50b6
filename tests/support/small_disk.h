// A disk of one mebibyte, for what happens when it is full.
#pragma once

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "tests/support/tools.h"

namespace sealift::test {

inline constexpr int kAsWanted = 0;
inline constexpr int kNoNamespace = 77;

inline bool WriteText(const char* path, const std::string& text) {
  std::ofstream file(path);
  file << text << std::flush;
  return file.good();
}

// Root of a namespace of its own, so that no privilege is needed.
inline bool MountSmallDisk(const std::filesystem::path& folder) {
  const std::string uid = std::to_string(::geteuid());
  const std::string gid = std::to_string(::getegid());
  return ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 && WriteText("/proc/self/setgroups", "deny") &&
         WriteText("/proc/self/uid_map", "0 " + uid + " 1") &&
         WriteText("/proc/self/gid_map", "0 " + gid + " 1") &&
         ::mount("tmpfs", folder.c_str(), "tmpfs", 0, "size=1m") == 0;
}

// Runs `work` in a child that has such a disk at `folder`. Its result, which is an exit code, or kNoNamespace
// where this machine has no user namespaces and need not have them.
inline int RunOnSmallDisk(const std::filesystem::path& folder, const std::function<int()>& work) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(MountSmallDisk(folder) ? work() : kNoNamespace);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_TRUE(WEXITSTATUS(status) != kNoNamespace || !ToolsAreRequired()) << "no user namespaces here";
  return WEXITSTATUS(status);
}

}  // namespace sealift::test
