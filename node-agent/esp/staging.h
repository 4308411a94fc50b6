// What the update machine asks of the EFI system partition: look, verify, stage, activate, bless, clean up.
//
// The plain-typed seam between node-agent/update and node-agent/esp. EspStager (esp_stager.h) implements it;
// tests run it over the memory ESP of tests/contract/memory_file_system.h, which loses power where told.
//
// Not thread-safe: one thread owns the update machine. Every call may block on the disk, none on the network.
// Calls are idempotent: after a power cut or a killed process the update machine repeats the step it was in.
//
// Layout of the ESP (docs/architecture.md "The node"): images /EFI/kairos/<version>-<digest12>.efi, never
// renamed and never overwritten; roles are entries loader/entries/{active,passive,recovery}.conf (UAPI.1 type
// #1), with boot counters in their names (active+3.conf) while an image is on trial. Names on the ESP are
// authenticated by nothing: they decide what to keep, never what to trust.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::agent {

// kMedia: booted from an entry that is not ours to change (install medium, "norole").
enum class BootRole { kUnknown, kActive, kPassive, kRecovery, kMedia };
// "active", "passive", "recovery", "media", "unknown".
std::string_view BootRoleName(BootRole role);

// One file of loader/entries that names an image.
struct RoleEntry {
  // With its counter: "active+2-1.conf".
  std::string file_name;
  BootRole role = BootRole::kUnknown;
  std::string version;
  // From the root of the ESP, forward slashes: "/EFI/kairos/1.2.0-0123456789ab.efi".
  std::string image_path;
  // Of a counted entry: boots left before it sorts last, and boots used.
  std::optional<std::uint32_t> tries_left;
  std::uint32_t tries_done = 0;
  bool image_present = false;

  bool on_trial() const { return tries_left.has_value(); }
  bool exhausted() const { return tries_left.has_value() && *tries_left == 0; }
};

struct BootInventory {
  BootRole running_role = BootRole::kUnknown;
  // As /etc/os-release of the running image says; equals the entry's.
  std::string running_version;
  std::string running_image_path;
  // Of the file on the ESP, read once a process.
  Sha256Digest running_digest;
  // The running image's entry still has a boot counter: it was never blessed.
  bool running_on_trial = false;
  // The firmware verified what it started.
  bool secure_boot = false;
  // LoaderEntrySelected and LoaderBootCountPath as the boot loader left them; empty where it left none.
  std::string selected_entry;
  std::string boot_count_path;
  // Sorted by file name.
  std::vector<RoleEntry> entries;

  // The active entry that is on trial, whether or not it is what runs.
  const RoleEntry* Trial() const;
};

// A file beside an image, from which the stub makes an extension: <image>.extra.d/<name>.
struct Companion {
  // "tools.raw".
  std::string name;
  Sha256Digest digest;
  std::uint64_t size = 0;
};
inline constexpr std::size_t kMaxCompanions = 64;

// The boot loader that a release was predicted with.
struct BootLoader {
  Sha256Digest digest;
  std::uint64_t size = 0;
  // The Authenticode digest of the manifest, where it has one.
  std::optional<Sha256Digest> authenticode;
};

// What the signed release says of one UKI.
struct ImageExpectations {
  std::string version;
  Sha256Digest digest;
  std::uint64_t size = 0;
  // The Authenticode digest of the manifest, where it has one.
  std::optional<Sha256Digest> authenticode;
  // SHA-256 of the SubjectPublicKeyInfo of each PCR policy key generation the release accepts.
  std::vector<Sha256Digest> allowed_pcr_keys;
  // All that lies beside the image; anything else there would be measured too. Names are distinct in FAT's
  // eyes.
  std::vector<Companion> companions;
  // What the companions extend PCR 13 with, where the manifest says so.
  std::optional<Sha256Digest> pcr13_event;
  // What the configuration extensions among them extend PCR 12 with; the same.
  std::optional<Sha256Digest> pcr12_event;
  // Installed with the image where another one lies on the ESP that is not newer.
  std::optional<BootLoader> boot_loader;
};

