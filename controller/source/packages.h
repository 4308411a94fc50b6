// Which packages an OS tree holds, and which of its files belong to which: read from the databases of dpkg,
// rpm and apk.
//
// Thread-safe functions. The databases are foreign bytes: nothing in them is executed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "controller/source/tree.h"

namespace sealift::build {

struct Package {
  // "deb", "rpm" or "apk": the type of a package URL.
  std::string type;
  std::string name;
  // With epoch and release as the distribution writes them: "1:2.36-9", "4.18.0-1.fc38".
  std::string version;
  std::string architecture;
  // Who maintains or made it; empty where the database does not say.
  std::string supplier;
  std::string homepage;
  // The database's own words; empty where it says none.
  std::string license;

  auto operator<=>(const Package&) const = default;
};

struct InstalledPackages {
  // Sorted. Only those whose files are there: a removed package with its configuration left is none.
  std::vector<Package> packages;
  // Path in the tree -> index above. The paths are those of the tree's entries, which must not go away.
  std::unordered_map<std::string_view, std::size_t> owners;
};

// All databases that the tree has: a tree without any gives an empty result. Errors: those of
// Tree::ReadFile; INVALID_ARGUMENT/ROOTFS_UNUSABLE for a database that cannot be read; NOT_FOUND/TOOL_MISSING
// for one of rpm where this machine has no `rpm`, which reads it.
Result<InstalledPackages> ReadPackages(const Tree& tree);

// A package with the paths it claims, relative to the root.
struct PackageFiles {
  Package package;
  std::vector<std::string> paths;
};

// Text of the databases, for ReadPackages and the fuzzer. Bounded by their input, never fail: what is no
// record of a package is skipped.
//
// var/lib/dpkg/status, or a file of status.d (deb822 stanzas); the paths come from other files.
std::vector<PackageFiles> ParseDpkgStatus(std::string_view text);
// lib/apk/db/installed.
std::vector<PackageFiles> ParseApkInstalled(std::string_view text);
// Output of `rpm -qa` in the format of kRpmQuery.
std::vector<PackageFiles> ParseRpmQuery(std::string_view text);
extern const char* const kRpmQuery;

}  // namespace sealift::build
