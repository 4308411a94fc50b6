#include "controller/media/release_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "shared/crypto/hash.h"
#include "shared/efi/authenticode.h"
#include "shared/efi/boot_entry.h"
#include "shared/uki/content_source.h"
#include "shared/uki/pcr_prediction.h"
#include "shared/uki/sections.h"

namespace sealift::media {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxFile = UINT32_MAX;
constexpr std::size_t kHeadBytes = 64u << 10;
constexpr std::size_t kMaxMagic = 512;

using Deadline = std::chrono::steady_clock::time_point;

// SHA-256 over stretches of a file that is not in memory.
class Hashing {
 public:
  explicit Hashing(Deadline deadline) : deadline_(deadline) {}

  Result<Sha256Digest> Digest(const uki::ContentSource& source) const {
    Sha256Hasher hasher;
    SEALIFT_RETURN_IF_ERROR(Add(source, hasher));
    return hasher.Finish();
  }
  // As firmware measures an image.
  Result<Sha256Digest> Authenticode(const efi::PeImage& image, const uki::ContentSource& source) const {
    Sha256Hasher hasher;
    for (const efi::FileRange& range : efi::AuthenticodeRanges(image))
      SEALIFT_RETURN_IF_ERROR(Add(source.Part(range.offset, range.size), hasher));
    return hasher.Finish();
  }

 private:
  Status Add(const uki::ContentSource& source, Sha256Hasher& hasher) const {
    Bytes scratch(256u << 10);
    return source.ForEach(scratch, 0, [&](ByteView bytes) -> Status {
      hasher.Update(bytes);
      if (std::chrono::steady_clock::now() < deadline_) return OkStatus();
      return MakeError(Code::kDeadlineExceeded, Reason::kTimeout, "read release: it takes too long");
    });
  }

  Deadline deadline_;
};

// One file with sections, each hashed once.
class MeasuredImage {
 public:
  MeasuredImage(const efi::PeImage& image, const uki::ContentSource& source, const Hashing& hashing)
      : image_(image), source_(source), hashing_(hashing), profiles_(uki::SectionsByProfile(image)) {}

  // Whether its stub is of that version, whose measurements are known.
  Result<bool> HasStub(const std::string& version) {
    const efi::PeSection* section = image_.Find(uki::kSystemdMagic);
    if (section == nullptr) return false;
    SEALIFT_ASSIGN_OR_RETURN(const Bytes text, ContentsOf(*section).Head(kMaxMagic));
    const auto magic = uki::ParseSystemdMagic(text);
    if (!magic.ok() || magic->version != version) return false;
    major_ = magic->major;
    return uki::MeasuredSections(major_).ok();
  }

  // The problem, or nothing.
  Result<std::string> Check(const ImageMeasurements& listed) {
    if (listed.profile >= profiles_.size()) return "sections";
    const auto& sections = profiles_[listed.profile];
    SEALIFT_ASSIGN_OR_RETURN(const auto names, uki::MeasuredSections(major_));
    std::size_t found = 0;
    for (const std::string_view name : names) {
      const auto section = sections.find(name);
      const bool there = section != sections.end() && section->second->virtual_size != 0;
      const auto expected = listed.sections.find(std::string(name));
      if (expected == listed.sections.end()) {
        // On a machine that none of the trees fits, none is measured.
        if (there && name != uki::kDeviceTreeAuto) return "sections";
        continue;
      }
      if (!there) return "sections";
      SEALIFT_ASSIGN_OR_RETURN(const bool agrees, Agrees(*section->second, expected->second));
      if (!agrees) return "sections";
      ++found;
    }
    if (found != listed.sections.size()) return "sections";
    for (const PhasePrediction& phase : listed.pcr11) {
      const auto predicted = uki::PredictPcr11(listed.sections, major_, phase.phase);
      if (!predicted.ok() || predicted->Value() != phase.pcr11) return "pcr11";
    }
    return "";
  }

 private:
  uki::ContentSource ContentsOf(const efi::PeSection& section) const {
    // The offset of a section without bytes says nothing.
    return source_.Part(section.raw_size == 0 ? 0 : section.raw_offset,
                        std::min(section.virtual_size, section.raw_size));
  }
  // Of device trees the stub takes any one.
  Result<bool> Agrees(const efi::PeSection& section, const Sha256Digest& expected) {
    if (section.name != uki::kDeviceTreeAuto) return Has(section, expected);
    for (const efi::PeSection& tree : image_.sections()) {
      if (tree.name != section.name) continue;
      SEALIFT_ASSIGN_OR_RETURN(const bool has, Has(tree, expected));
      if (has) return true;
    }
    return false;
  }
  Result<bool> Has(const efi::PeSection& section, const Sha256Digest& expected) {
    // Zeros that are in no file: not what the builder writes.
    if (section.virtual_size > section.raw_size) return false;
    const auto known = digests_.find(&section);
    if (known != digests_.end()) return known->second == expected;
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, hashing_.Digest(ContentsOf(section)));
    digests_.emplace(&section, digest);
    return digest == expected;
  }

  const efi::PeImage& image_;
  const uki::ContentSource& source_;
  const Hashing& hashing_;
  std::vector<std::map<std::string_view, const efi::PeSection*>> profiles_;
  unsigned major_ = 0;
  std::map<const efi::PeSection*, Sha256Digest> digests_;
};

class Checker {
 public:
  Checker(const Manifest& manifest, const FileAt& file_at, Deadline deadline)
      : manifest_(manifest), file_at_(file_at), hashing_(deadline) {}

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
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, hashing_.Digest(source));
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
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, hashing_.Authenticode(*image, source));
    if (file.authenticode.has_value() && digest != *file.authenticode) return "authenticode";
    MeasuredImage sections(*image, source, hashing_);
    for (const ImageMeasurements& measured : manifest_.images) {
      if (file.role == FileRole::kBootLoader && measured.pcr4.boot_loader != digest) return "authenticode";
      if (measured.path != file.path) continue;
      if (measured.pcr4.uki != digest) return "authenticode";
      SEALIFT_ASSIGN_OR_RETURN(const bool known, sections.HasStub(manifest_.stub_version));
      if (!known) return "sections";
      SEALIFT_ASSIGN_OR_RETURN(std::string problem, sections.Check(measured));
      if (!problem.empty()) return problem;
    }
    return "";
  }

  const Manifest& manifest_;
  const FileAt& file_at_;
  Hashing hashing_;
};

}  // namespace

bool CheckedRelease::good() const {
  return unlisted.empty() && std::all_of(files.begin(), files.end(),
                                         [](const CheckedFile& file) { return file.problem.empty(); });
}

Result<CheckedRelease> CheckReleaseFiles(std::string_view manifest_json, const FileAt& file_at,
                                         const std::vector<FileRole>& skip, Deadline deadline) {
  CheckedRelease checked;
  SEALIFT_ASSIGN_OR_RETURN(checked.manifest, ParseManifest(manifest_json));
  checked.id = ReleaseIdOf(manifest_json);
  const Checker checker(checked.manifest, file_at, deadline);
  for (const ReleaseFile& file : checked.manifest.files) {
    if (std::find(skip.begin(), skip.end(), file.role) != skip.end()) continue;
    SEALIFT_ASSIGN_OR_RETURN(std::string problem, checker.Check(file));
    checked.files.push_back({.file = file, .problem = std::move(problem)});
  }
  return checked;
}

}  // namespace sealift::media