// An image as it was fetched, outside the ESP.
struct LocalImage {
  std::filesystem::path file;
  // In the order of ImageExpectations::companions.
  std::vector<std::filesystem::path> companions;
  // Where ImageExpectations::boot_loader is set.
  std::filesystem::path boot_loader;
};

// Evidence that one local file, with what lies beside it, may go to the ESP. Only a Stager makes it.
class VerifiedImage {
 public:
  const std::filesystem::path& file() const { return file_; }
  const std::string& version() const { return version_; }
  const Sha256Digest& digest() const { return digest_; }
  std::uint64_t size() const { return size_; }
  const Sha256Digest& authenticode() const { return authenticode_; }
  // SHA-256 of the DER of the db certificate that vouches for it.
  const Sha256Digest& signer() const { return signer_; }
  // SHA-256 of the SubjectPublicKeyInfo in .pcrpkey.
  const Sha256Digest& pcr_key() const { return pcr_key_; }
  struct LocalCompanion {
    Companion what;
    std::filesystem::path file;
  };
  const std::vector<LocalCompanion>& companions() const { return companions_; }
  struct LocalBootLoader {
    BootLoader what;
    std::filesystem::path file;
    // Of systemd: "252.39-1~deb12u2".
    std::string version;
  };
  const std::optional<LocalBootLoader>& boot_loader() const { return boot_loader_; }

 private:
  friend class Stager;
  VerifiedImage() = default;
  std::vector<LocalCompanion> companions_;
  std::optional<LocalBootLoader> boot_loader_;
  std::filesystem::path file_;
  std::string version_;
  Sha256Digest digest_;
  std::uint64_t size_ = 0;
  Sha256Digest authenticode_;
  Sha256Digest signer_;
  Sha256Digest pcr_key_;
};

// Evidence that a verified image and its companions lie complete on the ESP, read back. Only a Stager makes
// it.
class StagedImage {
 public:
  const std::string& version() const { return version_; }
  const Sha256Digest& digest() const { return digest_; }
  // "/EFI/kairos/1.2.0-0123456789ab.efi".
  const std::string& image_path() const { return image_path_; }
  // Of the boot loader that lies ready to be installed with it; none where the one there is good.
  const std::optional<Sha256Digest>& boot_loader() const { return boot_loader_; }

 private:
  friend class Stager;
  StagedImage() = default;
  std::optional<Sha256Digest> boot_loader_;
  std::string version_;
  Sha256Digest digest_;
  std::string image_path_;
};

// An upgrade that used up its boots: what runs now is the image before it.
struct Fallback {
  std::string failed_version;
  std::string failed_image_path;
  BootRole running_role = BootRole::kUnknown;
};

class Stager {
 public:
  virtual ~Stager() = default;

  // Reads entries, EFI variables and the running image. Changes nothing on the ESP.
  // Errors: FAILED_PRECONDITION/ESP_MISSING (not mounted),
  // BOOT_STATE_UNKNOWN (no entry fits what runs; nothing may be staged then); UNAVAILABLE/ESP_IO.
  virtual Result<BootInventory> Inspect() = 0;

  // Checks size, digest, Authenticode against the firmware's own db and dbx, version and PCR policy key of a
  // file outside the ESP; of companions size and digest, and that together they measure as the release says.
  // Of the boot loader digest, signature, and that it is one of systemd.
  // Touches nothing. EXTENSION_INVALID: they do not, or have names that the stub passes over. Other errors,
  // all INVALID_ARGUMENT or UNAUTHENTICATED and final for these bytes: IMAGE_TRUNCATED,
  // IMAGE_DIGEST_MISMATCH, IMAGE_MALFORMED, IMAGE_UNSIGNED, IMAGE_SIGNATURE_INVALID, IMAGE_SIGNER_UNKNOWN,
  // IMAGE_REVOKED, IMAGE_VERSION_MISMATCH, IMAGE_PCR_KEY_UNKNOWN.
  // FILE_UNREADABLE and FIRMWARE_VARIABLE_UNREADABLE say nothing about the image.
  virtual Result<VerifiedImage> VerifyImage(const LocalImage& local,
                                            const ImageExpectations& expectations) = 0;

