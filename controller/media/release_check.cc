#include "controller/media/release_check.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/crypto/hash.h"
#include "shared/efi/authenticode.h"
#include "shared/efi/boot_entry.h"
#include "shared/uki/content_source.h"
#include "shared/uki/sections.h"

namespace sealift::media {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxFile = UINT32_MAX;
constexpr std::size_t kHeadBytes = 64u << 10;

// As firmware measures it, over a file that is not in memory.
Result<Sha256Digest> Authenticode(const efi::PeImage& image, const uki::ContentSource& source) {
  Sha256Hasher hasher;
  Bytes scratch(256u << 10);
  for (const efi::FileRange& range : efi::AuthenticodeRanges(image)) {
    SEALIFT_RETURN_IF_ERROR(
        source.Part(range.offset, range.size).ForEach(scratch, 0, [&](ByteView bytes) -> Status {
          hasher.Update(bytes);
          return OkStatus();
        }));
  }
  return hasher.Finish();
}

// Of the image without profiles: every section the manifest gives a digest for has it.
Result<bool> SectionsAgree(const efi::PeImage& image, const uki::ContentSource& source,
                           const std::map<std::string, Sha256Digest>& expected) {
  for (const auto& [expected_name, expected_digest] : expected) {
    const std::string& name = expected_name;
    const auto& sections = image.sections();
    const auto found = std::find_if(sections.begin(), sections.end(),
                                    [&](const auto& section) { return section.name == name; });
    if (found == sections.end()) return false;
    const std::uint64_t size = std::min(found->virtual_size, found->raw_size);
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest real,
                             uki::DigestSource(source.Part(found->raw_offset, size)));
    if (real != expected_digest) return false;
  }
  return true;
}

class Checker {
 public:
  Checker(const Manifest& manifest, const FileAt& file_at) : manifest_(manifest), file_at_(file_at) {}

  // The problem, or nothing.
  Result<std::string> Check(const ReleaseFile& file) const {
    const Result<fs::path> place = file_at_(file.path);
    if (!place.ok() && place.status().code() == Code::kNotFound) return "missing";
    if (!place.ok()) return place.status();
    const Result<uki::SourceFile> opened = uki::OpenSource(*place, kMaxFile);
    if (!opened.ok() && opened.status().code() == Code::kNotFound) return "missing";
    if (!opened.ok()) return opened.status();
    const uki::ContentSource& source = opened->source;
    if (source.size() != file.size) return "size";
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, uki::DigestSource(source));
    if (digest != file.digest) return "digest";
    if (file.role == FileRole::kEntry) return CheckEntry(source);
    if (file.role == FileRole::kUki || file.role == FileRole::kBootLoader) return CheckImage(file, source);
    return "";
  }

 private:
  Result<std::string> CheckEntry(const uki::ContentSource& source) const {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes text, source.Head(efi::kMaxEntryBytes));
    const auto entry = efi::BootEntry::Parse(AsText(text));
    if (!entry.ok()) return "entry";
    const std::string_view image = entry->Get("efi");
    const bool listed = std::any_of(
        manifest_.files.begin(), manifest_.files.end(),
        [&](const ReleaseFile& file) { return file.role == FileRole::kUki && image == "/" + file.path; });
    return listed ? "" : "entry";
  }

  Result<std::string> CheckImage(const ReleaseFile& file, const uki::ContentSource& source) const {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes head, source.Head(kHeadBytes));
    const auto image = efi::PeImage::ParseHead(head, source.size());
    if (!image.ok()) return "authenticode";
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, Authenticode(*image, source));
    if (file.authenticode.has_value() && digest != *file.authenticode) return "authenticode";
    for (const ImageMeasurements& measured : manifest_.images) {
      if (file.role == FileRole::kBootLoader && measured.pcr4.boot_loader != digest) return "authenticode";
      if (measured.path != file.path) continue;
      if (measured.pcr4.uki != digest) return "authenticode";
      if (measured.profile != 0) continue;
      SEALIFT_ASSIGN_OR_RETURN(const bool agree, SectionsAgree(*image, source, measured.sections));
      if (!agree) return "sections";
    }
    return "";
  }

  const Manifest& manifest_;
  const FileAt& file_at_;
};

}  // namespace

bool CheckedRelease::good() const {
  return unlisted.empty() && std::all_of(files.begin(), files.end(),
                                         [](const CheckedFile& file) { return file.problem.empty(); });
}

Result<CheckedRelease> CheckReleaseFiles(std::string_view manifest_json, const FileAt& file_at,
                                         const std::vector<FileRole>& skip) {
  CheckedRelease checked;
  SEALIFT_ASSIGN_OR_RETURN(checked.manifest, ParseManifest(manifest_json));
  checked.id = ReleaseIdOf(manifest_json);
  const Checker checker(checked.manifest, file_at);
  for (const ReleaseFile& file : checked.manifest.files) {
    if (std::find(skip.begin(), skip.end(), file.role) != skip.end()) continue;
    SEALIFT_ASSIGN_OR_RETURN(std::string problem, checker.Check(file));
    checked.files.push_back({.file = file, .problem = std::move(problem)});
  }
  return checked;
}

}  // namespace sealift::media
