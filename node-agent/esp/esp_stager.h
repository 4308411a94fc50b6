// The Stager of a node: a mounted ESP and the firmware's variables.
//
// Not thread-safe. Borrows the file system and the variables; both outlive it.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "node-agent/esp/boot_entries.h"
#include "node-agent/esp/efi_variables.h"
#include "node-agent/esp/file_system.h"
#include "node-agent/esp/staging.h"
#include "shared/efi/authenticode.h"

namespace sealift::agent {

struct EspStagerOptions {
  // IMAGE_VERSION or VERSION_ID of the running system's /etc/os-release: it lies in the measured image, so
  // it, not an entry, says what runs.
  std::string running_version;
  // /proc/sys/kernel/random/boot_id.
  std::string boot_id;
  // Must not survive a boot (a tmpfs). Remembers which image this boot started from: once entries are changed
  // for the next boot they no longer tell.
  std::filesystem::path runtime_directory = "/run/sealift";
};

class EspStager final : public Stager {
 public:
  EspStager(FileSystem* fs, EfiVariables* variables, EspStagerOptions options)
      : fs_(fs), variables_(variables), options_(std::move(options)) {}

  Result<BootInventory> Inspect() override;
  Result<VerifiedImage> VerifyImage(const LocalImage& local, const ImageExpectations& expectations) override;
  Result<StagedImage> Stage(const VerifiedImage& image) override;
  Result<StagedImage> FindStaged(const ImageExpectations& expectations) override;
  Status Activate(const StagedImage& image, std::uint32_t tries) override;
  Status Bless() override;
  Status Disarm() override;
  Status PointRecovery() override;
  Result<std::optional<Fallback>> FellBack() override;
  Result<std::uint64_t> CollectGarbage() override;

  // The part of FindStaged that is not about the image itself. `path`: of the image, relative.
  Status FindBeside(const std::string& path, const ImageExpectations& expectations);

 private:
  struct Running {
    BootRole role = BootRole::kUnknown;
    std::string image_path;
  };
  struct View {
    BootEntries disk;
    BootInventory inventory;
  };
  Result<View> Look();
  Result<Running> FindRunning(const BootEntries& disk, const std::string& selected);
  Result<Running> ResolveRunning(const BootEntries& disk, const std::string& selected) const;
  std::optional<Running> RecallRunning() const;
  Status RememberRunning(const Running& running) const;
  Result<Sha256Digest> DigestOfRunning(const std::string& image_path);
  // Runs from an entry of ours on a disk of ours. Errors: FAILED_PRECONDITION/BOOT_STATE_UNKNOWN.
  static Status RequireInstalled(const BootInventory& inventory);
  // What the bytes say of themselves, with db and dbx as they are now.
  struct Checked {
    Sha256Digest authenticode;
    Sha256Digest signer;
    Sha256Digest pcr_key;
  };
  // By the firmware's own db and dbx, as they are now.
  Result<efi::AuthorisedImage> Authorise(ByteView bytes);
  Result<Checked> CheckImage(ByteView bytes, const ImageExpectations& expectations);

  // --- esp_staging.cc
  // One file of an image.
  struct Piece {
    std::string path;
    Sha256Digest digest;
    std::uint64_t size = 0;
    std::filesystem::path local;
  };
  enum class Found { kWhole, kAbsent, kOther, kDoubtful };
  Result<std::vector<Piece>> PiecesOf(const VerifiedImage& image);
  // kDoubtful: whole, and a temporary file of the same name beside it may be of the same clusters.
  Result<Found> LookAt(const Piece& piece);
  // Those that have to be written. What lies in the way of an image that no entry names goes.
  Result<std::vector<Piece>> FindMissing(const VerifiedImage& image, const std::vector<Piece>& pieces);
  // Files beside an image that are none of its companions.
  Result<std::vector<std::string>> FindStrangers(const std::string& image_path,
                                                 const std::vector<Companion>& companions);
  // --- boot_loader.cc
  // Both copies are this one.
  Result<bool> BootLoaderInstalled(const Sha256Digest& digest);
  // Its digest where it is to be installed: another one is there, or none, and not a newer one.
  Result<std::optional<Sha256Digest>> WantBootLoader(const BootLoader& loader, const std::string& version);
  // The version that it says it has.
  Result<std::string> CheckBootLoader(ByteView bytes, const BootLoader& expected);
  // Finds it staged, where it is wanted, and checks it again.
  Result<std::optional<Sha256Digest>> FindBootLoader(const ImageExpectations& expectations);
  Status InstallBootLoader(const Sha256Digest& digest);
  Status ReplaceWithCopy(const std::string& from, const std::string& to, const Sha256Digest& digest);

  Status CopyPiece(const Piece& piece);
  Status CopyVerified(const Piece& piece, const std::string& temporary);
  Result<std::vector<Piece>> MakeRoom(const VerifiedImage& image);
  static bool IsKept(const View& view, std::string_view path);

  // --- esp_garbage.cc
  Result<std::uint64_t> CollectFile(const View& view, std::string_view directory,
                                    const std::vector<DirectoryEntry>& all, const DirectoryEntry& file);
  Result<std::uint64_t> CollectBeside(const View& view, const DirectoryEntry& folder);
  // After a cut: entries are written anew before temporary files go that may be of their clusters.
  Status FreshenEntries(const View& view);
  Status RemoveSpoilt(const View& view);
  // Entries of failed upgrades, which hold the space of their images. Whether there were any.
  Result<bool> RemoveExhausted(const View& view);
  // Something whole to boot whatever becomes of entries on trial.
  static bool HasProvenEntry(const BootInventory& inventory);
  Status RemoveEntry(const std::string& file_name);
  Status RenameEntry(const std::string& from, const std::string& to);
  std::string BaseTitle(const View& view) const;
  Status PointPassiveAtRunning(const View& view);
  // Gives up what passive.conf names, where the running image is proven itself and that frees so many bytes.
  // Whether it did.
  Result<bool> ReleasePassive(const View& view, std::uint64_t bytes);

  FileSystem* fs_;
  EfiVariables* variables_;
  EspStagerOptions options_;
  // Images never change once named, so one reading a process is enough.
  std::map<std::string, Sha256Digest> digests_;
};

// "EFI/kairos/1.2.0-0123456789ab.efi", relative to the ESP.
std::string ImageFilePath(const std::string& version, const Sha256Digest& digest);
// "EFI/kairos/systemd-boot-0123456789ab.efi": a boot loader that waits to be installed. No entry names it, so
// that it goes with what is of no use.
std::string StagedLoaderPath(const Sha256Digest& digest);
// Whether a file name is of that form: only such files are ours to remove.
bool IsImageName(std::string_view name);
// Where the stub looks for what belongs to an image: "<image path>.extra.d".
inline constexpr std::string_view kCompanionSuffix = ".extra.d";

}  // namespace sealift::agent
