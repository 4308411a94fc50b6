// A real measured boot for tests: the event log of an OVMF machine with Secure Boot, systemd-boot 252 and a
// UKI, and the release and key set that this machine ran, read back from what it measured.
#pragma once

#include <string>
#include <vector>

#include "controller/attest/expectation.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/release/manifest.h"
#include "shared/tpm/event_log.h"
#include "tests/support/places.h"

namespace sealift::test {

inline Bytes FixtureEventLog() {
  return ReadFile(SEALIFT_SOURCE_DIR "/tests/data/tpm/ovmf-secureboot.eventlog.bin").value();
}

inline Sha256Digest EventDigest(const tpm::Event& event) {
  return Sha256Digest::FromBytes(event.digests.at(tpm::kAlgSha256)).value();
}

// The variable's content in a UEFI_VARIABLE_DATA event.
inline Bytes VariableContent(const tpm::Event& event) {
  ByteReader reader(event.data, ByteReader::Endian::kLittle);
  reader.Skip(16);
  const std::uint64_t name_chars = reader.U64();
  const std::uint64_t size = reader.U64();
  reader.Skip(static_cast<std::size_t>(name_chars) * 2);
  return ToBytes(reader.Take(static_cast<std::size_t>(size)));
}

struct MeasuredBoot {
  tpm::EventLog log = tpm::EventLog::Parse(FixtureEventLog()).value();
  controller::KeySet keys;
  Manifest manifest;
  // As the machine's TPM had them once the system was up.
  tpm::PcrValues pcrs;

  static MeasuredBoot Load() {
    MeasuredBoot boot;
    const auto seven = boot.log.EventsOf(7);
    boot.keys.variables.pk = VariableContent(*seven[1]);
    boot.keys.variables.kek = VariableContent(*seven[2]);
    boot.keys.variables.db = VariableContent(*seven[3]);
    const auto four = boot.log.EventsOf(4);
    Manifest& manifest = boot.manifest;
    manifest.channel = "stable";
    manifest.version = "1.0.0";
    manifest.minimum_agent_version = "0.1.0";
    manifest.hardware_class = "generic-x86_64";
    manifest.stub_version = "252.39-1~deb12u2";
    manifest.files = {File("EFI/BOOT/BOOTX64.EFI", FileRole::kBootLoader, EventDigest(*four[2])),
                      File("EFI/kairos/norole.efi", FileRole::kUki, EventDigest(*four[3]))};
    // EFI_SIGNATURE_DATA of the authority: 16 bytes of owner, then the certificate.
    manifest.secure_boot_certificates = {Sha256(ByteView(VariableContent(*seven[6])).subspan(16))};
    manifest.pcr_keys = {Sha256(AsBytes("pcr key"))};
    const auto eleven = boot.log.EventsOf(11);
    for (std::size_t i = 0; i + 1 < eleven.size(); i += 2) {
      const std::string description = tpm::DescribeEvent(*eleven[i]);
      manifest.sections[description.substr(description.find('.'))] = EventDigest(*eleven[i + 1]);
    }
    Sha256Digest value = boot.log.Replay().at(11);
    manifest.pcr11.push_back({.phase = "", .pcr11 = value});
    value = tpm::Extend(value, Sha256(AsBytes("sysinit")));
    manifest.pcr11.push_back({.phase = "sysinit", .pcr11 = value});
    value = tpm::Extend(value, Sha256(AsBytes("ready")));
    manifest.pcr11.push_back({.phase = "sysinit:ready", .pcr11 = value});

    boot.pcrs = boot.log.Replay();
    boot.pcrs[11] = value;
    for (const std::uint32_t pcr : {12u, 13u, 14u}) boot.pcrs[pcr] = {};
    return boot;
  }

  // Another image, otherwise the same release.
  Manifest OtherVersion(const std::string& version) const { return OtherSection(".initrd", version); }
  Manifest OtherSection(const std::string& section, const std::string& version) const {
    Manifest other = manifest;
    other.version = version;
    other.files[1].authenticode = Sha256(AsBytes("image of " + version));
    other.sections[section] = Sha256(AsBytes(section + " of " + version));
    other.pcr11.clear();
    for (const std::string phase : {"", "sysinit", "sysinit:ready"}) {
      other.pcr11.push_back(
          {.phase = phase, .pcr11 = uki::PredictPcr11(other.sections, 252, phase)->Value()});
    }
    return other;
  }

  controller::ExpectedRelease Expect(const Manifest& wanted) const {
    const std::vector<controller::AllowedBootLoader> loaders{controller::BootLoaderOf(manifest).value()};
    return controller::ExpectRelease(SerializeManifest(wanted), keys, loaders).value();
  }
  controller::ExpectedRelease Expect() const { return Expect(manifest); }

 private:
  static ReleaseFile File(const std::string& path, FileRole role, const Sha256Digest& authenticode) {
    return {
        .path = path, .role = role, .digest = Sha256(AsBytes(path)), .size = 1, .authenticode = authenticode};
  }
};

}  // namespace sealift::test
