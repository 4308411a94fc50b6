#include "controller/cli/inspect_media_verbs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <memory>
#include <sstream>

#include "controller/build/esp_tree.h"
#include "controller/buildhost/medium.h"
#include "controller/cli/inspect_answer.h"
#include "controller/media/iso_image.h"
#include "controller/media/media_file.h"
#include "controller/media/release_check.h"
#include "shared/base/files.h"
#include "shared/base/subprocess.h"

namespace sealift::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::uint64_t kMaxManifest = 1u << 20;
// An inspection ends within ten seconds, whatever the file says: that is for all reading and all programs
// together.
constexpr std::chrono::seconds kTime(9);
using Deadline = std::chrono::steady_clock::time_point;

void AddRelease(const media::CheckedRelease& release, Answer& answer) {
  const Manifest& manifest = release.manifest;
  json files = json::array();
  std::string text =
      fmt::format("release    {} ({})\nid         {}\nbuilt      {}\nstub       {}\n", manifest.version,
                  manifest.channel.empty() ? "not published" : manifest.channel, release.id.hex(),
                  FormatRfc3339(manifest.built), manifest.stub_version);
  for (const media::CheckedFile& checked : release.files) {
    const ReleaseFile& file = checked.file;
    const std::string state = checked.problem.empty() ? "ok" : checked.problem;
    files.push_back({{"path", file.path},
                     {"role", std::string(FileRoleName(file.role))},
                     {"size", file.size},
                     {"sha256", file.digest.hex()},
                     {"state", state}});
    text +=
        fmt::format("{:<12} {:>12}  {}  {}\n", state, file.size, file.digest.hex().substr(0, 16), file.path);
  }
  for (const std::string& path : release.unlisted)
    text += fmt::format("unlisted                                     {}\n", path);
  json images = json::array();
  for (const ImageMeasurements& image : manifest.images) {
    json phases = json::array();
    for (const PhasePrediction& phase : image.pcr11) {
      phases.push_back({{"phase", phase.phase}, {"pcr11", phase.pcr11.hex()}});
      text += fmt::format("PCR 11       {:<14} {}  {}\n", phase.phase.empty() ? "(boot)" : phase.phase,
                          phase.pcr11.hex(), image.path);
    }
    images.push_back({{"path", image.path},
                      {"profile", image.profile},
                      {"command_line", image.command_line},
                      {"pcr11", std::move(phases)}});
  }
  answer.object["release"] = {{"version", manifest.version},
                              {"channel", manifest.channel},
                              {"id", release.id.hex()},
                              {"built", FormatRfc3339(manifest.built)},
                              {"hardware_class", manifest.hardware_class},
                              {"minimum_agent_version", manifest.minimum_agent_version},
                              {"security_epoch", manifest.security_epoch},
                              {"stub_version", manifest.stub_version}};
  answer.object["files"] = std::move(files);
  answer.object["unlisted"] = release.unlisted;
  answer.object["images"] = std::move(images);
  answer.object["verified"] = release.good();
  answer.good = answer.good && release.good();
  answer.text += text + (release.good() ? "all files are as the manifest says" : "NOT as the manifest says");
}

// `listed`: all that is there, less what the manifest names.
void FindUnlisted(const std::vector<std::string>& listed, media::CheckedRelease& release) {
  for (const std::string& path : listed) {
    const bool known = path == build::kManifestFile ||
                       std::any_of(release.manifest.files.begin(), release.manifest.files.end(),
                                   [&](const ReleaseFile& file) { return file.path == path; });
    if (!known) release.unlisted.push_back(path);
  }
}

// --- release

Result<Answer> InspectRelease(const fs::path& folder) {
  const Deadline deadline = std::chrono::steady_clock::now() + kTime;
  SEALIFT_ASSIGN_OR_RETURN(const std::string manifest,
                           ReadTextFile(folder / build::kManifestFile, kMaxManifest));
  SEALIFT_ASSIGN_OR_RETURN(
      media::CheckedRelease release,
      media::CheckReleaseFiles(
          manifest, [&](const std::string& path) -> Result<fs::path> { return folder / path; }, {},
          deadline));
  const auto files = media::ListFiles(folder);
  if (!files.ok() && ReasonOf(files.status()) == Reason::kFileUnreadable) return files.status();
  if (!files.ok()) return MakeError(Code::kInvalidArgument, Reason::kMalformed, MessageOf(files.status()));
  std::vector<std::string> paths;
  for (const media::MediaFile& file : *files) paths.push_back(file.path);
  FindUnlisted(paths, release);
  Answer answer;
  AddRelease(release, answer);
  return answer;
}

