// The system extensions that belong to an image: listed inside it, where the boot measures the list with all
// the rest, and in the release.
//
// Plain values and pure functions; thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift {

// In the image.
inline constexpr char kExtensionListPath[] = "usr/lib/sealift/extensions.json";
// PEM, every generation of the `extensions` key's certificate.
inline constexpr char kExtensionCertificatesPath[] = "usr/lib/sealift/extensions.pem";
inline constexpr std::size_t kMaxExtensions = 64;

enum class ExtensionKind {
  // Laid over /usr and /opt: systemd's sysext.
  kSystem,
  // Laid over /etc: systemd's confext.
  kConfiguration,
};

struct ListedExtension {
  std::string name;
  std::string version;
  // Of the whole file.
  Sha256Digest digest;
  std::uint64_t size = 0;
  // Of its verity tree: what was signed.
  Sha256Digest root_hash;
  // os-release of the image it is for, as its extension-release says; "_any" is any.
  std::string os_id;
  // Empty: not asked for.
  std::string os_version_id;
  ExtensionKind kind = ExtensionKind::kSystem;

  // "NAME.raw", or "NAME.confext.raw".
  std::string FileName() const;
  bool operator==(const ListedExtension&) const = default;
};

// What the ending of a file's name says; systemd-stub asks no more.
ExtensionKind ExtensionKindOfFile(std::string_view file_name);

// 1 to 64 of [A-Za-z0-9._-], led by a letter or digit: part of file names and of mount points. Does not end
// in ".confext" or ".sysext", which are the stub's.
bool IsValidExtensionName(std::string_view name);

// {"extensions":[...],"format":1}; deterministic, in the order given. "kind":"confext" where it is one.
std::string FormatExtensionList(const std::vector<ListedExtension>& extensions);
// Bounded (256 KiB, 64 entries, names distinct). Errors: INVALID_ARGUMENT/EXTENSION_INVALID.
Result<std::vector<ListedExtension>> ParseExtensionList(std::string_view json);

// Whether an extension may be laid over an OS (os-release(5), systemd-sysext(8)): same ID, or "_any", and the
// same VERSION_ID where it names one. Errors: FAILED_PRECONDITION/EXTENSION_INVALID.
Status CheckExtensionFits(const ListedExtension& extension, std::string_view os_id,
                          std::string_view os_version_id);

}  // namespace sealift
