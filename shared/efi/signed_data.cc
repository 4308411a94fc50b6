#include "shared/efi/signed_data.h"

#include <fmt/format.h>
#include <openssl/asn1t.h>
#include <openssl/err.h>
#include <openssl/objects.h>
#include <openssl/pem.h>

#include <algorithm>
#include <array>

#include "shared/crypto/hash.h"

namespace sealift::efi {
namespace {

constexpr std::size_t kMaxSignedDataBytes = 1u << 20;
constexpr int kMaxCertificates = 32;

constexpr std::uint8_t kInteger = 0x02;
constexpr std::uint8_t kOctetString = 0x04;
constexpr std::uint8_t kObjectId = 0x06;
constexpr std::uint8_t kSequence = 0x30;
constexpr std::uint8_t kSet = 0x31;
constexpr std::uint8_t kContext0 = 0xa0;

// Whole algorithm identifiers, parameters NULL.
constexpr std::array<std::uint8_t, 15> kSha256Algorithm = {0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
                                                           0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00};
constexpr std::array<std::uint8_t, 15> kRsaAlgorithm = {0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86,
                                                        0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00};
// ecdsa-with-SHA256, no parameters (RFC 5758 section 3.2).
constexpr std::array<std::uint8_t, 12> kEcdsaSha256Algorithm = {0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86,
                                                                0x48, 0xce, 0x3d, 0x04, 0x03, 0x02};
// Values of object identifiers.
constexpr std::array<std::uint8_t, 9> kSignedDataOid = {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02};
constexpr std::array<std::uint8_t, 9> kContentTypeOid = {0x2a, 0x86, 0x48, 0x86, 0xf7,
                                                         0x0d, 0x01, 0x09, 0x03};
constexpr std::array<std::uint8_t, 9> kMessageDigestOid = {0x2a, 0x86, 0x48, 0x86, 0xf7,
                                                           0x0d, 0x01, 0x09, 0x04};

Status Malformed(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed, fmt::format("read SignedData: {}", what));
}

Status Invalid(std::string_view what) {
  return MakeError(Code::kUnauthenticated, Reason::kSignatureInvalid,
                   fmt::format("verify SignedData: {}", what));
}

Sha256Digest HashPieces(std::span<const ByteView> pieces) {
  Sha256Hasher hasher;
  for (const ByteView piece : pieces) hasher.Update(piece);
  return hasher.Finish();
}

// i2d_* of OpenSSL into our bytes.
template <typename Encode>
Bytes Encoded(Encode encode) {
  unsigned char* data = nullptr;
  const int size = encode(&data);
  SEALIFT_CHECK(size > 0);
  Bytes bytes(data, data + size);
  OPENSSL_free(data);
  return bytes;
}

Bytes CertificateDer(X509* certificate) {
  return Encoded([&](unsigned char** out) { return i2d_X509(certificate, out); });
}

// Already in DER's order for a SET OF: contentType is the shorter one.
Bytes SignedAttributes(ByteView content_type, const Sha256Digest& digest) {
  const Bytes type = DerWrap(kSet, {DerWrap(kObjectId, {content_type})});
  const Bytes value = DerWrap(kSet, {DerWrap(kOctetString, {digest.view()})});
  Bytes attributes = DerWrap(kSequence, {DerWrap(kObjectId, {kContentTypeOid}), type});
  Append(attributes, DerWrap(kSequence, {DerWrap(kObjectId, {kMessageDigestOid}), value}));
  return attributes;
}

bool IsOfKind(const PublicKey& key, SignerKind kind) {
  if (key.type() == KeyType::kRsa) return true;
  return kind == SignerKind::kRsaOrP256 && key.type() == KeyType::kEcP256;
}

Status CheckKeyFits(X509* certificate, const Signer& signer, SignerKind kind) {
  const PublicKey& key = signer.public_key();
  if (!IsOfKind(key, kind)) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     kind == SignerKind::kRsa
                         ? "sign for firmware: the key is not RSA, which is all that firmware verifies"
                         : "sign: the key is neither RSA nor P-256");
  }
  EVP_PKEY* certified = X509_get0_pubkey(certificate);
  if (certified == nullptr || EVP_PKEY_eq(certified, key.evp()) != 1) {
    ERR_clear_error();
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     "sign for firmware: the certificate is not of the signing key");
  }
  return OkStatus();
}

