// Debian 13's EFI programs and systemd-measure, unpacked by deploy/fetch-debian-13.sh beside the machine's
// own.
#pragma once

#include <cstdlib>
#include <string>
#include <vector>

namespace sealift::test {

// $SEALIFT_DEBIAN_13, else where the script puts them.
inline std::string Debian13() {
  const char* folder = std::getenv("SEALIFT_DEBIAN_13");
  return folder != nullptr ? folder : "/var/cache/sealift/debian-13";
}
inline std::string Debian13Stub() { return Debian13() + "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"; }
inline std::string Debian13Ukify() { return Debian13() + "/usr/bin/ukify"; }

// systemd-measure 257 with the C library it was built for. libtss2 is this machine's own.
inline std::vector<std::string> Debian13Measure() {
  const std::string libraries = Debian13() + "/usr/lib/x86_64-linux-gnu";
  return {libraries + "/ld-linux-x86-64.so.2", "--library-path",
          libraries + ":" + libraries + "/systemd:/usr/lib/x86_64-linux-gnu",
          Debian13() + "/usr/lib/systemd/systemd-measure"};
}

}  // namespace sealift::test
