// opencryptoki's soft token, a second PKCS#11 implementation, served through `p11-kit server`.
//
// Its paths are fixed in the library, so it runs in namespaces of its own: mounts for state, locks and
// configuration, shared memory, IPC, and processes, so that all of it ends with the object. Needs
// root. Its token knows RSA and no EC; a PIN has 4 to 8 characters.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/integration/hsm/p11_kit_server.h"

namespace sealift::hsm {

inline constexpr char kOpencryptokiPin[] = "4711-abc";

inline std::string OpencryptokiModule() {
  for (const char* path : {"/usr/lib/x86_64-linux-gnu/libopencryptoki.so.0",
                           "/usr/lib/aarch64-linux-gnu/libopencryptoki.so.0"}) {
    if (::access(path, R_OK) == 0 && ::access("/usr/sbin/pkcsslotd", X_OK) == 0) return path;
  }
  return {};
}

inline bool HasOpencryptoki() {
  return !OpencryptokiModule().empty() && ::geteuid() == 0 && !P11KitClientModule().empty();
}

#define SEALIFT_NEED_OPENCRYPTOKI()                                                                    \
  do {                                                                                                 \
    if (!HasOpencryptoki()) {                                                                          \
      if (::sealift::test::ToolsAreRequired()) FAIL() << "opencryptoki is not installed, or not root"; \
      GTEST_SKIP() << "opencryptoki is not installed, or not root";                                    \
    }                                                                                                  \
  } while (false)

class Opencryptoki {
 public:
  // `folder` keeps the socket, logs and the PIN's file. One token labelled "ock".
  explicit Opencryptoki(std::filesystem::path folder) : folder_(std::move(folder)) {
    EXPECT_TRUE(WriteFileAtomically(pin_file(), AsBytes(kOpencryptokiPin), 0600).ok());
    EXPECT_TRUE(
        WriteFileAtomically(folder_ / "opencryptoki.conf",
                            AsBytes("version opencryptoki-3.1\nslot 3\n{\nstdll = libpkcs11_sw.so\n}\n"))
            .ok());
    EXPECT_TRUE(WriteFileAtomically(folder_ / "start", AsBytes(Script())).ok());
    server_ = std::make_unique<P11KitServer>(
        folder_, std::vector<std::string>{"unshare", "--mount", "--ipc", "--pid", "--fork", "--kill-child",
                                          "bash", folder_ / "start"});
  }
  std::filesystem::path pin_file() const { return folder_ / "ock.pin"; }
  TokenUri uri() const {
    return {.token = "ock", .pin_file = pin_file(), .module_path = P11KitClientModule()};
  }

 private:
  std::string Script() const {
    return "set -e\n"
           "folder=" +
           folder_.string() + "\nmodule=" + OpencryptokiModule() +
           "\nsocket=" + (folder_ / "p11-kit.socket").string() + R"script(
mount --make-rprivate /
for place in /var/lib/opencryptoki /var/log /run /dev/shm; do mount -t tmpfs tmpfs "$place"; done
mkdir -p /run/lock/opencryptoki/swtok /var/lib/opencryptoki/swtok/TOK_OBJ /var/log/opencryptoki
chgrp -R pkcs11 /run/lock/opencryptoki /var/lib/opencryptoki /var/log/opencryptoki
mount --bind "$folder/opencryptoki.conf" /etc/opencryptoki/opencryptoki.conf
pkcsslotd -f &
for try in $(seq 200); do [ -S /run/pkcsslotd.socket ] && break; sleep 0.05; done
tool() { pkcs11-tool --module "$module" --slot 3 "$@"; }
tool --init-token --so-pin 87654321 --label ock
tool --so-pin 87654321 --login --login-type so --init-pin --new-pin "$(cat "$folder/ock.pin")"
exec p11-kit server -f -n "$socket" --provider "$module" pkcs11:
)script";
  }

  std::filesystem::path folder_;
  std::unique_ptr<P11KitServer> server_;
};

}  // namespace sealift::hsm
