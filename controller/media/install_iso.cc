#include "controller/media/install_iso.h"

#include <fmt/format.h>

#include <ctime>

#include "controller/media/fat_image.h"
#include "controller/media/tools.h"
#include "shared/base/files.h"

namespace sealift::media {
namespace {

namespace fs = std::filesystem;

// YYYYMMDDhhmmsscc of ECMA-119, in UTC.
std::string IsoTime(UnixMillis time) {
  const std::time_t seconds = static_cast<std::time_t>(ToUnixMs(time) / 1000);
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  return fmt::format("{:04}{:02}{:02}{:02}{:02}{:02}00", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

// A copy in `folder`, as a hard link where that works, because xorriso takes folders as they are.
Status Place(const MediaFile& file, const fs::path& folder) {
  const fs::path target = folder / file.path;
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(target.parent_path()));
  std::error_code error;
  fs::create_hard_link(file.source, target, error);
  if (error) fs::copy_file(file.source, target, error);
  if (!error) return OkStatus();
  return MakeError(Code::kFailedPrecondition,
                   error == std::errc::no_space_on_device ? Reason::kDiskFull : Reason::kFileUnwritable,
                   fmt::format("take '{}' onto the medium: {}", file.path, error.message()));
}

}  // namespace

Status WriteInstallIso(const fs::path& out, const fs::path& work, const IsoContents& contents,
                       const Stamp& stamp) {
  SEALIFT_CHECK(stamp.id.size() == 32);
  SEALIFT_RETURN_IF_ERROR(WriteFatImage(work / kEspImageFile, contents.esp, stamp));
  for (const MediaFile& file : contents.root) SEALIFT_RETURN_IF_ERROR(Place(file, work));
  const std::string time = IsoTime(stamp.time);
  // -r: owner root, readable by all. With --efi-boot-image the GPT names the blocks that El Torito names.
  return RunMediaTool({"xorriso",
                       "-no_rc",
                       "-as",
                       "mkisofs",
                       "-quiet",
                       "-V",
                       kIsoLabel,
                       "-iso-level",
                       "3",
                       "-r",
                       "-J",
                       "-joliet-long",
                       "--modification-date=" + time,
                       "--set_all_file_dates",
                       time,
                       "--gpt_disk_guid",
                       stamp.id,
                       "-e",
                       kEspImageFile,
                       "-no-emul-boot",
                       "-efi-boot-part",
                       "--efi-boot-image",
                       "--protective-msdos-label",
                       "-o",
                       out.string(),
                       work.string()},
                      stamp);
}

}  // namespace sealift::media
