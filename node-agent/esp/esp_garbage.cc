// What is on the ESP and no longer of use: images that no entry names, and what power cuts left.
#include <fmt/format.h>

#include <algorithm>

#include "node-agent/esp/esp_stager.h"
#include "shared/base/log.h"
#include "shared/efi/boot_entry.h"

namespace sealift::agent {

bool IsImageName(std::string_view name) {
  constexpr std::size_t kTail = 17;  // "-" + 12 digits + ".efi"
  if (name.size() <= kTail) return false;
  const std::string tail = LowerCase(name.substr(name.size() - kTail));
  return tail.front() == '-' && tail.ends_with(".efi") &&
         std::all_of(tail.begin() + 1, tail.begin() + 13,
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool EspStager::HasProvenEntry(const BootInventory& inventory) {
  return std::any_of(inventory.entries.begin(), inventory.entries.end(), [](const RoleEntry& entry) {
    return entry.role != BootRole::kUnknown && !entry.on_trial() && entry.image_present;
  });
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

Result<bool> EspStager::ReleasePassive(const View& view, std::uint64_t bytes) {
  const BootInventory& now = view.inventory;
  if (now.running_role != BootRole::kActive || now.running_on_trial) return false;
  const auto passive = std::find_if(now.entries.begin(), now.entries.end(), [&](const RoleEntry& entry) {
    return entry.role == BootRole::kPassive && !SamePath(entry.image_path, now.running_image_path);
  });
  if (passive == now.entries.end()) return false;
  const std::string image = LowerCase(passive->image_path);
  const std::vector<std::string>& named = view.disk.referenced;
  if (std::count(named.begin(), named.end(), image) != 1) return false;
  std::uint64_t freed = 0;
  for (const std::string& folder :
       {std::string(kImagesDirectory),
        fmt::format("{}{}", RelativePath(passive->image_path), kCompanionSuffix)}) {
    const auto files = fs_->List(folder);
    for (std::size_t i = 0; files.ok() && i < files->size(); ++i) {
      const bool all = folder != kImagesDirectory;
      if (all || SamePath(fmt::format("/{}/{}", folder, (*files)[i].name), image)) freed += (*files)[i].size;
    }
  }
  if (freed < bytes) return false;
  log::Warning("no room for another image: the one before is given up", {{"version", passive->version}});
  SEALIFT_RETURN_IF_ERROR(PointPassiveAtRunning(view));
  return true;
}

Status EspStager::FreshenEntries(const View& view) {
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> files, fs_->List(kEntriesDirectory));
  const bool cut = std::any_of(files.begin(), files.end(), [](const DirectoryEntry& file) {
    return file.name.ends_with(kTemporarySuffix);
  });
  if (!cut) return OkStatus();
  for (const RoleEntry& entry : view.inventory.entries) {
    if (entry.role == BootRole::kUnknown) continue;
    SEALIFT_ASSIGN_OR_RETURN(const Bytes text, fs_->Read(EntryPath(entry.file_name), efi::kMaxEntryBytes));
    SEALIFT_RETURN_IF_ERROR(fs_->Replace(EntryPath(entry.file_name), text));
  }
  return OkStatus();
}

// A counted entry that a cut rename spoilt boots nothing, and its name tells that it is one of ours.
Status EspStager::RemoveSpoilt(const View& view) {
  if (view.disk.unreadable.empty() || !HasProvenEntry(view.inventory)) return OkStatus();
  for (const std::string& file_name : view.disk.unreadable) {
    const Result<efi::BootEntryName> name = efi::BootEntryName::Parse(file_name);
    if (!name.ok() || RoleOfId(name->id) != BootRole::kActive || !name->counter) continue;
    log::Warning("an entry on trial that does not parse goes", {{"path", file_name}});
    SEALIFT_RETURN_IF_ERROR(RemoveEntry(file_name));
  }
  return fs_->SyncDirectory(kEntriesDirectory);
}

Result<std::uint64_t> EspStager::CollectFile(const View& view, std::string_view directory,
                                             const std::vector<DirectoryEntry>& all,
                                             const DirectoryEntry& file) {
  const std::string path = fmt::format("{}/{}", directory, file.name);
  const bool image = directory == kImagesDirectory && IsImageName(file.name) && !IsKept(view, path);
  bool left_over = file.name.ends_with(kTemporarySuffix);
  if (left_over && directory != kEntriesDirectory) {
    // Beside a file that is kept it may be of the same clusters.
    const std::string of = path.substr(0, path.size() - kTemporarySuffix.size());
    const bool there = std::any_of(all.begin(), all.end(), [&](const DirectoryEntry& other) {
      return SamePath(fmt::format("{}/{}", directory, other.name), of);
    });
    left_over = !there || (directory == kImagesDirectory && !IsKept(view, of));
  }
  if (!left_over && !image) return 0u;
  SEALIFT_RETURN_IF_ERROR(fs_->Remove(path));
  return file.size;
}

Result<std::uint64_t> EspStager::CollectBeside(const View& view, const DirectoryEntry& folder) {
  if (!folder.name.ends_with(kCompanionSuffix)) return 0u;
  const std::string image = folder.name.substr(0, folder.name.size() - kCompanionSuffix.size());
  if (!IsImageName(image)) return 0u;
  const std::string path = fmt::format("{}/{}", kImagesDirectory, folder.name);
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> files, fs_->List(path));
  const bool kept = IsKept(view, fmt::format("{}/{}", kImagesDirectory, image));
  std::uint64_t freed = 0;
  bool strange = false;
  for (const DirectoryEntry& file : files) {
    strange = strange || file.is_directory;
    if (file.is_directory) continue;
    if (kept) {
      SEALIFT_ASSIGN_OR_RETURN(const std::uint64_t bytes, CollectFile(view, path, files, file));
      freed += bytes;
    } else {
      SEALIFT_RETURN_IF_ERROR(fs_->Remove(fmt::format("{}/{}", path, file.name)));
      freed += file.size;
    }
  }
  if (kept || strange) {
    SEALIFT_RETURN_IF_ERROR(fs_->SyncDirectory(path));
  } else {
    SEALIFT_RETURN_IF_ERROR(fs_->RemoveDirectory(path));
  }
  return freed;
}

Result<std::uint64_t> EspStager::CollectGarbage() {
  SEALIFT_ASSIGN_OR_RETURN(View view, Look());
  if (view.inventory.running_role == BootRole::kMedia) return 0u;
  SEALIFT_RETURN_IF_ERROR(RemoveSpoilt(view));
  SEALIFT_RETURN_IF_ERROR(FreshenEntries(view));
  SEALIFT_ASSIGN_OR_RETURN(view, Look());
  if (!view.disk.unreadable.empty()) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kEspEntryInvalid,
        fmt::format("clean up the ESP: entry '{}' does not parse", view.disk.unreadable.front()));
  }
  std::uint64_t freed = 0;
  for (const std::string_view directory : {kImagesDirectory, kEntriesDirectory}) {
    const Result<std::vector<DirectoryEntry>> files = fs_->List(directory);
    if (files.status().code() == Code::kNotFound) continue;
    SEALIFT_RETURN_IF_ERROR(files.status());
    for (const DirectoryEntry& file : *files) {
      const bool folder = file.is_directory;
      if (folder && directory == kEntriesDirectory) continue;
      SEALIFT_ASSIGN_OR_RETURN(const std::uint64_t bytes, folder
                                                              ? CollectBeside(view, file)
                                                              : CollectFile(view, directory, *files, file));
      freed += bytes;
    }
    SEALIFT_RETURN_IF_ERROR(fs_->SyncDirectory(directory));
  }
  return freed;
}

}  // namespace sealift::agent
