#include "node-agent/esp/esp_stager.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/base/untrusted_files.h"
#include "shared/crypto/hash.h"
#include "shared/efi/boot_entry.h"

namespace sealift::agent {
namespace {

// For entries, directory growth and rounding up to clusters, on top of the image.
constexpr std::uint64_t kSlackBytes = 1u << 20;
constexpr std::size_t kCopyBytes = 1u << 20;
constexpr std::string_view kRunningRecord = "running-image";

// "<version>-<12 hex>.efi": only such files are ours to remove.
bool IsImageName(std::string_view name) {
  constexpr std::size_t kTail = 17;  // "-" + 12 digits + ".efi"
  if (name.size() <= kTail) return false;
  const std::string tail = LowerCase(name.substr(name.size() - kTail));
  return tail.front() == '-' && tail.ends_with(".efi") &&
         std::all_of(tail.begin() + 1, tail.begin() + 13,
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool SamePath(std::string_view a, std::string_view b) { return LowerCase(a) == LowerCase(b); }

std::string EntryPath(std::string_view file_name) {
  return fmt::format("{}/{}", kEntriesDirectory, file_name);
}

Status NotStaged(std::string_view path, std::string_view why) {
  return MakeError(Code::kNotFound, Reason::kImageNotStaged,
                   fmt::format("find '{}' on the ESP: {}", path, why));
}

Status ReadLocalFile(const std::filesystem::path& path, const std::function<Status(ByteView)>& sink) {
  SEALIFT_ASSIGN_OR_RETURN(const UniqueFd fd, OpenRegularFile(path));
  Bytes piece(kCopyBytes);
  while (true) {
    const ssize_t got = ::read(fd.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable, fmt::format("read '{}'", path.string()),
                        "read", errno);
    }
    if (got == 0) return OkStatus();
    SEALIFT_RETURN_IF_ERROR(sink(ByteView(piece).first(static_cast<std::size_t>(got))));
  }
}

}  // namespace

std::string ImageFilePath(const std::string& version, const Sha256Digest& digest) {
  return fmt::format("{}/{}-{}.efi", kImagesDirectory, version, digest.hex().substr(0, 12));
}

// ---- what runs ----

Result<EspStager::Running> EspStager::ResolveRunning(const BootEntries& disk,
                                                     const std::string& selected) const {
  const Result<efi::BootEntryName> name = efi::BootEntryName::Parse(selected);
  const BootRole role = name.ok() ? RoleOfId(name->id) : BootRole::kUnknown;
  const auto unique_image = [&](auto&& fits) {
    std::vector<std::string> images;
    for (const RoleEntry& entry : disk.entries) {
      const bool known = std::any_of(images.begin(), images.end(), [&](const std::string& image) {
        return SamePath(image, entry.image_path);
      });
      if (!known && fits(entry)) images.push_back(entry.image_path);
    }
    return images.size() == 1 ? images.front() : std::string();
  };
  if (role == BootRole::kUnknown) {
    const std::string image =
        unique_image([&](const RoleEntry& entry) { return SamePath(entry.file_name, selected); });
    if (!image.empty()) return Running{.role = BootRole::kMedia, .image_path = image};
  } else {
    // The boot loader names the entry as it was before it counted down; the version tells a trial from what
    // it replaces.
    const auto version_fits = [&](const RoleEntry& entry) {
      return entry.version == options_.running_version;
    };
    std::string image =
        unique_image([&](const RoleEntry& entry) { return entry.role == role && version_fits(entry); });
    if (image.empty()) {
      image = unique_image(
          [&](const RoleEntry& entry) { return entry.role != BootRole::kUnknown && version_fits(entry); });
    }
    if (!image.empty()) return Running{.role = role, .image_path = image};
  }
  return MakeError(
      Code::kFailedPrecondition, Reason::kBootStateUnknown,
      fmt::format("find what runs: the boot loader says it started '{}', the system is version {}, and "
                  "no single entry fits both",
                  selected, options_.running_version));
}

std::optional<EspStager::Running> EspStager::RecallRunning() const {
  const Result<std::string> text = ReadTextFile(options_.runtime_directory / kRunningRecord, 4096);
  if (!text.ok()) return std::nullopt;
  // boot id, role, image path: a line each.
  const std::size_t first = text->find('\n');
  const std::size_t second = first == std::string::npos ? first : text->find('\n', first + 1);
  if (second == std::string::npos || text->back() != '\n' || text->substr(0, first) != options_.boot_id) {
    return std::nullopt;
  }
  const std::string role_name = text->substr(first + 1, second - first - 1);
  for (const BootRole role : {BootRole::kActive, BootRole::kPassive, BootRole::kRecovery, BootRole::kMedia}) {
    if (BootRoleName(role) == role_name) {
      return Running{.role = role, .image_path = text->substr(second + 1, text->size() - second - 2)};
    }
  }
  return std::nullopt;
}

Status EspStager::RememberRunning(const Running& running) const {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(options_.runtime_directory, 0755));
  return WriteFileAtomically(
      options_.runtime_directory / kRunningRecord,
      AsBytes(fmt::format("{}\n{}\n{}\n", options_.boot_id, BootRoleName(running.role), running.image_path)));
}

Result<EspStager::Running> EspStager::FindRunning(const BootEntries& disk, const std::string& selected) {
  if (std::optional<Running> known = RecallRunning()) return *known;
  SEALIFT_ASSIGN_OR_RETURN(Running running, ResolveRunning(disk, selected));
  SEALIFT_RETURN_IF_ERROR(RememberRunning(running));
  return running;
}

Result<Sha256Digest> EspStager::DigestOfRunning(const std::string& image_path) {
  if (const auto known = digests_.find(image_path); known != digests_.end()) return known->second;
  const Result<FileSystem::Measured> measured = fs_->Measure(RelativePath(image_path));
  if (!measured.ok()) return Annotate(measured.status(), "read the running image");
  digests_[image_path] = measured->digest;
  return measured->digest;
}

Result<EspStager::View> EspStager::Look() {
  View view;
  SEALIFT_ASSIGN_OR_RETURN(view.disk, LoadBootEntries(*fs_));
  BootInventory& inventory = view.inventory;
  SEALIFT_ASSIGN_OR_RETURN(inventory.selected_entry,
                           variables_->ReadText("LoaderEntrySelected", kLoaderVendor));
  SEALIFT_ASSIGN_OR_RETURN(inventory.boot_count_path,
                           variables_->ReadText("LoaderBootCountPath", kLoaderVendor));
  SEALIFT_ASSIGN_OR_RETURN(inventory.secure_boot, variables_->ReadFlag("SecureBoot", kGlobalVendor));
  SEALIFT_ASSIGN_OR_RETURN(const Running running, FindRunning(view.disk, inventory.selected_entry));
  inventory.entries = view.disk.entries;
  inventory.running_role = running.role;
  inventory.running_version = options_.running_version;
  inventory.running_image_path = running.image_path;
  SEALIFT_ASSIGN_OR_RETURN(inventory.running_digest, DigestOfRunning(running.image_path));
  inventory.running_on_trial =
      std::any_of(inventory.entries.begin(), inventory.entries.end(), [&](const RoleEntry& entry) {
        return entry.role == BootRole::kActive && entry.on_trial() &&
               SamePath(entry.image_path, running.image_path);
      });
  return view;
}

Result<BootInventory> EspStager::Inspect() {
  SEALIFT_ASSIGN_OR_RETURN(View view, Look());
  return std::move(view.inventory);
}

Status EspStager::RequireInstalled(const BootInventory& inventory) {
  if (inventory.running_role != BootRole::kMedia) return OkStatus();
  return MakeError(Code::kFailedPrecondition, Reason::kBootStateUnknown,
                   fmt::format("change the ESP: this boot started from '{}', which is no installed role",
                               inventory.selected_entry));
}

// ---- staging ----

Status EspStager::CopyVerified(const VerifiedImage& image, const std::string& temporary) {
  SEALIFT_ASSIGN_OR_RETURN(std::unique_ptr<FileWriter> writer, fs_->Create(temporary));
  Sha256Hasher hasher;
  SEALIFT_RETURN_IF_ERROR(ReadLocalFile(image.file(), [&](ByteView piece) {
    hasher.Update(piece);
    return writer->Write(piece);
  }));
  if (hasher.Finish() != image.digest()) {
    return MakeError(
        Code::kInvalidArgument, Reason::kImageDigestMismatch,
        fmt::format("stage '{}': the file changed after it was verified", image.file().string()));
  }
  SEALIFT_RETURN_IF_ERROR(writer->Sync());
  writer.reset();
  SEALIFT_ASSIGN_OR_RETURN(const FileSystem::Measured written, fs_->Measure(temporary));
  if (written.digest != image.digest()) {
    return MakeError(Code::kDataLoss, Reason::kEspReadbackMismatch,
                     fmt::format("read back '{}': {} bytes with another digest", temporary, written.size));
  }
  return OkStatus();
}

Result<bool> EspStager::RemoveExhausted(const View& view) {
  const BootInventory& now = view.inventory;
  if (!HasProvenEntry(now)) return false;
  bool removed = false;
  for (const RoleEntry& entry : now.entries) {
    if (entry.role != BootRole::kActive || !entry.exhausted() ||
        SamePath(entry.image_path, now.running_image_path)) {
      continue;
    }
    SEALIFT_RETURN_IF_ERROR(RemoveEntry(entry.file_name));
    removed = true;
  }
  // Durable before an image goes that one of them names.
  if (removed) SEALIFT_RETURN_IF_ERROR(fs_->SyncDirectory(kEntriesDirectory));
  return removed;
}

Status EspStager::MakeRoom(const View& view, std::uint64_t bytes) {
  SEALIFT_ASSIGN_OR_RETURN(std::uint64_t free, fs_->FreeBytes());
  if (free >= bytes) return OkStatus();
  SEALIFT_RETURN_IF_ERROR(CollectGarbage().status());
  SEALIFT_ASSIGN_OR_RETURN(free, fs_->FreeBytes());
  if (free >= bytes) return OkStatus();
  // A fallback was remembered before another version got this far, so its entry has told what it had to.
  SEALIFT_ASSIGN_OR_RETURN(const bool removed, RemoveExhausted(view));
  if (removed) {
    SEALIFT_RETURN_IF_ERROR(CollectGarbage().status());
    SEALIFT_ASSIGN_OR_RETURN(free, fs_->FreeBytes());
    if (free >= bytes) return OkStatus();
  }
  return MakeError(Code::kResourceExhausted, Reason::kEspFull,
                   fmt::format("stage an image: {} bytes needed on the ESP, {} free", bytes, free));
}

Result<StagedImage> EspStager::Stage(const VerifiedImage& image) {
  SEALIFT_ASSIGN_OR_RETURN(const View view, Look());
  SEALIFT_RETURN_IF_ERROR(RequireInstalled(view.inventory));
  Result<StagedImage> known = FindCopy(image.version(), image.digest());
  if (known.ok() || known.status().code() != Code::kNotFound) return known;
  const std::string final_path = ImageFilePath(image.version(), image.digest());
  if (fs_->Exists(final_path)) {
    // Other bytes under the name of these: damage. What an entry names stays for a person to look at.
    const std::string path = LowerCase("/" + final_path);
    const std::vector<std::string>& named = view.disk.referenced;
    if (std::find(named.begin(), named.end(), path) != named.end()) {
      return MakeError(Code::kDataLoss, Reason::kEspReadbackMismatch,
                       fmt::format("stage '{}': an entry names a damaged file of this name", final_path));
    }
    SEALIFT_RETURN_IF_ERROR(fs_->Remove(final_path));
  }
  SEALIFT_RETURN_IF_ERROR(MakeRoom(view, image.size() + kSlackBytes));
  SEALIFT_RETURN_IF_ERROR(fs_->MakeDirectory(kImagesDirectory));
  const std::string temporary = fmt::format("{}{}", final_path, kTemporarySuffix);
  if (Status copied = CopyVerified(image, temporary); !copied.ok()) {
    if (Status removed = fs_->Remove(temporary); !removed.ok() && removed.code() != Code::kNotFound) {
      log::Warning("a temporary file stays on the ESP", {{"path", temporary}, {"error", Describe(removed)}});
    }
    return copied;
  }
  SEALIFT_RETURN_IF_ERROR(fs_->Rename(temporary, final_path));
  SEALIFT_RETURN_IF_ERROR(fs_->SyncDirectory(kImagesDirectory));
  return VouchForStaged(image.version(), image.digest(), "/" + final_path);
}

Result<StagedImage> EspStager::FindCopy(const std::string& version, const Sha256Digest& digest) {
  const std::string path = ImageFilePath(version, digest);
  const Result<FileSystem::Measured> found = fs_->Measure(path);
  if (found.status().code() == Code::kNotFound) return NotStaged(path, "no such file");
  SEALIFT_RETURN_IF_ERROR(found.status());
  if (found->digest != digest) return NotStaged(path, "its content is another");
  return VouchForStaged(version, digest, "/" + path);
}

Result<StagedImage> EspStager::FindStaged(const ImageExpectations& expectations) {
  const std::string path = ImageFilePath(expectations.version, expectations.digest);
  const Result<Bytes> bytes = fs_->Read(path, expectations.size);
  if (bytes.status().code() == Code::kNotFound) return NotStaged(path, "no such file");
  if (ReasonOf(bytes.status()) == Reason::kFileTooLarge) return NotStaged(path, "its content is another");
  SEALIFT_RETURN_IF_ERROR(bytes.status());
  if (bytes->size() != expectations.size || Sha256(*bytes) != expectations.digest) {
    return NotStaged(path, "its content is another");
  }
  SEALIFT_RETURN_IF_ERROR(CheckImage(*bytes, expectations).status());
  return VouchForStaged(expectations.version, expectations.digest, "/" + path);
}

// ---- entries ----

std::string EspStager::BaseTitle(const View& view) const {
  constexpr std::string_view kPrevious = " (previous)";
  for (const RoleEntry& entry : view.disk.entries) {
    if (entry.role == BootRole::kUnknown || !SamePath(entry.image_path, view.inventory.running_image_path))
      continue;
    std::string title = view.disk.titles.at(entry.file_name);
    if (title.ends_with(kPrevious)) title.resize(title.size() - kPrevious.size());
    if (!title.empty()) return title;
  }
  return "Kairos";
}

Status EspStager::RemoveEntry(const std::string& file_name) {
  const Status removed = fs_->Remove(EntryPath(file_name));
  return removed.code() == Code::kNotFound ? OkStatus() : removed;
}

Status EspStager::PointPassiveAtRunning(const View& view) {
  const BootInventory& now = view.inventory;
  const auto passive = std::find_if(now.entries.begin(), now.entries.end(), [&](const RoleEntry& entry) {
    return entry.role == BootRole::kPassive && !entry.on_trial();
  });
  if (passive == now.entries.end() || !SamePath(passive->image_path, now.running_image_path)) {
    const std::string text = FormatEntry({.title = BaseTitle(view) + " (previous)",
                                          .role = BootRole::kPassive,
                                          .version = now.running_version,
                                          .image_path = now.running_image_path});
    SEALIFT_RETURN_IF_ERROR(fs_->Replace(EntryPath("passive.conf"), AsBytes(text)));
  }
  for (const RoleEntry& entry : now.entries) {
    if (entry.role == BootRole::kPassive && entry.on_trial()) {
      SEALIFT_RETURN_IF_ERROR(RemoveEntry(entry.file_name));
    }
  }
  return fs_->SyncDirectory(kEntriesDirectory);
}

Status EspStager::Activate(const StagedImage& image, std::uint32_t tries) {
  SEALIFT_CHECK(tries > 0);
  SEALIFT_ASSIGN_OR_RETURN(const View view, Look());
  const BootInventory& now = view.inventory;
  SEALIFT_RETURN_IF_ERROR(RequireInstalled(now));
  if (SamePath(now.running_image_path, image.image_path())) {
    return MakeError(Code::kFailedPrecondition, Reason::kImageAlreadyRunning,
                     fmt::format("activate {}: it is what runs", image.version()));
  }
  if (now.running_on_trial) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kBootNotBlessed,
        fmt::format("activate {}: the running {} is on trial itself", image.version(), now.running_version));
  }
  if (!fs_->Exists(RelativePath(image.image_path()))) {
    return MakeError(Code::kNotFound, Reason::kImageNotStaged,
                     fmt::format("activate {}: '{}' is gone", image.version(), image.image_path()));
  }
  const std::string title = BaseTitle(view);
  // From here on passive.conf stands for what runs, durable before any active entry is touched. While it is
  // written the running active entry (or recovery) is untouched; a passive that runs is not written at all.
  SEALIFT_RETURN_IF_ERROR(PointPassiveAtRunning(view));
  const std::string target = efi::BootEntryName{.id = "active"}.WithTries(tries).Format();
  for (const RoleEntry& entry : now.entries) {
    if (entry.role == BootRole::kActive && !SamePath(entry.file_name, target)) {
      SEALIFT_RETURN_IF_ERROR(RemoveEntry(entry.file_name));
    }
  }
  for (const std::string& file_name : view.disk.unreadable) {
    const Result<efi::BootEntryName> name = efi::BootEntryName::Parse(file_name);
    if (name.ok() && RoleOfId(name->id) == BootRole::kActive) SEALIFT_RETURN_IF_ERROR(RemoveEntry(file_name));
  }
  SEALIFT_RETURN_IF_ERROR(fs_->SyncDirectory(kEntriesDirectory));
  return fs_->Replace(EntryPath(target), AsBytes(FormatEntry({.title = title,
                                                              .role = BootRole::kActive,
                                                              .version = image.version(),
                                                              .image_path = image.image_path()})));
}