  // Copies the companions, then the image to their final names, each as follows: free space first, then
  // temporary name, write, fsync, read back and compare, rename, fsync of the directory. What lies there
  // already is kept; what lies beside the image and is not listed goes. No entry changes, so a cut leaves at
  // most a temporary file; but where space lacks, unnamed images go, and then active entries that are out of
  // tries with theirs. Errors: RESOURCE_EXHAUSTED/ESP_FULL (everything as before);
  // DATA_LOSS/ESP_READBACK_MISMATCH; UNAVAILABLE/ESP_IO; INVALID_ARGUMENT/IMAGE_DIGEST_MISMATCH when the file
  // changed since it was verified.
  virtual Result<StagedImage> Stage(const VerifiedImage& image) = 0;

  // Finds an image staged before, reads it whole from the ESP and makes every check of VerifyImage again:
  // what the firmware trusts may have changed since. Errors: NOT_FOUND/IMAGE_NOT_STAGED when it or a
  // companion is not there or holds other bytes, or something else lies beside it; those of VerifyImage;
  // UNAVAILABLE/ESP_IO.
  virtual Result<StagedImage> FindStaged(const ImageExpectations& expectations) = 0;

  // Makes the image the next to boot: its boot loader, where it brings one, to EFI/systemd and then to
  // EFI/BOOT, passive.conf to the running image, old active entries away, then active+<tries>.conf. At every
  // step at least one durable entry names a complete, known-good image. Errors:
  // FAILED_PRECONDITION/BOOT_NOT_BLESSED while the running image is itself on trial;
  // FAILED_PRECONDITION/IMAGE_ALREADY_RUNNING; RESOURCE_EXHAUSTED/ESP_FULL; UNAVAILABLE/ESP_IO.
  virtual Status Activate(const StagedImage& image, std::uint32_t tries) = 0;

  // Ends the trial of the running image: active+N-M.conf -> active.conf. Success where it has none.
  // Errors: FAILED_PRECONDITION/BOOT_NOT_ACTIVE when what runs is not the active image; UNAVAILABLE/ESP_IO.
  virtual Status Bless() = 0;

  // Takes the boots that are left from an active image on trial that does not run: active+N-M.conf ->
  // active+0-M.conf, which the boot loader tries after all others. Success where there is none; changes
  // nothing while no entry without a trial names an image. Errors: UNAVAILABLE/ESP_IO; as Inspect.
  virtual Status Disarm() = 0;

  // recovery.conf to the running image, which has to run as active and without a trial. Writes nothing where
  // it points there already. Errors: FAILED_PRECONDITION/BOOT_NOT_ACTIVE, BOOT_NOT_BLESSED;
  // RESOURCE_EXHAUSTED/ESP_FULL; UNAVAILABLE/ESP_IO; as Inspect.
  virtual Status PointRecovery() = 0;

  // Set when an active entry is out of tries and another image runs.
  virtual Result<std::optional<Fallback>> FellBack() = 0;

  // Removes temporary files, and images that no entry names with what lies beside them; never the running
  // one. Returns the bytes freed. Removes nothing at all while an entry does not parse:
  // FAILED_PRECONDITION/ESP_ENTRY_INVALID. An image staged but not activated yet is named by no entry: not to
  // be called in between. Other errors: as Inspect.
  virtual Result<std::uint64_t> CollectGarbage() = 0;

 protected:
  struct ImageFacts {
    std::filesystem::path file;
    std::string version;
    Sha256Digest digest;
    std::uint64_t size = 0;
    Sha256Digest authenticode;
    Sha256Digest signer;
    Sha256Digest pcr_key;
    std::vector<VerifiedImage::LocalCompanion> companions;
    std::optional<VerifiedImage::LocalBootLoader> boot_loader;
  };
  // The two places where evidence comes into being.
  static VerifiedImage VouchForImage(ImageFacts facts);
  static StagedImage VouchForStaged(std::string version, const Sha256Digest& digest, std::string image_path,
                                    std::optional<Sha256Digest> boot_loader = std::nullopt);
};

}  // namespace sealift::agent