Bytes SignerInfo(X509* certificate, ByteView attributes, ByteView algorithm, ByteView signature) {
  const Bytes issuer =
      Encoded([&](unsigned char** out) { return i2d_X509_NAME(X509_get_issuer_name(certificate), out); });
  const Bytes serial = Encoded(
      [&](unsigned char** out) { return i2d_ASN1_INTEGER(X509_get0_serialNumber(certificate), out); });
  const std::array<std::uint8_t, 3> version = {kInteger, 1, 1};
  const Bytes tagged = attributes.empty() ? Bytes() : DerWrap(kContext0, {attributes});
  return DerWrap(kSequence, {version, DerWrap(kSequence, {issuer, serial}), kSha256Algorithm, tagged,
                             algorithm, DerWrap(kOctetString, {signature})});
}

Status CheckAttributes(PKCS7_SIGNER_INFO* info, const ASN1_OBJECT* content_type, const Sha256Digest& digest) {
  const ASN1_TYPE* type = PKCS7_get_signed_attribute(info, NID_pkcs9_contentType);
  if (type == nullptr || type->type != V_ASN1_OBJECT || OBJ_cmp(type->value.object, content_type) != 0)
    return Invalid("the signed content type is not the content's");
  const ASN1_TYPE* value = PKCS7_get_signed_attribute(info, NID_pkcs9_messageDigest);
  if (value == nullptr || value->type != V_ASN1_OCTET_STRING) return Invalid("no message digest is signed");
  const ASN1_STRING* octets = value->value.octet_string;
  const ByteView stored(ASN1_STRING_get0_data(octets), static_cast<std::size_t>(ASN1_STRING_length(octets)));
  if (!std::equal(stored.begin(), stored.end(), digest.bytes.begin(), digest.bytes.end()))
    return Invalid("the signed digest is not the content's");
  return OkStatus();
}

// What the signature itself covers: the attributes as a SET OF when there are any, else the message.
Result<Sha256Digest> SignedDigest(PKCS7_SIGNER_INFO* info, const ASN1_OBJECT* content_type,
                                  std::span<const ByteView> message) {
  const Sha256Digest digest = HashPieces(message);
  STACK_OF(X509_ATTRIBUTE)* attributes = PKCS7_get_signed_attributes(info);
  if (attributes == nullptr || sk_X509_ATTRIBUTE_num(attributes) <= 0) return digest;
  SEALIFT_RETURN_IF_ERROR(CheckAttributes(info, content_type, digest));
  unsigned char* der = nullptr;
  const int size =
      ASN1_item_i2d(reinterpret_cast<const ASN1_VALUE*>(attributes), &der, ASN1_ITEM_rptr(PKCS7_ATTR_VERIFY));
  if (size <= 0) return OpenSslError(Reason::kMalformed, "encode signed attributes", "ASN1_item_i2d");
  const Sha256Digest covered = Sha256(ByteView(der, static_cast<std::size_t>(size)));
  OPENSSL_free(der);
  return covered;
}

void FreeCertificates(STACK_OF(X509) * stack) { sk_X509_pop_free(stack, X509_free); }

bool IsSha256(const X509_ALGOR* algorithm) {
  const ASN1_OBJECT* object = nullptr;
  X509_ALGOR_get0(&object, nullptr, nullptr, algorithm);
  return OBJ_obj2nid(object) == NID_sha256;
}

}  // namespace

Bytes DerWrap(std::uint8_t tag, std::initializer_list<ByteView> parts) {
  std::size_t size = 0;
  for (const ByteView part : parts) size += part.size();
  Bytes out = {tag};
  if (size < 0x80) {
    out.push_back(static_cast<std::uint8_t>(size));
  } else {
    Bytes length;
    for (std::size_t rest = size; rest != 0; rest >>= 8)
      length.insert(length.begin(), static_cast<std::uint8_t>(rest & 0xff));
    out.push_back(static_cast<std::uint8_t>(0x80 | length.size()));
    Append(out, length);
  }
  for (const ByteView part : parts) Append(out, part);
  return out;
}

Status DerTake(ByteView& from, std::uint8_t tag, ByteView& content) {
  if (from.size() < 2 || from[0] != tag) return Malformed(fmt::format("no element with tag {:#04x}", tag));
  std::size_t header = 2;
  std::size_t size = from[1];
  if (size >= 0x80) {
    const std::size_t octets = size & 0x7f;
    if (octets == 0 || octets > 4 || from.size() < 2 + octets) return Malformed("a length that is not DER");
    size = 0;
    for (std::size_t i = 0; i < octets; ++i) size = (size << 8) | from[2 + i];
    header += octets;
  }
  if (size > from.size() - header) return Malformed("an element longer than what holds it");
  content = from.subspan(header, size);
  from = from.subspan(header + size);
  return OkStatus();
}