Status EspStager::Bless() {
  SEALIFT_ASSIGN_OR_RETURN(const View view, Look());
  const BootInventory& now = view.inventory;
  if (now.running_role != BootRole::kActive) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kBootNotActive,
        fmt::format("bless {}: it runs as {}", now.running_version, BootRoleName(now.running_role)));
  }
  for (const RoleEntry& entry : now.entries) {
    if (entry.role == BootRole::kActive && entry.on_trial() &&
        SamePath(entry.image_path, now.running_image_path)) {
      SEALIFT_RETURN_IF_ERROR(fs_->Rename(EntryPath(entry.file_name), EntryPath("active.conf")));
      return fs_->SyncDirectory(kEntriesDirectory);
    }
  }
  return OkStatus();
}

bool EspStager::HasProvenEntry(const BootInventory& inventory) {
  return std::any_of(inventory.entries.begin(), inventory.entries.end(), [](const RoleEntry& entry) {
    return entry.role != BootRole::kUnknown && !entry.on_trial() && entry.image_present;
  });
}

Status EspStager::Disarm() {
  SEALIFT_ASSIGN_OR_RETURN(const View view, Look());
  const BootInventory& now = view.inventory;
  if (now.running_role == BootRole::kMedia || !HasProvenEntry(now)) return OkStatus();
  bool changed = false;
  for (const RoleEntry& entry : now.entries) {
    const bool waits = entry.role == BootRole::kActive && entry.on_trial() && !entry.exhausted();
    if (!waits || SamePath(entry.image_path, now.running_image_path)) continue;
    SEALIFT_ASSIGN_OR_RETURN(efi::BootEntryName name, efi::BootEntryName::Parse(entry.file_name));
    name.counter->left = 0;
    SEALIFT_RETURN_IF_ERROR(fs_->Rename(EntryPath(entry.file_name), EntryPath(name.Format())));
    changed = true;
  }
  return changed ? fs_->SyncDirectory(kEntriesDirectory) : OkStatus();
}

