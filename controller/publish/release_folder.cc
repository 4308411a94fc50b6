#include "controller/publish/release_folder.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "shared/base/files.h"
#include "shared/content/download.h"
#include "shared/crypto/hash.h"
#include "shared/delta/content_list.h"
#include "shared/delta/image_index.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int kFormat = 1;
constexpr char kListFile[] = "sealift-release.json";
constexpr std::size_t kMaxListBytes = 1u << 20;
constexpr std::size_t kMaxListedRoots = 1024;

Status Invalid(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kReleaseArchiveInvalid,
                   fmt::format("read exported release: {}", what));
}

// Files by name, for a client that forgets.
class MetadataFiles final : public tuf::MetadataSource, public tuf::TrustedMetadataStore {
 public:
  Result<std::string> Fetch(std::string_view name, std::size_t) override {
    const auto found = files.find(std::string(name));
    if (found != files.end()) return found->second;
    return MakeError(Code::kNotFound, Reason::kFileUnreadable, fmt::format("no metadata file '{}'", name));
  }
  Result<std::optional<std::string>> Load(std::string_view name) override {
    const auto found = files.find(std::string(name));
    if (found == files.end()) return std::optional<std::string>();
    return std::optional<std::string>(found->second);
  }
  Status Store(std::string_view name, std::string_view bytes) override {
    files.insert_or_assign(std::string(name), std::string(bytes));
    return OkStatus();
  }
  Status Remove(std::string_view name) override {
    files.erase(std::string(name));
    return OkStatus();
  }
  std::map<std::string, std::string> files;
};

// The moment at which the metadata was served.
class Moment final : public Clock {
 public:
  explicit Moment(UnixMillis at) : at_(at) {}
  UnixMillis Now() const override { return at_; }
  std::chrono::steady_clock::time_point Steady() const override { return std::chrono::steady_clock::now(); }
  bool SleepFor(std::chrono::milliseconds, std::stop_token) override { return false; }

 private:
  const UnixMillis at_;
};

std::string RootName(std::uint32_t version) { return fmt::format("{}.root.json", version); }

std::string ListText(const std::string& channel, const std::string& version,
                     const std::map<std::string, std::string>& metadata) {
  Json digests = Json::object();
  for (const auto& [name, text] : metadata) digests[name] = Sha256(AsBytes(text)).hex();
  return Json{{"format", kFormat}, {"channel", channel}, {"version", version}, {"metadata", digests}}.dump(
             2) +
         "\n";
}

// What a release needs, by digest: its files and what its content list names, and every release's manifest.
class NeededObjects {
 public:
  using Read = std::function<Result<Bytes>(const delta::ContentName&)>;

  // `read` proves what it gives.
  static Result<std::map<Sha256Digest, std::uint64_t>> Of(const tuf::Targets& targets,
                                                          const ListedRelease& release, const Read& read) {
    NeededObjects needed(read);
    for (const ListedRelease& each : ListReleases(targets)) needed.Add({each.id.digest, each.manifest_size});
    const std::string prefix = FileTargetName(release.channel, release.version, "");
    const std::string list = prefix + std::string(delta::kContentListName);
    for (const auto& [name, target] : targets.targets) {
      if (!name.starts_with(prefix)) continue;
      needed.Add({target.sha256, target.length});
      if (name == list) SEALIFT_RETURN_IF_ERROR(needed.AddList({target.sha256, target.length}));
    }
    return needed.sizes_;
  }

 private:
  explicit NeededObjects(const Read& read) : read_(read) {}
  void Add(const delta::ContentName& name) { sizes_.emplace(name.digest, name.size); }
  Status AddList(const delta::ContentName& name) {
    if (name.size > delta::kMaxContentListBytes) return Invalid("its content list is too large");
    SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, read_(name));
    SEALIFT_ASSIGN_OR_RETURN(const delta::ContentList list, delta::ParseContentList(AsText(bytes)));
    for (const auto& [image, content] : list.images) {
      for (const auto& [from, one] : content.deltas) Add(one);
      if (content.index) SEALIFT_RETURN_IF_ERROR(AddIndex(*content.index));
    }
    return OkStatus();
  }
  Status AddIndex(const delta::ContentName& name) {
    Add(name);
    if (name.size > delta::kMaxIndexBytes) return Invalid("its image index is too large");
    SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, read_(name));
    SEALIFT_ASSIGN_OR_RETURN(const delta::ImageIndex index, delta::ParseImageIndex(bytes));
    for (const delta::IndexedPart& part : index.parts)
      if (!part.object.none()) Add({part.object.digest, part.object.size});
    return OkStatus();
  }

  const Read& read_;
  std::map<Sha256Digest, std::uint64_t> sizes_;
};