Result<X509Ptr> ParseCertificate(ByteView der) {
  const unsigned char* cursor = der.data();
  if (der.size() > kMaxSignedDataBytes) return Malformed("a certificate above 1 MiB");
  X509Ptr certificate(d2i_X509(nullptr, &cursor, static_cast<long>(der.size())));
  if (certificate == nullptr) return OpenSslError(Reason::kMalformed, "read certificate", "d2i_X509");
  if (cursor != der.data() + der.size()) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed, "read certificate: bytes follow it");
  }
  return certificate;
}

Result<Bytes> CertificatePemToDer(std::string_view pem) {
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  const X509Ptr certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr)
    return OpenSslError(Reason::kMalformed, "read certificate: not PEM", "PEM_read_bio_X509");
  return CertificateDer(certificate.get());
}

Result<Sha256Digest> CertificateTbsDigest(ByteView der) {
  SEALIFT_ASSIGN_OR_RETURN(const X509Ptr certificate, ParseCertificate(der));
  return Sha256(Encoded([&](unsigned char** out) { return i2d_re_X509_tbs(certificate.get(), out); }));
}

Result<Bytes> BuildSignedData(const SignedDataInput& input, Signer& signer) {
  SEALIFT_ASSIGN_OR_RETURN(const X509Ptr certificate, ParseCertificate(input.certificate));
  SEALIFT_RETURN_IF_ERROR(CheckKeyFits(certificate.get(), signer, input.signer_kind));
  Sha256Digest digest = HashPieces(input.message);
  Bytes attributes;
  if (input.signed_attributes) {
    attributes = SignedAttributes(input.content_type, digest);
    digest = Sha256(DerWrap(kSet, {attributes}));
  }
  const bool rsa = signer.public_key().type() == KeyType::kRsa;
  SEALIFT_ASSIGN_OR_RETURN(const Bytes signature, signer.Sign({.scheme = signer.public_key().default_scheme(),
                                                               .digest = digest.view(),
                                                               .intent = input.intent}));
  const std::array<std::uint8_t, 3> version = {kInteger, 1, 1};
  const Bytes content = input.content.empty() ? Bytes() : DerWrap(kContext0, {input.content});
  const Bytes encapsulated = DerWrap(kSequence, {DerWrap(kObjectId, {input.content_type}), content});
  const Bytes signer_info =
      SignerInfo(certificate.get(), attributes,
                 rsa ? ByteView(kRsaAlgorithm) : ByteView(kEcdsaSha256Algorithm), signature);
  const Bytes signed_data =
      DerWrap(kSequence, {version, DerWrap(kSet, {kSha256Algorithm}), encapsulated,
                          DerWrap(kContext0, {input.certificate}), DerWrap(kSet, {signer_info})});
  if (!input.content_info) return signed_data;
  return DerWrap(kSequence, {DerWrap(kObjectId, {kSignedDataOid}), DerWrap(kContext0, {signed_data})});
}

Result<SignedData> SignedData::Parse(ByteView der) {
  if (der.size() > kMaxSignedDataBytes) return Malformed("larger than 1 MiB");
  ByteView rest = der;
  ByteView outer;
  SEALIFT_RETURN_IF_ERROR(DerTake(rest, kSequence, outer));
  if (rest.size() > 7 || std::any_of(rest.begin(), rest.end(), [](std::uint8_t b) { return b != 0; }))
    return Malformed("bytes follow it");
  const ByteView exact = der.first(der.size() - rest.size());
  Bytes wrapped = ToBytes(exact);
  const bool bare = !outer.empty() && outer[0] == kInteger;
  if (bare) wrapped = DerWrap(kSequence, {DerWrap(kObjectId, {kSignedDataOid}), DerWrap(kContext0, {exact})});
  const unsigned char* cursor = wrapped.data();
  Pkcs7Ptr pkcs7(d2i_PKCS7(nullptr, &cursor, static_cast<long>(wrapped.size())));
  if (pkcs7 == nullptr) return OpenSslError(Reason::kMalformed, "read SignedData", "d2i_PKCS7");
  if (!PKCS7_type_is_signed(pkcs7.get()) || pkcs7->d.sign == nullptr || pkcs7->d.sign->contents == nullptr ||
      cursor != wrapped.data() + wrapped.size())
    return Malformed("not a SignedData");
  const PKCS7* contents = pkcs7->d.sign->contents;
  std::array<char, 128> oid{};
  OBJ_obj2txt(oid.data(), static_cast<int>(oid.size()), contents->type, 1);
  Bytes content;
  // Of content types OpenSSL does not know, the content stays an uninterpreted element.
  if (OBJ_obj2nid(contents->type) != NID_pkcs7_data && contents->d.other != nullptr &&
      PKCS7_type_is_other(pkcs7->d.sign->contents) == 1 && contents->d.other->type == V_ASN1_SEQUENCE) {
    const ASN1_STRING* sequence = contents->d.other->value.sequence;
    const unsigned char* data = ASN1_STRING_get0_data(sequence);
    content.assign(data, data + ASN1_STRING_length(sequence));
  }
  return SignedData(std::move(pkcs7), !bare, std::move(content), oid.data());
}

