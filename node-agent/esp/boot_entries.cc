#include "node-agent/esp/boot_entries.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "shared/efi/boot_entry.h"

namespace sealift::agent {
namespace {

constexpr std::size_t kMaxEntries = 1024;

// With a leading slash and forward slashes, as our own entries have it.
std::string NormalPath(std::string_view path) {
  std::string normal(path);
  std::replace(normal.begin(), normal.end(), '\\', '/');
  if (normal.empty() || normal.front() != '/') normal.insert(normal.begin(), '/');
  return normal;
}

// Present means: a file of at least one byte. The boot loader would start nothing else.
class ImagePresence {
 public:
  explicit ImagePresence(FileSystem& fs) : fs_(fs) {}
  bool Has(std::string_view path) {
    const std::string parent(ParentOf(RelativePath(path)));
    if (!listed_.contains(parent)) {
      std::set<std::string>& names = listed_[parent];
      const Result<std::vector<DirectoryEntry>> entries = fs_.List(parent);
      for (std::size_t i = 0; entries.ok() && i < entries->size(); ++i) {
        const DirectoryEntry& entry = (*entries)[i];
        if (!entry.is_directory && entry.size > 0)
          names.insert(LowerCase(fmt::format("{}/{}", parent, entry.name)));
      }
    }
    return listed_[parent].contains(LowerCase(RelativePath(path)));
  }

 private:
  FileSystem& fs_;
  std::map<std::string, std::set<std::string>> listed_;
};

Status LoadOne(FileSystem& fs, const std::string& file_name, ImagePresence& presence, BootEntries& into) {
  const Result<Bytes> bytes =
      fs.Read(fmt::format("{}/{}", kEntriesDirectory, file_name), efi::kMaxEntryBytes);
  if (!bytes.ok() && ReasonOf(bytes.status()) != Reason::kFileTooLarge) return bytes.status();
  const Result<efi::BootEntryName> name = efi::BootEntryName::Parse(file_name);
  const Result<efi::BootEntry> entry =
      bytes.ok() ? efi::BootEntry::Parse(AsText(*bytes)) : Result<efi::BootEntry>(bytes.status());
  const BootRole role = name.ok() ? RoleOfId(name->id) : BootRole::kUnknown;
  const bool ours_without_image = role != BootRole::kUnknown && entry.ok() && entry->Get("efi").empty();
  if (!name.ok() || !entry.ok() || entry->fields().empty() || ours_without_image) {
    into.unreadable.push_back(file_name);
    return OkStatus();
  }
  for (const auto& [key, value] : entry->fields()) {
    if (key == "efi" || key == "linux" || key == "initrd" || key == "devicetree" || key == "uki") {
      into.referenced.push_back(LowerCase(NormalPath(value)));
    }
  }
  into.titles[file_name] = entry->Get("title");
  if (entry->Get("efi").empty()) return OkStatus();
  RoleEntry found{.file_name = file_name,
                  .role = role,
                  .version = std::string(entry->Get("version")),
                  .image_path = NormalPath(entry->Get("efi"))};
  found.image_present = presence.Has(found.image_path);
  if (name->counter) {
    found.tries_left = name->counter->left;
    found.tries_done = name->counter->done;
  }
  into.entries.push_back(std::move(found));
  return OkStatus();
}

}  // namespace

std::string LowerCase(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; });
  return lower;
}

bool SamePath(std::string_view a, std::string_view b) { return LowerCase(a) == LowerCase(b); }

std::string EntryPath(std::string_view file_name) {
  return fmt::format("{}/{}", kEntriesDirectory, file_name);
}

std::string_view RelativePath(std::string_view path) {
  return path.empty() || path.front() != '/' ? path : path.substr(1);
}

BootRole RoleOfId(std::string_view id) {
  const std::string lower = LowerCase(id);
  if (lower == "active") return BootRole::kActive;
  if (lower == "passive") return BootRole::kPassive;
  if (lower == "recovery") return BootRole::kRecovery;
  return BootRole::kUnknown;
}

Result<BootEntries> LoadBootEntries(FileSystem& fs) {
  const Result<std::vector<DirectoryEntry>> files = fs.List(kEntriesDirectory);
  if (files.status().code() == Code::kNotFound) {
    return MakeError(Code::kFailedPrecondition, Reason::kEspMissing,
                     "read boot entries: the ESP has no loader/entries, or is not mounted");
  }
  SEALIFT_RETURN_IF_ERROR(files.status());
  BootEntries loaded;
  ImagePresence presence(fs);
  std::size_t count = 0;
  for (const DirectoryEntry& file : *files) {
    if (file.is_directory || !LowerCase(file.name).ends_with(".conf")) continue;
    if (++count > kMaxEntries) {
      loaded.unreadable.push_back(file.name);
      break;
    }
    SEALIFT_RETURN_IF_ERROR(LoadOne(fs, file.name, presence, loaded));
  }
  return loaded;
}

std::string FormatEntry(const EntryText& entry) {
  // Exhausted entries sort last whatever they say; of the others the lowest sort key boots.
  const int order = entry.role == BootRole::kActive ? 1 : entry.role == BootRole::kPassive ? 2 : 3;
  efi::BootEntry text;
  text.Set("title", entry.title);
  text.Set("sort-key", fmt::format("{}{}", order, BootRoleName(entry.role)));
  text.Set("version", entry.version);
  text.Set("efi", entry.image_path);
  return text.Format();
}

}  // namespace sealift::agent
