// A node's ESP in memory: active.conf and passive.conf on blessed images, recovery.conf on a third.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <string>

#include "node-agent/esp/esp_stager.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "tests/contract/map_efi_variables.h"
#include "tests/contract/memory_file_system.h"

namespace sealift::agent {

// Evidence for bytes that the test itself made.
struct Evidence : Stager {
  static VerifiedImage Of(const std::filesystem::path& file, std::string version, ByteView bytes,
                          std::vector<VerifiedImage::LocalCompanion> companions = {},
                          std::optional<VerifiedImage::LocalBootLoader> loader = std::nullopt) {
    return VouchForImage({.file = file,
                          .version = std::move(version),
                          .digest = Sha256(bytes),
                          .size = bytes.size(),
                          .companions = std::move(companions),
                          .boot_loader = std::move(loader)});
  }
  static StagedImage Of(std::string version, const Sha256Digest& digest, std::string image_path) {
    return VouchForStaged(std::move(version), digest, std::move(image_path));
  }
};

inline Bytes ImageBytes(std::string_view version, std::size_t size = 9000) {
  Bytes bytes = ToBytes(fmt::format("image of {} ", version));
  bytes.resize(size, 0x5a);
  return bytes;
}

inline std::string ImagePath(const std::string& version) {
  return "/" + ImageFilePath(version, Sha256(ImageBytes(version)));
}

class EspNode {
 public:
  EspNode() : temp_(InMemoryTempDir()) {
    log::SetLevel(log::Level::kError);
    EXPECT_TRUE(fs.MakeDurableDirectory("loader/entries").ok());
    EXPECT_TRUE(fs.MakeDurableDirectory("EFI/kairos").ok());
    PutImage("1.0");
    PutImage("0.9");
    PutEntry("active.conf", BootRole::kActive, "1.0");
    PutEntry("passive.conf", BootRole::kPassive, "0.9");
    PutEntry("recovery.conf", BootRole::kRecovery, "0.9");
    Boot("active.conf", "1.0");
  }

  void PutImage(const std::string& version) {
    PutFile(RelativePath(ImagePath(version)), ImageBytes(version));
  }
  void PutEntry(const std::string& file_name, BootRole role, const std::string& version) {
    PutFile(fmt::format("{}/{}", kEntriesDirectory, file_name),
            AsBytes(FormatEntry(
                {.title = "Test OS", .role = role, .version = version, .image_path = ImagePath(version)})));
  }
  void PutFile(std::string_view path, ByteView bytes) { EXPECT_TRUE(fs.Replace(path, bytes).ok()); }

  // A new boot: the boot loader started `entry`, the system in it says `version`.
  void Boot(const std::string& entry, const std::string& version) {
    variables.SetText("LoaderEntrySelected", kLoaderVendor, entry);
    variables.Set("SecureBoot", kGlobalVendor, {1});
    running_version = version;
    boot_id = fmt::format("boot-{}", ++boots_);
  }
  // What sd-boot does to a counted entry before it starts it.
  void CountDown(const std::string& from, const std::string& to) {
    EXPECT_TRUE(
        fs.Rename(fmt::format("{}/{}", kEntriesDirectory, from), fmt::format("{}/{}", kEntriesDirectory, to))
            .ok());
    EXPECT_TRUE(fs.SyncDirectory(kEntriesDirectory).ok());
  }

  EspStager Stager() {
    return EspStager(
        &fs, &variables,
        {.running_version = running_version, .boot_id = boot_id, .runtime_directory = temp_.path() / "run"});
  }

  // A local file as the update machine fetched it.
  VerifiedImage Fetched(const std::string& version) {
    const Bytes bytes = ImageBytes(version);
    const std::filesystem::path file = temp_.path() / ("fetched-" + version);
    EXPECT_TRUE(WriteFileAtomically(file, bytes).ok());
    return Evidence::Of(file, version, bytes);
  }

  // The same with files beside it, by name, and the boot loader that it was predicted with.
  VerifiedImage Fetched(const std::string& version, const std::map<std::string, std::string>& beside,
                        const Bytes& loader = {}) {
    std::vector<VerifiedImage::LocalCompanion> companions;
    for (const auto& [name, text] : beside) {
      const std::filesystem::path file = temp_.path() / fmt::format("fetched-{}-{}", version, name);
      EXPECT_TRUE(WriteFileAtomically(file, AsBytes(text)).ok());
      companions.push_back(
          {.what = {.name = name, .digest = Sha256(AsBytes(text)), .size = text.size()}, .file = file});
    }
    std::optional<VerifiedImage::LocalBootLoader> boot_loader;
    if (!loader.empty()) {
      const std::filesystem::path file = temp_.path() / "fetched-loader";
      EXPECT_TRUE(WriteFileAtomically(file, loader).ok());
      boot_loader = {
          .what = {.digest = Sha256(loader), .size = loader.size()}, .file = file, .version = "252.40-1"};
    }
    const VerifiedImage plain = Fetched(version);
    return Evidence::Of(plain.file(), version, ImageBytes(version), std::move(companions),
                        std::move(boot_loader));
  }
  // A tmpfs on a node.
  std::filesystem::path runtime() const { return temp_.path() / "run"; }

  std::vector<std::string> EntryNames() {
    std::vector<std::string> names;
    auto files = fs.List(kEntriesDirectory);
    EXPECT_TRUE(files.ok());
    for (const DirectoryEntry& file : *files) names.push_back(file.name);
    return names;
  }
  // The version that `file_name` points to, "" when there is no such entry.
  std::string VersionOf(const std::string& file_name) {
    auto loaded = LoadBootEntries(fs);
    for (const RoleEntry& entry : loaded.ok() ? loaded->entries : std::vector<RoleEntry>()) {
      if (entry.file_name == file_name) return entry.version;
    }
    return "";
  }

  MemoryFileSystem fs;
  MapEfiVariables variables;
  std::string running_version;
  std::string boot_id;

 private:
  // The runtime directory is a tmpfs on a node as well; on a disk a thousand fsyncs would take their time.
  static TempDir InMemoryTempDir() {
    if (::access("/dev/shm", W_OK) == 0) ::setenv("TMPDIR", "/dev/shm", 1);
    return TempDir::Create("sealift-stager").value();
  }

  TempDir temp_;
  int boots_ = 0;
};

}  // namespace sealift::agent
