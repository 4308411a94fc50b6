#include "shared/efi/authenticode.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "shared/crypto/hash.h"
#include "shared/efi/signed_data.h"
#include "shared/efi/win_certificate.h"

namespace sealift::efi {
namespace {

constexpr std::size_t kTableAlignment = 8;
constexpr std::uint16_t kRevision = 0x0200;
constexpr std::uint16_t kTypePkcs7 = 0x0002;
constexpr std::uint8_t kSequence = 0x30;
constexpr std::uint8_t kOctetString = 0x04;

// 1.3.6.1.4.1.311.2.1.4, SpcIndirectData.
constexpr std::array<std::uint8_t, 10> kIndirectDataOid = {0x2b, 0x06, 0x01, 0x04, 0x01,
                                                           0x82, 0x37, 0x02, 0x01, 0x04};
constexpr std::string_view kIndirectDataText = "1.3.6.1.4.1.311.2.1.4";
// SpcAttributeTypeAndOptionalValue: SpcPeImageData with no flags and the file name "<<<Obsolete>>>", the
// value every signer writes.
constexpr std::array<std::uint8_t, 53> kPeImageData = {
    0x30, 0x33,                                                              // SEQUENCE
    0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f,  // SpcPeImageData
    0x30, 0x25, 0x03, 0x01, 0x00,                                            // SEQUENCE, empty BIT STRING
    0xa0, 0x20, 0xa2, 0x1e, 0x80, 0x1c,                                      // [0] [2] [0]
    0x00, 0x3c, 0x00, 0x3c, 0x00, 0x3c, 0x00, 0x4f, 0x00, 0x62, 0x00, 0x73, 0x00, 0x6f,
    0x00, 0x6c, 0x00, 0x65, 0x00, 0x74, 0x00, 0x65, 0x00, 0x3e, 0x00, 0x3e, 0x00, 0x3e};
// DigestInfo's algorithm: SHA-256 with NULL parameters.
constexpr std::array<std::uint8_t, 15> kSha256Algorithm = {0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
                                                           0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00};

Status Refused(Reason reason, std::string_view what) {
  return MakeError(Code::kUnauthenticated, reason, fmt::format("verify image: {}", what));
}

void WriteU32(Bytes& bytes, std::size_t offset, std::uint32_t value) {
  for (std::size_t i = 0; i < 4; ++i)
    bytes[offset + i] = static_cast<std::uint8_t>((value >> (8 * i)) & 0xff);
}

// What an SpcIndirectData's element holds, without its tag and length: that is what messageDigest covers.
Bytes IndirectDataValue(const Sha256Digest& digest) {
  Bytes value = ToBytes(kPeImageData);
  Append(value, DerWrap(kSequence, {kSha256Algorithm, DerWrap(kOctetString, {digest.view()})}));
  return value;
}

// The image digest that a signature's content claims, and the bytes that its messageDigest covers.
struct IndirectData {
  ByteView value;
  ByteView digest;
};

Result<IndirectData> ReadIndirectData(ByteView content) {
  IndirectData data;
  SEALIFT_RETURN_IF_ERROR(DerTake(content, kSequence, data.value));
  ByteView rest = data.value;
  ByteView skipped;
  ByteView digest_info;
  SEALIFT_RETURN_IF_ERROR(DerTake(rest, kSequence, skipped));
  SEALIFT_RETURN_IF_ERROR(DerTake(rest, kSequence, digest_info));
  const ByteView info = digest_info;
  SEALIFT_RETURN_IF_ERROR(DerTake(digest_info, kSequence, skipped));
  const ByteView algorithm = info.first(info.size() - digest_info.size());
  if (!std::equal(algorithm.begin(), algorithm.end(), kSha256Algorithm.begin(), kSha256Algorithm.end()))
    return Refused(Reason::kImageSignatureInvalid, "its signature is not over SHA-256");
  SEALIFT_RETURN_IF_ERROR(DerTake(digest_info, kOctetString, data.digest));
  return data;
}

// One signature against the image's real digest: who signed it.
Result<CheckedSignedData> CheckSignature(ByteView entry, const Sha256Digest& digest) {
  ByteReader header(entry, ByteReader::Endian::kLittle);
  header.Skip(4);
  if (header.U16() != kRevision)
    return Refused(Reason::kImageSignatureInvalid, "its signature is of an unknown revision");
  SEALIFT_ASSIGN_OR_RETURN(const SignedData data,
                           SignedData::Parse(entry.subspan(kWinCertificateHeaderBytes)));
  if (data.content_type() != kIndirectDataText)
    return Refused(Reason::kImageSignatureInvalid, "a signature of something that is not an image");
  SEALIFT_ASSIGN_OR_RETURN(const IndirectData indirect, ReadIndirectData(data.content()));
  if (!std::equal(indirect.digest.begin(), indirect.digest.end(), digest.bytes.begin(), digest.bytes.end()))
    return Refused(Reason::kImageSignatureInvalid, "its signature is of other bytes");
  const std::array<ByteView, 1> message = {indirect.value};
  return data.Check(message);
}

std::vector<ByteView> Anchors(const std::vector<const SignatureEntry*>& entries) {
  std::vector<ByteView> anchors;
  for (const SignatureEntry* entry : entries) anchors.emplace_back(entry->data);
  return anchors;
}

bool HoldsDigest(std::span<const SignatureList> lists, const Sha256Digest& digest,
                 const SignatureEntry** found) {
  for (const SignatureEntry* entry : EntriesOfType(lists, kCertSha256)) {
    if (!std::equal(entry->data.begin(), entry->data.end(), digest.bytes.begin(), digest.bytes.end()))
      continue;
    *found = entry;
    return true;
  }
  return false;
}

// By certificate, by issuer, or by the digest of the certificate's signed part.
bool IsRevoked(const CheckedSignedData& checked, std::span<const SignatureList> dbx) {
  const std::vector<ByteView> revoked = Anchors(EntriesOfType(dbx, kCertX509));
  if (FindAnchor(checked, revoked) >= 0) return true;
  const std::vector<const SignatureEntry*> digests = EntriesOfType(dbx, kCertX509Sha256);
  for (const Bytes& certificate : checked.certificates) {
    for (const ByteView entry : revoked)
      if (std::equal(entry.begin(), entry.end(), certificate.begin(), certificate.end())) return true;
    if (digests.empty()) continue;
    const Result<Sha256Digest> tbs = CertificateTbsDigest(certificate);
    for (const SignatureEntry* entry : digests) {
      // Digest, then the time from which on it is revoked.
      if (tbs.ok() && entry->data.size() >= tbs->bytes.size() &&
          std::equal(tbs->bytes.begin(), tbs->bytes.end(), entry->data.begin()))
        return true;
    }
  }
  return false;
}

}  // namespace

std::vector<FileRange> AuthenticodeRanges(const PeImage& image) {
  const std::uint64_t end = image.file_size() - image.certificate_table_size();
  std::vector<FileRange> ranges;
  const auto add = [&](std::uint64_t from, std::uint64_t to) {
    if (from < to) ranges.push_back({.offset = from, .size = to - from});
  };
  add(0, image.checksum_offset());
  add(image.checksum_offset() + 4, image.security_entry_offset());
  add(image.security_entry_offset() + 8, image.size_of_headers());
  std::vector<const PeSection*> order;
  for (const PeSection& section : image.sections())
    if (section.raw_size != 0) order.push_back(&section);
  std::sort(order.begin(), order.end(),
            [](const PeSection* a, const PeSection* b) { return a->raw_offset < b->raw_offset; });
  // Firmware counts the bytes hashed and takes what lies beyond that count as the tail.
  std::uint64_t hashed = image.size_of_headers();
  for (const PeSection* section : order) {
    add(section->raw_offset, std::uint64_t{section->raw_offset} + section->raw_size);
    hashed += section->raw_size;
  }
  add(hashed, end);
  return ranges;
}

Sha256Digest AuthenticodeDigest(const PeImage& image) {
  const ByteView bytes = image.without_certificates();
  Sha256Hasher hasher;
  for (const FileRange& range : AuthenticodeRanges(image))
    hasher.Update(
        bytes.subspan(static_cast<std::size_t>(range.offset), static_cast<std::size_t>(range.size)));
  const std::size_t padding = (kTableAlignment - bytes.size() % kTableAlignment) % kTableAlignment;
  const std::array<std::uint8_t, kTableAlignment> zeros{};
  hasher.Update(ByteView(zeros).first(padding));
  return hasher.Finish();
}

Result<Bytes> BuildImageSignature(const Sha256Digest& digest, Signer& signer, ByteView certificate_der,
                                  std::string intent) {
  const Bytes value = IndirectDataValue(digest);
  const Bytes content = DerWrap(kSequence, {value});
  const std::array<ByteView, 1> message = {value};
  SEALIFT_ASSIGN_OR_RETURN(const Bytes signature, BuildSignedData({.content_type = kIndirectDataOid,
                                                                   .content = content,
                                                                   .message = message,
                                                                   .signed_attributes = true,
                                                                   .content_info = true,
                                                                   .certificate = certificate_der,
                                                                   .intent = std::move(intent)},
                                                                  signer));
  ByteWriter entry(ByteWriter::Endian::kLittle);
  // The true length; only the table's size counts the padding.
  entry.U32(static_cast<std::uint32_t>(kWinCertificateHeaderBytes + signature.size()));
  entry.U16(kRevision);
  entry.U16(kTypePkcs7);
  entry.Raw(signature);
  entry.PadTo(kTableAlignment);
  return std::move(entry).Finish();
}

Result<SignedImage> SignImage(Bytes image, Signer& signer, ByteView certificate_der, std::string intent) {
  SEALIFT_ASSIGN_OR_RETURN(PeImage parsed, PeImage::Parse(image));
  const std::size_t checksum_offset = parsed.checksum_offset();
  const std::size_t security_entry = parsed.security_entry_offset();
  const std::size_t old_table = parsed.certificate_table().size();
  const Sha256Digest digest = AuthenticodeDigest(parsed);
  SEALIFT_ASSIGN_OR_RETURN(const Bytes entry,
                           BuildImageSignature(digest, signer, certificate_der, std::move(intent)));
  image.resize((image.size() + kTableAlignment - 1) / kTableAlignment * kTableAlignment);
  const std::size_t table_offset = image.size() - old_table;
  if (image.size() + entry.size() > UINT32_MAX) {
    return MakeError(Code::kInvalidArgument, Reason::kImageMalformed, "sign image: it is larger than 4 GiB");
  }
  Append(image, entry);
  WriteU32(image, security_entry, static_cast<std::uint32_t>(table_offset));
  WriteU32(image, security_entry + 4, static_cast<std::uint32_t>(old_table + entry.size()));
  WriteU32(image, checksum_offset, 0);
  WriteU32(image, checksum_offset, PeChecksum(image));
  return SignedImage{.bytes = std::move(image), .digest = digest};
}

Result<AuthorisedImage> VerifyImage(ByteView bytes, std::span<const SignatureList> db,
                                    std::span<const SignatureList> dbx) {
  SEALIFT_ASSIGN_OR_RETURN(const PeImage image, PeImage::Parse(bytes));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<ByteView> entries, ImageCertificates(image.certificate_table()));
  const Sha256Digest digest = AuthenticodeDigest(image);
  const SignatureEntry* listed = nullptr;
  if (HoldsDigest(dbx, digest, &listed)) return Refused(Reason::kImageRevoked, "its digest is in dbx");
  const std::vector<const SignatureEntry*> certificates = EntriesOfType(db, kCertX509);
  const std::vector<ByteView> anchors = Anchors(certificates);
  std::optional<AuthorisedImage> authorised;
  bool any_valid = false;
  std::string why = "it carries no signature of a known kind";
  for (const ByteView entry : entries) {
    const Result<CheckedSignedData> checked = CheckSignature(entry, digest);
    if (!checked.ok()) {
      why = MessageOf(checked.status());
      continue;
    }
    any_valid = true;
    if (IsRevoked(*checked, dbx)) return Refused(Reason::kImageRevoked, "its signer's certificate is in dbx");
    const int anchor = FindAnchor(*checked, anchors);
    if (anchor < 0 || authorised.has_value()) continue;
    authorised = AuthorisedImage{.digest = digest,
                                 .authority_type = kCertX509,
                                 .authority = *certificates[static_cast<std::size_t>(anchor)],
                                 .signer_certificate = checked->signer_certificate};
  }
  if (authorised.has_value()) return *std::move(authorised);
  if (HoldsDigest(db, digest, &listed))
    return AuthorisedImage{.digest = digest, .authority_type = kCertSha256, .authority = *listed};
  if (any_valid) return Refused(Reason::kImageSignerUnknown, "db vouches for none of its signers");
  if (image.certificate_table().empty()) return Refused(Reason::kImageUnsigned, "it has no signature");
  return Refused(Reason::kImageSignatureInvalid, why);
}

}  // namespace sealift::efi