Status Withdrawn(const ListedRelease& release, std::string_view verb) {
  return MakeError(Code::kFailedPrecondition, Reason::kReleaseWithdrawn,
                   fmt::format("{} release {} {}: it was withdrawn: {}", verb, release.channel,
                               release.version, release.withdrawn->because));
}

// The files that a refresh which succeeded went through, under the names they are served by.
Result<std::map<std::string, std::string>> MetadataOf(const tuf::VerifiedTargets& verified,
                                                      MetadataFiles& kept, std::string_view trusted_root,
                                                      Uploader& from) {
  std::map<std::string, std::string> metadata;
  metadata["timestamp.json"] = kept.files.at("timestamp.json");
  metadata[fmt::format("{}.snapshot.json", verified.snapshot_version())] = kept.files.at("snapshot.json");
  metadata[fmt::format("{}.targets.json", verified.targets().version)] = kept.files.at("targets.json");
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope first, tuf::ParseEnvelope(trusted_root, tuf::kMaxRootBytes));
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Root root, tuf::ParseRoot(first));
  for (std::uint32_t version = 1; version <= verified.root_version(); ++version) {
    const std::string name = RootName(version);
    if (version == root.version) {
      metadata[name] = std::string(trusted_root);
    } else if (kept.files.contains(name)) {
      metadata[name] = kept.files.at(name);
    } else {
      // Before the one that is trusted here: for those who trust an earlier one.
      SEALIFT_ASSIGN_OR_RETURN(metadata[name], from.metadata().Fetch(name, tuf::kMaxRootBytes));
    }
  }
  return metadata;
}

}  // namespace

Result<ExportedRelease> ExportRelease(const ExportRequest& request, std::string_view trusted_root,
                                      Uploader& from, const Clock& clock) {
  MetadataFiles kept;
  SEALIFT_ASSIGN_OR_RETURN(const tuf::VerifiedTargets verified,
                           tuf::TufClient(std::string(trusted_root), from.metadata(), kept, clock).Refresh());
  ExportedRelease exported{.targets_version = verified.targets().version};
  SEALIFT_ASSIGN_OR_RETURN(exported.release,
                           FindRelease(verified.targets(), request.channel, request.version));
  if (exported.release.withdrawn.has_value()) return Withdrawn(exported.release, "export");
  SEALIFT_ASSIGN_OR_RETURN(const auto metadata, MetadataOf(verified, kept, trusted_root, from));
  std::error_code error;
  if (fs::exists(request.folder, error)) {
    return MakeError(Code::kAlreadyExists, Reason::kFileUnwritable,
                     fmt::format("export to '{}': something is there already", request.folder.string()));
  }
  const fs::path partial = request.folder.string() + ".partial";
  fs::remove_all(partial, error);
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(partial / "metadata"));
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(partial / "objects"));
  for (const auto& [name, text] : metadata)
    SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(partial / "metadata" / name, AsBytes(text)));
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(partial / kListFile,
                                              AsBytes(ListText(request.channel, request.version, metadata))));
  const auto fetch = [&](const delta::ContentName& name) -> Result<fs::path> {
    fs::path file = partial / "objects" / name.digest.hex();
    SEALIFT_RETURN_IF_ERROR(content::Download(
        from.content(), {.digest = name.digest, .size = name.size, .file = file, .progress = {}}));
    return file;
  };
  SEALIFT_ASSIGN_OR_RETURN(const auto needed,
                           NeededObjects::Of(verified.targets(), exported.release,
                                             [&](const delta::ContentName& name) -> Result<Bytes> {
                                               SEALIFT_ASSIGN_OR_RETURN(const fs::path file, fetch(name));
                                               return ReadFile(file, name.size);
                                             }));
  std::uint64_t all = 0;
  for (const auto& [digest, size] : needed) all += size;
  for (const auto& [digest, size] : needed) {
    SEALIFT_RETURN_IF_ERROR(fetch({digest, size}).status());
    ++exported.objects;
    exported.bytes += size;
    if (request.progress) request.progress(exported.bytes, all);
  }
  fs::rename(partial, request.folder, error);
  if (error) {
    return MakeError(Code::kUnavailable, Reason::kFileUnwritable,
                     fmt::format("export to '{}': {}", request.folder.string(), error.message()));
  }
  SEALIFT_RETURN_IF_ERROR(SyncDirectory(fs::absolute(request.folder).parent_path()));
  return exported;
}

