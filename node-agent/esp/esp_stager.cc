#include "node-agent/esp/esp_stager.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/efi/boot_entry.h"

namespace sealift::agent {
namespace {

constexpr std::string_view kRunningRecord = "running-image";

}  // namespace

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
  // What was started by another role's entry is proven, whatever active entries there are.
  inventory.running_on_trial =
      running.role == BootRole::kActive &&
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

// ---- entries ----

std::string EspStager::BaseTitle(const View& view) const {
  constexpr std::string_view kSuffixes[] = {" (previous)", " (recovery)"};
  for (const RoleEntry& entry : view.disk.entries) {
    if (entry.role == BootRole::kUnknown || !SamePath(entry.image_path, view.inventory.running_image_path))
      continue;
    std::string title = view.disk.titles.at(entry.file_name);
    for (const std::string_view suffix : kSuffixes) {
      if (title.ends_with(suffix)) title.resize(title.size() - suffix.size());
    }
    if (!title.empty()) return title;
  }
  return "Kairos";
}

Status EspStager::RemoveEntry(const std::string& file_name) {
  const Status removed = fs_->Remove(EntryPath(file_name));
  return removed.code() == Code::kNotFound ? OkStatus() : removed;
}

Status EspStager::RenameEntry(const std::string& from, const std::string& to) {
  if (fs_->Exists(EntryPath(to))) {
    // Left by a rename that was cut, and perhaps of the same clusters: written anew before the other goes.
    SEALIFT_ASSIGN_OR_RETURN(const Bytes text, fs_->Read(EntryPath(from), efi::kMaxEntryBytes));
    SEALIFT_RETURN_IF_ERROR(fs_->Replace(EntryPath(to), text));
    SEALIFT_RETURN_IF_ERROR(RemoveEntry(from));
  } else {
    SEALIFT_RETURN_IF_ERROR(fs_->Rename(EntryPath(from), EntryPath(to)));
  }
  return fs_->SyncDirectory(kEntriesDirectory);
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
  // Before any entry changes: what boots until then boots through either.
  if (image.boot_loader()) SEALIFT_RETURN_IF_ERROR(InstallBootLoader(*image.boot_loader()));
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
  std::vector<std::string> trials;
  for (const RoleEntry& entry : now.entries) {
    if (entry.role == BootRole::kActive && entry.on_trial() &&
        SamePath(entry.image_path, now.running_image_path)) {
      trials.push_back(entry.file_name);
    }
  }
  if (trials.empty()) return OkStatus();
  if (trials.size() == 1) return RenameEntry(trials.front(), "active.conf");
  // The boot loader's own counting was cut, and they may be of the same clusters.
  SEALIFT_ASSIGN_OR_RETURN(const Bytes text, fs_->Read(EntryPath(trials.front()), efi::kMaxEntryBytes));
  SEALIFT_RETURN_IF_ERROR(fs_->Replace(EntryPath("active.conf"), text));
  for (const std::string& trial : trials) SEALIFT_RETURN_IF_ERROR(RemoveEntry(trial));
  return fs_->SyncDirectory(kEntriesDirectory);
}

Status EspStager::PointRecovery() {
  SEALIFT_ASSIGN_OR_RETURN(const View view, Look());
  const BootInventory& now = view.inventory;
  if (now.running_role != BootRole::kActive) {
    return MakeError(Code::kFailedPrecondition, Reason::kBootNotActive,
                     fmt::format("make {} the recovery image: it runs as {}", now.running_version,
                                 BootRoleName(now.running_role)));
  }
  if (now.running_on_trial) {
    return MakeError(Code::kFailedPrecondition, Reason::kBootNotBlessed,
                     fmt::format("make {} the recovery image: it is on trial", now.running_version));
  }
  const auto recovery = std::find_if(now.entries.begin(), now.entries.end(), [&](const RoleEntry& entry) {
    return entry.role == BootRole::kRecovery && !entry.on_trial();
  });
  if (recovery != now.entries.end() && SamePath(recovery->image_path, now.running_image_path))
    return OkStatus();
  const std::string text = FormatEntry({.title = BaseTitle(view) + " (recovery)",
                                        .role = BootRole::kRecovery,
                                        .version = now.running_version,
                                        .image_path = now.running_image_path});
  return fs_->Replace(EntryPath("recovery.conf"), AsBytes(text));
}

Status EspStager::Disarm() {
  SEALIFT_ASSIGN_OR_RETURN(const View view, Look());
  const BootInventory& now = view.inventory;
  if (now.running_role == BootRole::kMedia || !HasProvenEntry(now)) return OkStatus();
  for (const RoleEntry& entry : now.entries) {
    const bool waits = entry.role == BootRole::kActive && entry.on_trial() && !entry.exhausted();
    if (!waits || SamePath(entry.image_path, now.running_image_path)) continue;
    SEALIFT_ASSIGN_OR_RETURN(efi::BootEntryName name, efi::BootEntryName::Parse(entry.file_name));
    name.counter->left = 0;
    SEALIFT_RETURN_IF_ERROR(RenameEntry(entry.file_name, name.Format()));
  }
  return OkStatus();
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

}  // namespace sealift::agent
