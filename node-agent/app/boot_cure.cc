#include "node-agent/app/boot_cure.h"

#include "shared/base/files.h"
#include "shared/base/log.h"

namespace sealift::agent {

Status BootCure::OnAnswer(bool wanted, bool trusted, bool quiet) {
  if (!parts_.mounted()) return OkStatus();
  std::error_code error;
  const bool marked = std::filesystem::exists(parts_.mark, error);
  if (error) {
    return MakeError(Code::kUnavailable, Reason::kFileUnreadable,
                     "read the mark of a curing reboot: I/O error");
  }
  if (!wanted) {
    // Only a verdict of this boot says that it is well.
    if (!marked || !trusted) return OkStatus();
    std::filesystem::remove(parts_.mark, error);
    log::Info("firmware boots cleanly again");
    return OkStatus();
  }
  if (marked) {
    if (!in_vain_told_) log::Warning("the curing reboot did not help; look at the firmware's boot order");
    in_vain_told_ = true;
    return OkStatus();
  }
  if (!quiet) return OkStatus();
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(parts_.mark, AsBytes(parts_.boot_id + "\n"), 0600));
  Status asked =
      parts_.rebooter.RequestReboot("firmware tried other boot options; one clean reboot cures that");
  if (asked.ok()) {
    in_vain_told_ = true;
  } else {
    std::filesystem::remove(parts_.mark, error);
  }
  return asked;
}

}  // namespace sealift::agent