// --- iso

// Files of the FAT image at an offset of the ISO, through mtools.
class EspFiles {
 public:
  EspFiles(const fs::path& iso, std::uint64_t offset, fs::path scratch, Deadline deadline)
      : drive_(fmt::format("{}@@{}", iso.string(), offset)),
        scratch_(std::move(scratch)),
        deadline_(deadline) {}

  Result<std::vector<std::string>> List() const {
    SEALIFT_ASSIGN_OR_RETURN(const CommandOutput listed, Run({"mdir", "-i", drive_, "-b", "-/", "::"}));
    if (listed.exit_code != 0) return Malformed("list its EFI system partition", listed);
    std::vector<std::string> paths;
    std::istringstream lines(listed.out);
    for (std::string line; std::getline(lines, line);) {
      // Names that are not UTF-8 are shown with replacement characters.
      if (line.starts_with("::/") && !line.ends_with('/'))
        paths.push_back(Utf8FromUtf16Le(Utf16Le(line.substr(3))));
    }
    std::sort(paths.begin(), paths.end());
    return paths;
  }

  // Lives until the next one is asked for.
  Result<fs::path> Extract(const std::string& path) const {
    const fs::path copy = scratch_ / "file";
    std::error_code ignored;
    fs::remove(copy, ignored);
    SEALIFT_ASSIGN_OR_RETURN(const CommandOutput copied,
                             Run({"mcopy", "-i", drive_, "-n", "::/" + path, copy.string()}));
    if (copied.exit_code == 0 && fs::is_regular_file(copy, ignored)) return copy;
    return MakeError(Code::kNotFound, Reason::kMalformed,
                     fmt::format("read '{}' of the medium: it is not there", path));
  }

 private:
  Result<CommandOutput> Run(std::vector<std::string> argv) const {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline_ - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      return MakeError(Code::kDeadlineExceeded, Reason::kTimeout,
                       "read the EFI system partition of the medium: it takes too long");
    }
    return RunCommand(
        {.argv = std::move(argv),
         .environment = {{"MTOOLSRC", "/dev/null"}, {"MTOOLS_SKIP_CHECK", "1"}, {"LC_ALL", "C.UTF-8"}},
         .timeout = left});
  }
  static Status Malformed(std::string_view what, const CommandOutput& output) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     fmt::format("{}: {}", what, output.err.substr(0, output.err.find('\n'))));
  }

  std::string drive_;
  fs::path scratch_;
  Deadline deadline_;
};

std::string PlatformName(std::uint8_t platform) {
  if (platform == 0) return "bios";
  return platform == 0xef ? "efi" : fmt::format("{:#04x}", platform);
}

void AddIso(const media::IsoImage& iso, Answer& answer) {
  json images = json::array();
  for (const media::BootImage& image : iso.boot_images)
    images.push_back({{"platform", PlatformName(image.platform)},
                      {"bootable", image.bootable},
                      {"offset", image.offset},
                      {"sectors", image.sectors}});
  json partitions = json::array();
  for (const media::IsoPartition& partition : iso.partitions)
    partitions.push_back({{"type", partition.type.text()},
                          {"name", partition.name},
                          {"offset", partition.offset},
                          {"size", partition.size},
                          {"esp", partition.type == media::kEspType}});
  const bool same = iso.cd_esp().has_value() && iso.cd_esp() == iso.disk_esp();
  answer.object = {{"volume_id", iso.volume_id},
                   {"volume_bytes", iso.volume_bytes},
                   {"boot_images", std::move(images)},
                   {"partitions", std::move(partitions)},
                   {"boots_as_cd", iso.cd_esp().has_value()},
                   {"boots_as_disk", iso.disk_esp().has_value()},
                   {"same_partition", same}};
  answer.text =
      fmt::format("label      {}\nsize       {} bytes\nas CD      {}\nas disk    {}\n", iso.volume_id,
                  iso.volume_bytes, iso.cd_esp().has_value() ? "boots" : "does not boot",
                  !iso.disk_esp().has_value() ? "does not boot"
                  : same                      ? "boots, the same partition"
                                              : "boots, another partition");
}

