// Boot Loader Specification type #1 entries, the counters in their names, and loader.conf
// (UAPI.1, systemd-boot, Automatic Boot Assessment).
//
// Plain values; thread-safe. Bounded readers: these files lie on a FAT partition that anybody can write.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shared/base/status.h"

namespace sealift::efi {

inline constexpr std::size_t kMaxEntryBytes = 64u << 10;

// The content of loader/entries/*.conf: keys and values in their order. Keys this build does not know are
// kept.
class BootEntry {
 public:
  // Lines are "key value", "#" starts a comment line, CR LF is allowed, keys may repeat.
  // Errors: INVALID_ARGUMENT/BOOT_ENTRY_MALFORMED: above 64 KiB or 256 lines, a NUL or other control byte,
  // bytes that are not UTF-8, a key beyond [a-z0-9-].
  static Result<BootEntry> Parse(std::string_view text);

  // The first value of `key`; empty when absent.
  std::string_view Get(std::string_view key) const;
  // Replaces the first value of `key`, or appends. `value` must be one line; spaces around it are dropped.
  void Set(std::string_view key, std::string_view value);
  const std::vector<std::pair<std::string, std::string>>& fields() const { return fields_; }

  // One "key value" line each; comments are not kept.
  std::string Format() const;
  bool operator==(const BootEntry&) const = default;

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

// Boots left and boots used, as in "active+3-1.conf". Digit widths are kept when numbers change, so that a
// rename never needs a longer directory entry.
struct BootCounter {
  std::uint32_t left = 0;
  std::uint32_t done = 0;
  // 0: as many digits as needed.
  std::uint8_t left_width = 0;
  std::uint8_t done_width = 0;
  bool exhausted() const { return left == 0; }
  bool operator==(const BootCounter&) const = default;
};

// The name of an entry file (".conf") or of an image of type #2 (".efi").
struct BootEntryName {
  // "active"; [A-Za-z0-9._-], 1 to 200 characters.
  std::string id;
  std::optional<BootCounter> counter;
  std::string extension = ".conf";

  // Errors: INVALID_ARGUMENT/BOOT_ENTRY_MALFORMED: another extension, a counter that is not +LEFT or
  // +LEFT-DONE with 1 to 9 digits each, other characters.
  static Result<BootEntryName> Parse(std::string_view file_name);
  // "active+3-1.conf"; "+3" while nothing was used and no width says otherwise.
  std::string Format() const;
  // With a fresh counter, and with none (blessed).
  BootEntryName WithTries(std::uint32_t tries) const;
  BootEntryName Blessed() const;
  bool operator==(const BootEntryName&) const = default;
};

// loader/loader.conf as this project writes it. There is no `default`: it would defeat fallback, since
// systemd-boot 252 prefers a matching default even when its boots are used up.
struct LoaderConf {
  // Seconds the menu shows; 0 shows none.
  std::uint32_t timeout_seconds = 5;
  // "off", "manual", "force"; empty leaves the loader's default.
  std::string secure_boot_enroll;
  // Whether the user may edit command lines; always written, off by default.
  bool editor = false;

  std::string Format() const;
};

// Whether a systemd-boot of that version ("252.39-1~deb12u2") knows the value of secure-boot-enroll.
// Errors: INVALID_ARGUMENT/ENROLL_MODE_UNKNOWN.
Status CheckEnrollMode(std::string_view mode, std::string_view loader_version);

}  // namespace sealift::efi
