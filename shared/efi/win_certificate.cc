#include "shared/efi/win_certificate.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/objects.h>

#include <algorithm>
#include <array>

#include "shared/crypto/openssl.h"
#include "shared/efi/guid.h"
#include "shared/efi/signed_data.h"

namespace sealift::efi {
namespace {

constexpr std::size_t kHeaderBytes = kWinCertificateHeaderBytes;
constexpr std::size_t kTableAlignment = 8;
constexpr std::size_t kMaxSignatures = 16;
constexpr std::size_t kGuidBytes = 16;
constexpr std::size_t kPadding = 7;
constexpr std::uint16_t kRevision = 0x0200;
constexpr std::uint16_t kTypePkcs7 = 0x0002;
constexpr std::uint16_t kTypeEfiGuid = 0x0ef1;
constexpr std::uint8_t kSequence = 0x30;
constexpr std::uint8_t kOctetString = 0x04;
constexpr std::string_view kIndirectDataText = "1.3.6.1.4.1.311.2.1.4";

using Asn1ObjectPtr = CPtr<ASN1_OBJECT, ASN1_OBJECT_free>;

Status Malformed(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed, fmt::format("read WIN_CERTIFICATE: {}", what));
}

struct DigestName {
  int nid;
  std::string_view name;
  std::size_t bytes;
};
constexpr std::array<DigestName, 4> kDigests = {{{NID_sha1, "sha1", 20},
                                                 {NID_sha256, "sha256", 32},
                                                 {NID_sha384, "sha384", 48},
                                                 {NID_sha512, "sha512", 64}}};

// `oid`: the whole element.
Status ReadAlgorithm(ByteView oid, WinCertificate& certificate) {
  const unsigned char* cursor = oid.data();
  const Asn1ObjectPtr object(d2i_ASN1_OBJECT(nullptr, &cursor, static_cast<long>(oid.size())));
  ERR_clear_error();
  if (object == nullptr) return Malformed("its digest algorithm is not an object identifier");
  const int nid = OBJ_obj2nid(object.get());
  const auto* const known = std::find_if(kDigests.begin(), kDigests.end(),
                                         [&](const DigestName& digest) { return digest.nid == nid; });
  if (known == kDigests.end()) {
    std::array<char, 128> text{};
    OBJ_obj2txt(text.data(), static_cast<int>(text.size()), object.get(), 1);
    certificate.digest_algorithm = text.data();
    return OkStatus();
  }
  certificate.digest_algorithm = known->name;
  if (certificate.digest.size() == known->bytes) return OkStatus();
  return Malformed(fmt::format("its {} digest is {} bytes", known->name, certificate.digest.size()));
}

// SpcIndirectData: SEQUENCE { data SEQUENCE, DigestInfo SEQUENCE { algorithm SEQUENCE, OCTET STRING } }.
Status ReadIndirectData(ByteView content, WinCertificate& certificate) {
  ByteView value;
  ByteView skipped;
  ByteView digest_info;
  ByteView algorithm;
  ByteView digest;
  SEALIFT_RETURN_IF_ERROR(DerTake(content, kSequence, value));
  SEALIFT_RETURN_IF_ERROR(DerTake(value, kSequence, skipped));
  SEALIFT_RETURN_IF_ERROR(DerTake(value, kSequence, digest_info));
  SEALIFT_RETURN_IF_ERROR(DerTake(digest_info, kSequence, algorithm));
  SEALIFT_RETURN_IF_ERROR(DerTake(digest_info, kOctetString, digest));
  if (!value.empty() || !digest_info.empty()) return Malformed("bytes follow its image digest");
  certificate.digest = ToBytes(digest);
  return ReadAlgorithm(algorithm, certificate);
}

}  // namespace

std::string_view WinCertificateTypeName(WinCertificateType type) {
  return type == WinCertificateType::kAuthenticode ? "authenticode" : "pkcs7-guid";
}

Result<std::vector<ByteView>> ImageCertificates(ByteView table) {
  const auto malformed = [](std::string_view what) {
    return MakeError(Code::kInvalidArgument, Reason::kImageMalformed,
                     fmt::format("read certificate table: {}", what));
  };
  std::vector<ByteView> entries;
  std::size_t offset = 0;
  while (offset < table.size()) {
    ByteReader reader(table.subspan(offset), ByteReader::Endian::kLittle);
    const std::uint32_t length = reader.U32();
    reader.Skip(2);
    const std::uint16_t type = reader.U16();
    if (!reader.ok() || length < kHeaderBytes || length > table.size() - offset)
      return malformed("an entry's length does not fit");
    if (type == kTypePkcs7) entries.push_back(table.subspan(offset, length));
    if (entries.size() > kMaxSignatures) return malformed("more than 16 signatures");
    offset += (std::size_t{length} + kTableAlignment - 1) / kTableAlignment * kTableAlignment;
  }
  return entries;
}

Result<WinCertificate> ParseWinCertificate(ByteView bytes) {
  ByteReader reader(bytes, ByteReader::Endian::kLittle);
  const std::uint32_t length = reader.U32();
  const std::uint16_t revision = reader.U16();
  const std::uint16_t type = reader.U16();
  if (!reader.ok()) return Malformed("the bytes end inside its header");
  if (length < kHeaderBytes || length > bytes.size())
    return Malformed(
        fmt::format("its length {} does not fit the {} bytes that are there", length, bytes.size()));
  const ByteView rest = bytes.subspan(length);
  if (rest.size() > kPadding || std::any_of(rest.begin(), rest.end(), [](std::uint8_t b) { return b != 0; }))
    return Malformed(fmt::format("{} bytes follow it", rest.size()));
  if (revision != kRevision) return Malformed(fmt::format("its revision is {:#06x}", revision));
  if (type != kTypePkcs7 && type != kTypeEfiGuid) return Malformed(fmt::format("its type is {:#06x}", type));
  WinCertificate certificate;
  ByteView body = bytes.subspan(kHeaderBytes, length - kHeaderBytes);
  if (type == kTypeEfiGuid) {
    certificate.type = WinCertificateType::kPkcs7Guid;
    if (body.size() < kGuidBytes) return Malformed("it ends inside its GUID");
    SEALIFT_ASSIGN_OR_RETURN(const Guid guid, Guid::FromBytes(body.first(kGuidBytes)));
    if (guid != kCertTypePkcs7) return Malformed(fmt::format("its GUID {} is not PKCS#7's", guid.text()));
    body = body.subspan(kGuidBytes);
  }
  SEALIFT_ASSIGN_OR_RETURN(const SignedData data, SignedData::Parse(body));
  certificate.certificates = data.Certificates();
  if (type == kTypeEfiGuid) return certificate;
  if (data.content_type() != kIndirectDataText) return Malformed("it is not the signature of an image");
  SEALIFT_RETURN_IF_ERROR(ReadIndirectData(data.content(), certificate));
  return certificate;
}

}  // namespace sealift::efi
