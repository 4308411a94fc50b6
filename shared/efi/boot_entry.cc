#include "shared/efi/boot_entry.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "shared/base/ids.h"

namespace sealift::efi {
namespace {

constexpr std::size_t kMaxLines = 256;
constexpr std::size_t kMaxIdLength = 200;
constexpr std::size_t kMaxDigits = 9;

Status Malformed(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kBootEntryMalformed,
                   fmt::format("read boot entry: {}", what));
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsKeyCharacter(char c) { return (c >= 'a' && c <= 'z') || IsDigit(c) || c == '-' || c == '_'; }
bool IsIdCharacter(char c) { return IsKeyCharacter(c) || (c >= 'A' && c <= 'Z') || c == '.'; }

// Well-formed UTF-8 without control characters, but for the tab.
bool IsCleanText(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x80) {
      if ((lead < 0x20 && lead != '\t') || lead == 0x7f) return false;
      ++i;
      continue;
    }
    const std::size_t more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    if (lead < 0xc2 || lead > 0xf4 || text.size() - i <= more) return false;
    std::uint32_t code = lead & (0x3fu >> more);
    for (std::size_t k = 1; k <= more; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xc0) != 0x80) return false;
      code = (code << 6) | (next & 0x3fu);
    }
    const bool overlong = (more == 2 && code < 0x800) || (more == 3 && code < 0x10000);
    if (overlong || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return false;
    i += more + 1;
  }
  return true;
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r";
  const std::size_t from = text.find_first_not_of(kSpace);
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(kSpace) - from + 1);
}

// Digits up to the first other character; false unless 1 to 9 of them.
bool TakeNumber(std::string_view& text, std::uint32_t& value, std::uint8_t& width) {
  std::size_t digits = 0;
  while (digits < text.size() && IsDigit(text[digits])) ++digits;
  if (digits == 0 || digits > kMaxDigits) return false;
  std::from_chars(text.data(), text.data() + digits, value);
  width = static_cast<std::uint8_t>(digits);
  text.remove_prefix(digits);
  return true;
}

}  // namespace

Result<BootEntry> BootEntry::Parse(std::string_view text) {
  if (text.size() > kMaxEntryBytes) return Malformed(fmt::format("{} bytes", text.size()));
  BootEntry entry;
  std::size_t lines = 0;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    std::string_view line = Trim(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (++lines > kMaxLines) return Malformed("more than 256 lines");
    if (!IsCleanText(line)) return Malformed(fmt::format("line {} is not plain text", lines));
    if (line.empty() || line.front() == '#') continue;
    const std::size_t space = std::min(line.find_first_of(" \t"), line.size());
    const std::string_view key = line.substr(0, space);
    if (!std::all_of(key.begin(), key.end(), IsKeyCharacter))
      return Malformed(fmt::format("line {} has no proper key", lines));
    entry.fields_.emplace_back(key, Trim(line.substr(space)));
  }
  return entry;
}

std::string_view BootEntry::Get(std::string_view key) const {
  for (const auto& [name, value] : fields_)
    if (name == key) return value;
  return {};
}

void BootEntry::Set(std::string_view key, std::string_view value) {
  SEALIFT_CHECK(IsCleanText(value) && !key.empty() && std::all_of(key.begin(), key.end(), IsKeyCharacter));
  for (auto& [name, old] : fields_) {
    if (name != key) continue;
    old = Trim(value);
    return;
  }
  fields_.emplace_back(key, Trim(value));
}

std::string BootEntry::Format() const {
  std::string text;
  for (const auto& [key, value] : fields_) text += value.empty() ? key + "\n" : key + " " + value + "\n";
  return text;
}

Result<BootEntryName> BootEntryName::Parse(std::string_view file_name) {
  BootEntryName name;
  const std::size_t dot = file_name.rfind('.');
  if (dot == std::string_view::npos) return Malformed("a file name without extension");
  name.extension = file_name.substr(dot);
  if (name.extension != ".conf" && name.extension != ".efi") return Malformed("neither .conf nor .efi");
  std::string_view stem = file_name.substr(0, dot);
  const std::size_t plus = stem.find('+');
  if (plus != std::string_view::npos) {
    BootCounter counter;
    std::string_view rest = stem.substr(plus + 1);
    bool good = TakeNumber(rest, counter.left, counter.left_width);
    if (good && !rest.empty()) {
      good = rest.front() == '-';
      rest.remove_prefix(1);
      good = good && TakeNumber(rest, counter.done, counter.done_width) && rest.empty();
    }
    if (!good) return Malformed("a counter that is not +LEFT or +LEFT-DONE");
    name.counter = counter;
    stem = stem.substr(0, plus);
  }
  if (stem.empty() || stem.size() > kMaxIdLength || stem.front() == '.' ||
      !std::all_of(stem.begin(), stem.end(), IsIdCharacter))
    return Malformed("a file name beyond [A-Za-z0-9._-]");
  name.id = stem;
  return name;
}

std::string BootEntryName::Format() const {
  if (!counter.has_value()) return id + extension;
  std::string text = fmt::format("{}+{:0{}}", id, counter->left, std::max<int>(counter->left_width, 1));
  if (counter->done != 0 || counter->done_width != 0)
    text += fmt::format("-{:0{}}", counter->done, std::max<int>(counter->done_width, 1));
  return text + extension;
}

BootEntryName BootEntryName::WithTries(std::uint32_t tries) const {
  BootEntryName name = *this;
  name.counter = BootCounter{.left = tries};
  return name;
}

BootEntryName BootEntryName::Blessed() const {
  BootEntryName name = *this;
  name.counter.reset();
  return name;
}

std::string LoaderConf::Format() const {
  std::string text = fmt::format("timeout {}\neditor {}\n", timeout_seconds, editor ? "yes" : "no");
  if (!secure_boot_enroll.empty()) text += fmt::format("secure-boot-enroll {}\n", secure_boot_enroll);
  return text;
}

Status CheckEnrollMode(std::string_view mode, std::string_view loader_version) {
  const bool known = mode == "off" || mode == "manual" || mode == "force" ||
                     (mode == "if-safe" && CompareVersions(loader_version, "253") >= 0);
  if (known) return OkStatus();
  return MakeError(Code::kInvalidArgument, Reason::kEnrollModeUnknown,
                   fmt::format("set secure-boot-enroll to '{}': systemd-boot {} does not know this value",
                               mode, loader_version));
}

}  // namespace sealift::efi
