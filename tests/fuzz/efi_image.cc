// A PE image of foreign origin, judged by a db of foreign origin: two bytes of length, signature lists,
// image. What is accepted was vouched for, and signing what parses gives an image that parses.
#include "shared/efi/authenticode.h"
#include "shared/efi/image_signatures.h"
#include "shared/uki/sections.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ByteReader reader(ByteView(data, size), ByteReader::Endian::kLittle);
  const ByteView lists = reader.Take(reader.U16());
  if (!reader.ok()) return 0;
  const ByteView bytes = reader.Take(reader.remaining());
  const auto db = efi::ParseSignatureLists(lists);
  const efi::SignatureLists known = db.ok() ? *db : efi::SignatureLists{};
  const auto verified = efi::VerifyImage(bytes, known, {});
  SEALIFT_CHECK(!verified.ok() || !known.empty());
  SEALIFT_CHECK(!verified.ok() || !efi::VerifyImage(bytes, {}, {}).ok());
  const auto image = efi::PeImage::Parse(bytes);
  if (!image.ok()) return 0;
  for (const efi::PeSection& section : image->sections()) {
    const auto contents = image->Contents(section);
    SEALIFT_CHECK(!contents.ok() || contents->size() == section.virtual_size);
  }
  const auto digests = uki::DigestMeasuredSections(*image, 252);
  SEALIFT_CHECK(!digests.ok() || digests->size() <= image->sections().size());
  const auto signatures = efi::ReadImageSignatures(
      image->certificate_table(), {{"sha256", {ToBytes(efi::AuthenticodeDigest(*image).view())}}});
  SEALIFT_CHECK(!verified.ok() || signatures.ok());
  std::size_t seen = 0;
  for (const auto& profile : uki::SectionsByProfile(*image)) seen += profile.size();
  SEALIFT_CHECK(seen > 0);
  const auto magic = uki::ReadSystemdMagic(*image);
  SEALIFT_CHECK(!magic.ok() || !magic->version.empty());
  return 0;
}