// Step by step; what one step proved the next may use.
class FolderCheck {
 public:
  FolderCheck(const fs::path& folder, std::string_view trusted_root)
      : folder_(folder), trusted_root_(trusted_root) {}

  Result<ReleaseFolder> Run() {
    SEALIFT_RETURN_IF_ERROR(ListFiles());
    SEALIFT_RETURN_IF_ERROR(ReadList());
    SEALIFT_RETURN_IF_ERROR(CheckMetadata());
    SEALIFT_RETURN_IF_ERROR(CheckObjects());
    // What no step asked for.
    if (!unclaimed_.empty()) return Invalid(fmt::format("'{}' does not belong to it", *unclaimed_.begin()));
    return std::move(result_);
  }

 private:
  Status ListFiles() {
    std::error_code error;
    for (auto entry = fs::recursive_directory_iterator(folder_, error);
         !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
      std::error_code failed;
      const fs::file_status status = entry->symlink_status(failed);
      const std::string name = entry->path().lexically_relative(folder_).string();
      if (fs::is_directory(status)) {
        if (name != "metadata" && name != "objects")
          return Invalid(fmt::format("'{}' does not belong to it", name));
      } else if (fs::is_regular_file(status)) {
        unclaimed_.insert(name);
      } else {
        return Invalid(fmt::format("'{}' is no file", name));
      }
    }
    if (error) return Invalid(fmt::format("'{}' cannot be listed: {}", folder_.string(), error.message()));
    return OkStatus();
  }

  Result<std::string> Claim(const std::string& name, std::size_t max_bytes) {
    if (unclaimed_.erase(name) == 0) return Invalid(fmt::format("'{}' is missing", name));
    const Result<std::string> text = ReadTextFile(folder_ / name, max_bytes);
    if (!text.ok()) return Invalid(fmt::format("'{}': {}", name, Describe(text.status())));
    return text;
  }

  Status ReadList() {
    SEALIFT_ASSIGN_OR_RETURN(const std::string text, Claim(kListFile, kMaxListBytes));
    const Json json = Json::parse(text, nullptr, false);
    const auto is = [&](const char* key, auto type) { return json.contains(key) && type(json.at(key)); };
    const auto text_type = [](const Json& value) { return value.is_string(); };
    if (!json.is_object() || !is("channel", text_type) || !is("version", text_type) ||
        !is("format", [](const Json& value) { return value == kFormat; }) ||
        !is("metadata", [](const Json& value) { return value.is_object(); }))
      return Invalid(fmt::format("'{}' cannot be read", kListFile));
    result_.metadata_.channel = json.at("channel");
    result_.metadata_.version = json.at("version");
    if (json.at("metadata").size() > kMaxListedRoots) return Invalid("it lists too many files");
    for (const auto& [name, digest] : json.at("metadata").items()) {
      if (name.find('/') != std::string::npos) return Invalid(fmt::format("'{}' is no name", name));
      SEALIFT_ASSIGN_OR_RETURN(metadata_.files[name], Claim("metadata/" + name, tuf::kMaxTargetsBytes));
    }
    // Also says whether each file is the one listed.
    if (text == ListText(result_.metadata_.channel, result_.metadata_.version, metadata_.files))
      return OkStatus();
    return Invalid(fmt::format("'{}' and the metadata beside it differ", kListFile));
  }

