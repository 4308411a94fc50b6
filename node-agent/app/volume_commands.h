// `sealift-agent unlock`, `unlock-all` and `volumes`.
#pragma once

#include <string>

#include "node-agent/app/settings.h"

namespace sealift::agent {

struct UnlockSettings {
  Settings settings;
  // Where the stub left .pcrsig and .pcrpkey.
  std::filesystem::path extra = "/.extra";
};

// The early unit: opens and mounts oem and persistent, tells each refusal on stderr, and leaves epoch and
// outcome below settings.runtime. Does nothing on a medium and where the image says volumes.encryption = off.
// Errors: those of UnlockVolumes; the first missing volume's.
Status RunUnlock(const UnlockSettings& unlock);

// The same later in the boot, for what is not open yet: by the TPM where the image has signatures for this
// phase, then, when `ask`, by recovery keys from standard input, one a line, read without echo at a terminal.
// Those work with a dead TPM, too. Errors: as RunUnlock; UNAUTHENTICATED/RECOVERY_KEY_WRONG.
Status RunUnlockAll(const UnlockSettings& unlock, bool ask);

// What lies on the disks, as text or JSON. Opens nothing. Errors: those of ReadRunningImage.
Result<std::string> DescribeVolumes(const UnlockSettings& unlock, bool json);

}  // namespace sealift::agent