Result<std::optional<Fallback>> EspStager::FellBack() {
  SEALIFT_ASSIGN_OR_RETURN(const View view, Look());
  const BootInventory& now = view.inventory;
  for (const RoleEntry& entry : now.entries) {
    if (entry.role == BootRole::kActive && entry.exhausted() &&
        !SamePath(entry.image_path, now.running_image_path)) {
      return std::optional<Fallback>(Fallback{.failed_version = entry.version,
                                              .failed_image_path = entry.image_path,
                                              .running_role = now.running_role});
    }
  }
  return std::optional<Fallback>();
}

Result<std::uint64_t> EspStager::CollectGarbage() {
  SEALIFT_ASSIGN_OR_RETURN(const View view, Look());
  if (view.inventory.running_role == BootRole::kMedia) return 0u;
  if (!view.disk.unreadable.empty()) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kEspEntryInvalid,
        fmt::format("clean up the ESP: entry '{}' does not parse", view.disk.unreadable.front()));
  }
  std::uint64_t freed = 0;
  const std::string running = LowerCase(view.inventory.running_image_path);
  for (const std::string_view directory : {kImagesDirectory, kEntriesDirectory}) {
    const Result<std::vector<DirectoryEntry>> files = fs_->List(directory);
    if (files.status().code() == Code::kNotFound) continue;
    SEALIFT_RETURN_IF_ERROR(files.status());
    for (const DirectoryEntry& file : *files) {
      const std::string path = fmt::format("{}/{}", directory, file.name);
      const std::string key = LowerCase("/" + path);
      const std::vector<std::string>& named = view.disk.referenced;
      const bool temporary = file.name.ends_with(kTemporarySuffix);
      const bool unnamed = directory == kImagesDirectory && IsImageName(file.name) && key != running &&
                           std::find(named.begin(), named.end(), key) == named.end();
      if (file.is_directory || (!temporary && !unnamed)) continue;
      SEALIFT_RETURN_IF_ERROR(fs_->Remove(path));
      freed += file.size;
    }
    SEALIFT_RETURN_IF_ERROR(fs_->SyncDirectory(directory));
  }
  return freed;
}

}  // namespace sealift::agent
