// The release manifest: one immutable, versioned release as both daemons see it.
//
// Written by the builder as OUT/release.json, published as the TUF target
// "<channel>/<version>/manifest.json"; its files are the targets "<channel>/<version>/<path>". ReleaseId is
// the SHA-256 of the manifest's bytes, so canonical JSON (sorted keys, no white space) is its only form. A
// plain value; copies are independent.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/ids.h"
#include "shared/base/status.h"
#include "shared/release/image_measurements.h"

namespace sealift {

// What a file is for. Text forms in JSON: "boot-loader", "uki", "loader-conf", "entry", "enrolment-key",
// "extension" (beside an image, in its .extra.d folder); and of what describes the image and lies on no ESP:
// "frame-index" (shared/content/frame_index.h), "sbom" (SPDX 2.3 as JSON).
enum class FileRole { kBootLoader, kUki, kLoaderConf, kEntry, kEnrolmentKey, kFrameIndex, kSbom, kExtension };

struct ReleaseFile {
  // Where it lies on the medium, with forward slashes: "EFI/kairos/norole.efi".
  std::string path;
  FileRole role = FileRole::kUki;
  Sha256Digest digest;
  std::uint64_t size = 0;
  // Of PE images (boot loader, UKI): the Authenticode digest, which is what PCR 4 measures.
  std::optional<Sha256Digest> authenticode;
};

struct Manifest {
  std::uint32_t schema_version = 1;
  std::string channel;
  std::string version;
  // Older agents refuse the release.
  std::string minimum_agent_version;
  // Machines it is for; "generic-x86_64" unless said otherwise.
  std::string hardware_class;
  std::uint64_t security_epoch = 0;
  UnixMillis built;
  std::vector<ReleaseFile> files;
  // Of the main image, in the order the OS passes them; the last one is what a running node shows.
  std::vector<PhasePrediction> pcr11;
  // Of the main image: SHA-256 over the bytes of each measured section, by name with its dot.
  std::map<std::string, Sha256Digest> sections;
  // Every image that boots by itself, the main one first: its pcr11 and sections are those above. Empty in
  // releases of builders that knew one image only. A path, profile and automatic device
  // tree occur once.
  std::vector<ImageMeasurements> images;
  // systemd version of the stub, which decides what is measured, e.g. "252.39-1~deb12u2".
  std::string stub_version;
  // SHA-256 of the DER of each db certificate that signed an image of this release.
  std::vector<Sha256Digest> secure_boot_certificates;
  // SHA-256 of the SubjectPublicKeyInfo of each PCR policy key generation the release accepts.
  std::vector<Sha256Digest> pcr_keys;

  // The one file of that role; of several UKIs the one that `images` names first, which is what a node
  // stages. Errors: NOT_FOUND/RELEASE_FILE_MISSING, also when there are several.
  Result<ReleaseFile> OnlyFile(FileRole role) const;
  // PCR 11 of a running node.
  Result<Sha256Digest> FinalPcr11() const;
};

std::string_view FileRoleName(FileRole role);

// Canonical JSON. Deterministic.
std::string SerializeManifest(const Manifest& manifest);
// Bounded (1 MiB, 4096 files), strict: unknown roles, bad versions, unsafe paths (absolute, "..", backslash,
// beyond [A-Za-z0-9._+~/-]), duplicate paths and images that contradict the rest are refused; unknown keys
// are allowed, for newer builders. Errors: INVALID_ARGUMENT/RELEASE_MANIFEST_INVALID.
Result<Manifest> ParseManifest(std::string_view json);
ReleaseId ReleaseIdOf(std::string_view manifest_json);

// "<channel>/<version>/manifest.json" and "<channel>/<version>/<path>".
std::string ManifestTargetName(std::string_view channel, std::string_view version);
std::string FileTargetName(std::string_view channel, std::string_view version, std::string_view path);

}  // namespace sealift
