#include "shared/uki/sections.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "shared/crypto/hash.h"

namespace sealift::uki {
namespace {

constexpr unsigned kOldestStub = 252;
constexpr unsigned kNewestStub = 262;

struct MeasuredSection {
  std::string_view name;
  // The first stub that measures it.
  unsigned since;
};

// The order of the stub's enumeration. .pcrsig has a place in it but is never measured.
constexpr MeasuredSection kOrder[] = {
    {".linux", 252},   {".osrel", 252},   {".cmdline", 252}, {".initrd", 252}, {".ucode", 256},
    {".splash", 252},  {".dtb", 252},     {".uname", 254},   {".sbat", 254},   {".pcrpkey", 252},
    {".profile", 257}, {".dtbauto", 257}, {".hwids", 257},   {".efifw", 258}};

Status Unsupported(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kUkiStubUnsupported,
                   fmt::format("read systemd stub: {}", what));
}

}  // namespace

Result<SystemdMagic> ReadSystemdMagic(const efi::PeImage& image) {
  const efi::PeSection* section = image.Find(kSystemdMagic);
  if (section == nullptr) return Unsupported("it has no .sdmagic section, so it is not systemd's");
  SEALIFT_ASSIGN_OR_RETURN(const ByteView bytes, image.Contents(*section));
  return ParseSystemdMagic(bytes);
}

Result<SystemdMagic> ParseSystemdMagic(ByteView section) {
  std::string_view text = AsText(section);
  text = text.substr(0, text.find('\0'));
  constexpr std::string_view kBefore = "#### LoaderInfo: ";
  constexpr std::string_view kAfter = " ####";
  if (text.size() > 256 || text.size() < kBefore.size() + kAfter.size() || !text.starts_with(kBefore) ||
      !text.ends_with(kAfter))
    return Unsupported("its .sdmagic section reads otherwise");
  text = text.substr(kBefore.size(), text.size() - kBefore.size() - kAfter.size());
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos) return Unsupported("its .sdmagic section names no version");
  SystemdMagic magic{.component = std::string(text.substr(0, space)),
                     .version = std::string(text.substr(space + 1))};
  const char* begin = magic.version.data();
  if (std::from_chars(begin, begin + magic.version.size(), magic.major).ec != std::errc())
    return Unsupported("its version does not start with a number");
  return magic;
}

Result<std::vector<std::string_view>> MeasuredSections(unsigned stub_major) {
  if (stub_major < kOldestStub || stub_major > kNewestStub) {
    return Unsupported(fmt::format("version {} is not one of {} to {}, whose measurements are known",
                                   stub_major, kOldestStub, kNewestStub));
  }
  std::vector<std::string_view> names;
  for (const MeasuredSection& section : kOrder)
    if (section.since <= stub_major) names.push_back(section.name);
  return names;
}

Status CheckSectionKnown(std::string_view name, unsigned stub_major) {
  if (name == kSbat || name == kKernelRelease || name == kPcrSignature) return OkStatus();
  for (const MeasuredSection& section : kOrder) {
    if (section.name != name) continue;
    if (stub_major >= section.since) return OkStatus();
    return Unsupported(fmt::format("version {} does not know section {}, which {} and later do", stub_major,
                                   name, section.since));
  }
  return Unsupported(fmt::format("no version knows section {}", name));
}

std::vector<std::map<std::string_view, const efi::PeSection*>> SectionsByProfile(const efi::PeImage& image) {
  using View = std::map<std::string_view, const efi::PeSection*>;
  View base;
  std::vector<View> own;
  for (const efi::PeSection& section : image.sections()) {
    if (section.name == kProfile) own.emplace_back();
    (own.empty() ? base : own.back()).emplace(section.name, &section);
  }
  if (own.empty()) return {base};
  for (View& profile : own) profile.insert(base.begin(), base.end());
  return own;
}

Result<std::map<std::string, Sha256Digest>> DigestMeasuredSections(const efi::PeImage& image,
                                                                   unsigned stub_major) {
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<std::string_view> names, MeasuredSections(stub_major));
  std::map<std::string, Sha256Digest> digests;
  for (const std::string_view name : names) {
    const efi::PeSection* section = image.Find(name);
    if (section == nullptr || section->virtual_size == 0) continue;
    SEALIFT_ASSIGN_OR_RETURN(const ByteView contents, image.Contents(*section));
    digests.emplace(name, Sha256(contents));
  }
  return digests;
}

}  // namespace sealift::uki