Result<media::IsoImage> ReadIso(const fs::path& file) {
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  const off_t size = fd.valid() ? ::lseek(fd.get(), 0, SEEK_END) : -1;
  if (size < 0) {
    return ErrnoError(Code::kNotFound, Reason::kFileUnreadable, fmt::format("read '{}'", file.string()),
                      "open", errno);
  }
  return media::ParseIso(
      static_cast<std::uint64_t>(size), [&](std::uint64_t offset, std::size_t count) -> Result<Bytes> {
        Bytes bytes(count);
        std::size_t done = 0;
        while (done < count) {
          const ssize_t got =
              ::pread(fd.get(), bytes.data() + done, count - done, static_cast<off_t>(offset + done));
          if (got < 0 && errno == EINTR) continue;
          if (got <= 0) {
            return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable,
                              fmt::format("read '{}'", file.string()), "pread", got == 0 ? EIO : errno);
          }
          done += static_cast<std::size_t>(got);
        }
        return bytes;
      });
}

Result<Answer> InspectIso(const fs::path& file) {
  const Deadline deadline = std::chrono::steady_clock::now() + kTime;
  SEALIFT_ASSIGN_OR_RETURN(const media::IsoImage iso, ReadIso(file));
  Answer answer;
  AddIso(iso, answer);
  const auto esp_offset = iso.cd_esp().has_value() ? iso.cd_esp() : iso.disk_esp();
  answer.object["release"] = nullptr;
  if (!esp_offset.has_value()) {
    answer.text += "no EFI system partition";
    return answer;
  }
  SEALIFT_ASSIGN_OR_RETURN(const TempDir scratch, TempDir::Create("sealift-iso"));
  const EspFiles esp(file, *esp_offset, scratch.path(), deadline);
  SEALIFT_ASSIGN_OR_RETURN(std::vector<std::string> paths, esp.List());
  answer.object["esp_files"] = paths;
  if (std::find(paths.begin(), paths.end(), build::kManifestFile) == paths.end()) {
    answer.text += "no release of sealift on it";
    return answer;
  }
  SEALIFT_ASSIGN_OR_RETURN(const fs::path manifest_file, esp.Extract(build::kManifestFile));
  SEALIFT_ASSIGN_OR_RETURN(const std::string manifest, ReadTextFile(manifest_file, kMaxManifest));
  SEALIFT_ASSIGN_OR_RETURN(media::CheckedRelease release,
                           media::CheckReleaseFiles(
                               manifest, [&](const std::string& path) { return esp.Extract(path); },
                               {FileRole::kFrameIndex, FileRole::kSbom}, deadline));
  // Copies of the enrolment files, for firmware menus.
  const std::vector<std::string> copies = controller::KeyFileNames();
  std::erase_if(paths, [&](const std::string& path) {
    return std::find(copies.begin(), copies.end(), path) != copies.end();
  });
  FindUnlisted(paths, release);
  AddRelease(release, answer);
  return answer;
}

}  // namespace

void AddInspectMediaVerbs(CLI::App& group, Session& session) {
  const auto iso = std::make_shared<std::string>();
  AddInspection(group, session, "iso", "an install medium: how it boots, and the release on it",
                "sealift inspect iso out/kairos_1.2.iso -o json", [iso] { return InspectIso(*iso); })
      ->add_option("FILE", *iso, "the ISO")
      ->required();
  const auto folder = std::make_shared<std::string>();
  AddInspection(group, session, "release", "a release as build-uki wrote it, every file against release.json",
                "sealift inspect release out/1.2 -o json", [folder] { return InspectRelease(*folder); })
      ->add_option("DIR", *folder, "the folder with release.json")
      ->required();
}

}  // namespace sealift::cli
