// A UKI laid out on a stub of foreign origin, with a foreign kernel and foreign SBAT lines: two bytes of
// length and the kernel, two and the lines, then the stub. What is laid out parses, gives every section back
// to the byte, overlaps nowhere, and leaves no byte that firmware does not hash.
#include "shared/uki/uki_layout.h"

#include "shared/efi/authenticode.h"
#include "shared/uki/sbat.h"
#include "shared/uki/sections.h"

using namespace sealift;

namespace {

void CheckMemory(const efi::PeImage& image, std::size_t added) {
  const auto& sections = image.sections();
  SEALIFT_CHECK(sections.size() >= added);
  std::uint64_t end = image.size_of_headers();
  for (std::size_t i = sections.size() - added; i < sections.size(); ++i) {
    SEALIFT_CHECK(sections[i].virtual_address >= end);
    end = std::uint64_t{sections[i].virtual_address} + sections[i].virtual_size;
  }
  SEALIFT_CHECK(image.size_of_image() >= end);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ByteReader reader(ByteView(data, size), ByteReader::Endian::kLittle);
  const ByteView kernel = reader.Take(reader.U16());
  const ByteView lines = reader.Take(reader.U16());
  if (!reader.ok()) return 0;
  const ByteView stub = reader.Take(reader.remaining());
  const auto merged = uki::MergeSbat(AsText(lines.first(lines.size() / 2)), AsText(lines));
  if (merged.ok()) {
    const auto again = uki::MergeSbat(*merged, AsText(lines));
    SEALIFT_CHECK(again.ok() && *again == *merged);
  }
  const std::string sbat = merged.ok() ? *merged : std::string("sbat,1\n");
  std::vector<uki::UkiSection> sections = {{".osrel", std::string_view("ID=x\n")}, {".sbat", sbat}};
  if (!kernel.empty()) sections.push_back({".linux", kernel});
  sections.push_back({".profile", std::string_view("ID=a\n")});
  sections.push_back({".osrel", std::string_view("ID=y\n")});
  const auto image = uki::AssembleUki(stub, sections);
  if (!image.ok()) return 0;
  SEALIFT_CHECK(image->size() % 8 == 0);
  const auto parsed = efi::PeImage::Parse(*image);
  SEALIFT_CHECK(parsed.ok());
  CheckMemory(*parsed, sections.size());
  std::uint64_t hashed = 12;  // checksum and security entry
  for (const efi::FileRange& range : efi::AuthenticodeRanges(*parsed)) hashed += range.size;
  SEALIFT_CHECK(hashed == image->size());
  const std::size_t first = parsed->sections().size() - sections.size();
  for (std::size_t i = 0; i < sections.size(); ++i) {
    const efi::PeSection& section = parsed->sections()[first + i];
    const auto contents = parsed->Contents(section);
    const auto wanted = sections[i].content.Head(1 << 20);
    SEALIFT_CHECK(section.name == sections[i].name && contents.ok() && wanted.ok());
    SEALIFT_CHECK(std::equal(contents->begin(), contents->end(), wanted->begin(), wanted->end()));
  }
  const auto profiles = uki::SectionsByProfile(*parsed);
  SEALIFT_CHECK(!profiles.empty() && profiles.back().contains(".profile"));
  return 0;
}
