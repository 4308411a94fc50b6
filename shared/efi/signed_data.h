// PKCS#7 SignedData in the two shapes that UEFI uses: inside authenticated variables (detached, no
// attributes) and inside PE images (Authenticode, signed attributes); and, beside verity images, as systemd
// reads it (detached, no attributes, in a ContentInfo).
//
// Built by writing the DER ourselves, so that output is reproducible (no signing time), holds exactly what
// firmware of every age accepts, and every signature passes through Signer::Sign with its intent. Read by
// OpenSSL. Thread-safe functions.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/crypto/openssl.h"
#include "shared/crypto/signer.h"

namespace sealift::efi {

// Wraps `content` in a DER tag and length.
Bytes DerWrap(std::uint8_t tag, std::initializer_list<ByteView> parts);
// One element off the front of `from`; empty tag mismatch or overrun is an error.
// Errors: INVALID_ARGUMENT/MALFORMED. `content` borrows from `from`.
Status DerTake(ByteView& from, std::uint8_t tag, ByteView& content);

// Errors: INVALID_ARGUMENT/MALFORMED; trailing bytes too.
Result<X509Ptr> ParseCertificate(ByteView der);
// PEM ("BEGIN CERTIFICATE") to DER. Errors: INVALID_ARGUMENT/MALFORMED.
Result<Bytes> CertificatePemToDer(std::string_view pem);
// SHA-256 of the to-be-signed part, as EFI_CERT_X509_SHA256 lists in dbx hold it.
Result<Sha256Digest> CertificateTbsDigest(ByteView der);

// Whose signature it may be. Firmware verifies RSA alone.
enum class SignerKind { kRsa, kRsaOrP256 };

struct SignedDataInput {
  // DER of the content type's OBJECT IDENTIFIER value (without tag and length).
  ByteView content_type;
  // DER of the content, placed inside; empty for detached.
  ByteView content;
  // What is signed: with attributes its SHA-256 becomes messageDigest, without it is signed itself. One or
  // more pieces, hashed in order.
  std::span<const ByteView> message;
  bool signed_attributes = false;
  // Wrap in ContentInfo. Authenticode needs it; authenticated variables must be bare (old EDK2).
  bool content_info = false;
  // The signer's certificate, DER.
  ByteView certificate;
  std::string intent;
  SignerKind signer_kind = SignerKind::kRsa;
};

// SHA-256 with RSA PKCS#1, or ECDSA where the input says so.
// Errors: FAILED_PRECONDITION/KEY_MISMATCH when the certificate is not of the signer's key or the key is of
// another kind; INVALID_ARGUMENT/MALFORMED for the certificate; the signer's own.
Result<Bytes> BuildSignedData(const SignedDataInput& input, Signer& signer);

// A parsed SignedData whose one signature verified under a certificate it carries. Whether that certificate
// is to be believed is another question: FindAnchor.
struct CheckedSignedData {
  // DER of the signer's certificate and of every certificate inside, the signer's included.
  Bytes signer_certificate;
  std::vector<Bytes> certificates;
};

// What a SignedData claims, before anything is checked. Move-only.
class SignedData {
 public:
  // Accepts ContentInfo and bare SignedData, up to 1 MiB; up to seven zero bytes may follow.
  // Errors: INVALID_ARGUMENT/MALFORMED.
  static Result<SignedData> Parse(ByteView der);

  // Whether a ContentInfo was around it.
  bool wrapped() const { return wrapped_; }
  // DER of every certificate it carries, in its order; at most 32 are listed.
  std::vector<Bytes> Certificates() const;
  // The content's DER with its tag; empty when detached.
  const Bytes& content() const { return content_; }
  // Text form of the content type's OID.
  const std::string& content_type() const { return content_type_; }
  // Checks the first signer: SHA-256, attributes if there are any, and the signature over `message`.
  // Errors: UNAUTHENTICATED/SIGNATURE_INVALID saying which part; UNAUTHENTICATED/MALFORMED.
  Result<CheckedSignedData> Check(std::span<const ByteView> message,
                                  SignerKind signer_kind = SignerKind::kRsa) const;

 private:
  SignedData(Pkcs7Ptr pkcs7, bool wrapped, Bytes content, std::string content_type)
      : pkcs7_(std::move(pkcs7)),
        wrapped_(wrapped),
        content_(std::move(content)),
        content_type_(std::move(content_type)) {}
  Pkcs7Ptr pkcs7_;
  bool wrapped_;
  Bytes content_;
  std::string content_type_;
};

// The first of `anchors` (DER) that is the signer's certificate or issued it, possibly through certificates
// inside `checked`. As in firmware, an anchor needs not be self-signed and dates are not looked at.
// Returns the index, or -1. Anchors that are no certificates are passed over.
int FindAnchor(const CheckedSignedData& checked, std::span<const ByteView> anchors);

}  // namespace sealift::efi