  Status CheckMetadata() {
    const auto timestamp_file = metadata_.files.find("timestamp.json");
    if (timestamp_file == metadata_.files.end()) return Invalid("it has no timestamp");
    SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope envelope,
                             tuf::ParseEnvelope(timestamp_file->second, tuf::kMaxTimestampBytes));
    SEALIFT_ASSIGN_OR_RETURN(const tuf::Timestamp timestamp, tuf::ParseTimestamp(envelope));
    if (!timestamp.signed_at) return Invalid("its timestamp does not say when it was signed");
    MetadataFiles none;
    const Moment then(*timestamp.signed_at);
    SEALIFT_ASSIGN_OR_RETURN(const tuf::VerifiedTargets verified,
                             tuf::TufClient(std::string(trusted_root_), metadata_, none, then).Refresh());
    targets_ = verified.targets();
    result_.targets_version_ = targets_.version;
    SEALIFT_ASSIGN_OR_RETURN(result_.release_,
                             FindRelease(targets_, result_.metadata_.channel, result_.metadata_.version));
    if (result_.release_.withdrawn.has_value()) return Withdrawn(result_.release_, "import");
    std::set<std::string> expected = {"timestamp.json",
                                      fmt::format("{}.snapshot.json", verified.snapshot_version()),
                                      fmt::format("{}.targets.json", targets_.version)};
    for (std::uint32_t version = 1; version <= verified.root_version(); ++version) {
      const auto root = metadata_.files.find(RootName(version));
      if (root == metadata_.files.end()) return Invalid(fmt::format("root version {} is missing", version));
      result_.metadata_.roots.push_back(root->second);
      expected.insert(root->first);
    }
    for (const auto& [name, text] : metadata_.files)
      if (!expected.contains(name)) return Invalid(fmt::format("'metadata/{}' does not belong to it", name));
    result_.metadata_.targets_json = metadata_.files.at(fmt::format("{}.targets.json", targets_.version));
    return OkStatus();
  }

  Status CheckObject(const Sha256Digest& digest, std::uint64_t size) const {
    const fs::path file = folder_ / "objects" / digest.hex();
    std::error_code error;
    if (fs::file_size(file, error) != size || error)
      return Invalid(fmt::format("object {} is missing or has another size", digest.hex()));
    const Result<Sha256Digest> found = content::HashFile(file, size);
    if (found.ok() && *found == digest) return OkStatus();
    return Invalid(fmt::format("object {} is damaged", digest.hex()));
  }

  Status CheckObjects() {
    const auto read = [this](const delta::ContentName& name) -> Result<Bytes> {
      SEALIFT_RETURN_IF_ERROR(CheckObject(name.digest, name.size));
      SEALIFT_ASSIGN_OR_RETURN(Bytes bytes, ReadFile(folder_ / "objects" / name.digest.hex(), name.size));
      if (Sha256(bytes) != name.digest) return Invalid(fmt::format("object {} changed", name.digest.hex()));
      return bytes;
    };
    SEALIFT_ASSIGN_OR_RETURN(const auto needed, NeededObjects::Of(targets_, result_.release_, read));
    for (const auto& [digest, size] : needed) {
      SEALIFT_RETURN_IF_ERROR(CheckObject(digest, size));
      unclaimed_.erase("objects/" + digest.hex());
      result_.objects_.push_back(
          {.digest = digest, .size = size, .file = folder_ / "objects" / digest.hex(), .bytes = {}});
    }
    return OkStatus();
  }

  const fs::path folder_;
  const std::string_view trusted_root_;
  std::set<std::string> unclaimed_;
  MetadataFiles metadata_;
  tuf::Targets targets_;
  ReleaseFolder result_;
};

std::uint64_t ReleaseFolder::bytes() const {
  std::uint64_t all = 0;
  for (const UploadObject& object : objects_) all += object.size;
  return all;
}

Result<ReleaseFolder> OpenReleaseFolder(const fs::path& folder, std::string_view trusted_root) {
  return FolderCheck(folder, trusted_root).Run();
}

Result<ImportedRelease> ImportReleaseFolder(
    const ReleaseFolder& folder, Uploader& to,
    const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
  ImportedRelease imported;
  SEALIFT_ASSIGN_OR_RETURN(imported.upload, to.Upload(folder.objects(), [&](std::uint64_t done) {
    if (progress) progress(done, folder.bytes());
  }));
  SEALIFT_ASSIGN_OR_RETURN(imported.versions, to.ImportRelease(folder.metadata()));
  return imported;
}

}  // namespace sealift::controller
