// A small OS tree on disk with everything that `build-uki` looks for, and the keys to build it with.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "controller/build/release_builder.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/efi/auth_variable.h"
#include "tests/support/synthetic_pe.h"
#include "tests/support/test_keys.h"

namespace sealift::test {

inline std::string SystemdMagicText(const std::string& component, const std::string& version) {
  return "#### LoaderInfo: " + component + " " + version + " ####" + '\0';
}

inline Bytes FakeStub(const std::string& version = "252.39-1~deb12u2") {
  return SyntheticPe{.sections = {{".text", "stub"}, {".sdmagic", SystemdMagicText("systemd-stub", version)}},
                     .section_alignment = 0x200}
      .Build();
}

inline Bytes FakeBootLoader(const std::string& version = "252.39-1~deb12u2") {
  return SyntheticPe{.sections = {{".text", "boot"}, {".sdmagic", SystemdMagicText("systemd-boot", version)}},
                     .tail = "odd",
                     .section_alignment = 0x200}
      .Build();
}

// With a setup header that tells a release.
inline Bytes FakeKernel(const std::string& release = "6.1.0-test") {
  Bytes kernel = SyntheticPe{.sections = {{".text", std::string(3000, 'k')}}, .header_bytes = 0x800}.Build();
  const auto put = [&](std::size_t at, const std::string& text) {
    std::copy(text.begin(), text.end(), kernel.begin() + static_cast<std::ptrdiff_t>(at));
  };
  put(0x202, "HdrS");
  kernel[0x20e] = 0x00;
  kernel[0x20f] = 0x04;  // text at 0x600
  put(0x600, release + " (builder@test)");
  return kernel;
}

class OsTree {
 public:
  OsTree() : folder_(TempDir::Create("sealift-os").value()) {
    Write("usr/lib/systemd/systemd", "systemd", 0755);
    Write("usr/lib/systemd/libsystemd-shared-252.so", "library");
    Write("usr/lib/os-release", "ID=test\nPRETTY_NAME=\"Test OS 1.2\"\nVERSION_ID=1.2\n");
    Write("usr/lib/modules/6.1.0-test/modules.dep", "");
    Write("usr/lib/systemd/boot/efi/linuxx64.efi.stub", AsText(FakeStub()));
    Write("usr/lib/systemd/boot/efi/systemd-bootx64.efi", AsText(FakeBootLoader()));
    Write("usr/lib/sealift/sealift-agent", "agent", 0755);
    Link("/usr/lib/systemd/system/sealift-agent.service",
         "etc/systemd/system/multi-user.target.wants/sealift-agent.service");
    Write("boot/vmlinuz", AsText(FakeKernel()));
    Write("etc/initrd-release", "x");
    Write("etc/machine-id", "0123456789abcdef\n");
    Write("dev/should-not-be-packed", "x");
    Write("run/should-not-be-packed", "x");
    Link("../usr/lib/os-release", "etc/os-release");
    Link("usr/lib", "lib");
  }

  const std::filesystem::path& path() const { return folder_.path(); }
  void Write(const std::string& name, std::string_view content, mode_t mode = 0644) const {
    std::filesystem::create_directories((path() / name).parent_path());
    std::ofstream(path() / name, std::ios::binary) << content;
    ::chmod((path() / name).c_str(), mode);
  }
  void Link(const std::string& target, const std::string& name) const {
    std::filesystem::create_directories((path() / name).parent_path());
    std::filesystem::create_symlink(target, path() / name);
  }
  void Remove(const std::string& name) const { std::filesystem::remove_all(path() / name); }

 private:
  TempDir folder_;
};

// A whole key set in memory, with its enrolment files.
struct ReleaseKeySet {
  TestKey pk = MakeTestKey("test PK");
  TestKey kek = MakeTestKey("test KEK");
  TestKey db = MakeTestKey("test db");
  std::unique_ptr<SoftwareSigner> pcr = SoftwareSigner::Generate(KeyType::kRsa).value();
  efi::Guid owner = efi::Guid::Parse("11223344-5566-7788-99aa-bbccddeeff00").value();

  Bytes Esl(const TestKey& key) const {
    return efi::SerializeSignatureLists(efi::SignatureLists{efi::X509SignatureList(owner, key.certificate)});
  }
  Bytes Auth(const std::string& name, const TestKey& content, const TestKey& by) const {
    return efi::BuildAuthenticatedVariable(efi::SecureBootVariable(name).value(),
                                           FromUnixMs(1'700'000'000'000), Esl(content), *by.signer,
                                           by.certificate)
        .value();
  }
  build::ReleaseKeys Keys() const {
    return {.secure_boot = db.signer.get(),
            .pcr = pcr.get(),
            .secure_boot_certificate = db.certificate,
            .pk_auth = Auth("PK", pk, pk),
            .kek_auth = Auth("KEK", kek, pk),
            .db_auth = Auth("db", db, kek),
            .pcr_keys = {pcr->public_key().key_id()}};
  }
};

}  // namespace sealift::test