std::vector<Bytes> SignedData::Certificates() const {
  std::vector<Bytes> certificates;
  const STACK_OF(X509)* inside = pkcs7_->d.sign->cert;
  for (int i = 0; i < std::min(sk_X509_num(inside), kMaxCertificates); ++i)
    certificates.push_back(CertificateDer(sk_X509_value(inside, i)));
  return certificates;
}

Result<CheckedSignedData> SignedData::Check(std::span<const ByteView> message, SignerKind signer_kind) const {
  const PKCS7_SIGNED* data = pkcs7_->d.sign;
  if (sk_PKCS7_SIGNER_INFO_num(data->signer_info) != 1) return Invalid("it has not exactly one signer");
  PKCS7_SIGNER_INFO* info = sk_PKCS7_SIGNER_INFO_value(data->signer_info, 0);
  if (!IsSha256(info->digest_alg)) return Invalid("its digest is not SHA-256");
  const int count = sk_X509_num(data->cert);
  if (count < 1 || count > kMaxCertificates) return Invalid("it carries no certificate, or too many");
  CheckedSignedData checked;
  X509* signer = nullptr;
  for (int i = 0; i < count; ++i) {
    X509* certificate = sk_X509_value(data->cert, i);
    checked.certificates.push_back(CertificateDer(certificate));
    const PKCS7_ISSUER_AND_SERIAL* wanted = info->issuer_and_serial;
    if (signer == nullptr && X509_NAME_cmp(X509_get_issuer_name(certificate), wanted->issuer) == 0 &&
        ASN1_INTEGER_cmp(X509_get0_serialNumber(certificate), wanted->serial) == 0) {
      signer = certificate;
      checked.signer_certificate = checked.certificates.back();
    }
  }
  if (signer == nullptr) return Invalid("the signer's certificate is not inside");
  EVP_PKEY* evp = X509_get0_pubkey(signer);
  const Result<PublicKey> key = evp == nullptr ? Result<PublicKey>(Invalid("")) : PublicKey::FromEvp(evp);
  ERR_clear_error();
  if (!key.ok() || !IsOfKind(*key, signer_kind)) {
    return Invalid(signer_kind == SignerKind::kRsa ? "the signer's key is not RSA of 2048 bits or more"
                                                   : "the signer's key is neither RSA nor P-256");
  }
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, SignedDigest(info, data->contents->type, message));
  const ASN1_STRING* value = info->enc_digest;
  const ByteView signature(ASN1_STRING_get0_data(value), static_cast<std::size_t>(ASN1_STRING_length(value)));
  const Status verified = key->VerifyDigest(digest.view(), signature, key->default_scheme());
  if (!verified.ok()) return Invalid("the signature does not fit its certificate and content");
  return checked;
}

int FindAnchor(const CheckedSignedData& checked, std::span<const ByteView> anchors) {
  const Result<X509Ptr> signer = ParseCertificate(checked.signer_certificate);
  if (!signer.ok()) return -1;
  const CPtr<STACK_OF(X509), FreeCertificates> inside(sk_X509_new_null());
  for (const Bytes& der : checked.certificates) {
    Result<X509Ptr> certificate = ParseCertificate(der);
    if (certificate.ok()) sk_X509_push(inside.get(), certificate->release());
  }
  for (std::size_t i = 0; i < anchors.size(); ++i) {
    if (std::equal(anchors[i].begin(), anchors[i].end(), checked.signer_certificate.begin(),
                   checked.signer_certificate.end()))
      return static_cast<int>(i);
    const Result<X509Ptr> anchor = ParseCertificate(anchors[i]);
    if (!anchor.ok()) continue;
    const X509StorePtr store(X509_STORE_new());
    const X509StoreCtxPtr context(X509_STORE_CTX_new());
    SEALIFT_CHECK(
        store != nullptr && context != nullptr && X509_STORE_add_cert(store.get(), anchor->get()) == 1 &&
        X509_STORE_set_flags(store.get(), X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_NO_CHECK_TIME) == 1 &&
        X509_STORE_CTX_init(context.get(), store.get(), signer->get(), inside.get()) == 1);
    const bool chained = X509_verify_cert(context.get()) == 1;
    ERR_clear_error();
    if (chained) return static_cast<int>(i);
  }
  return -1;
}

}  // namespace sealift::efi
