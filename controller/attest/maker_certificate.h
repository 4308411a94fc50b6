// Certificates of TPM makers: of endorsement keys and of the CAs above them.
//
// Apart from shared/crypto/certificate.h, which knows only what this project issues: makers use other keys
// (P-521, RSA named as RSAES-OAEP) and write what is tolerated here as OpenSSL tolerates it. Immutable after
// parsing; copies share OpenSSL's object; thread-safe.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "shared/base/clock.h"
#include "shared/crypto/certificate.h"

namespace sealift::controller {

// TCG EK Credential Profile 2.5, 3.2.9 and 3.2.16.
inline constexpr const char* kEndorsementKeyPurpose = "2.23.133.8.1";

// What the subject alternative name (or, without one, the subject) says of the TPM; as it stands there
// ("id:474F4F47"), UTF-8. Empty where it says nothing. Nobody but the maker vouches for it.
struct TpmModel {
  std::string manufacturer;
  std::string model;
  std::string version;
};

class MakerCertificate {
 public:
  // One certificate in DER. Zeros or 0xff after it, as a TPM's NV index is filled with, are no part of it.
  // Errors: INVALID_ARGUMENT/MALFORMED.
  static Result<MakerCertificate> FromDer(ByteView der);
  // One certificate, PEM or DER. Errors: INVALID_ARGUMENT/MALFORMED.
  static Result<MakerCertificate> FromFile(ByteView file);
  // Every Certificate is one of these. On purpose no explicit conversion.
  MakerCertificate(const Certificate& certificate);  // NOLINT(google-explicit-constructor)

  // Without padding.
  const Bytes& der() const { return der_; }
  std::size_t padding() const { return padding_; }
  // SHA-256 of the DER.
  const Sha256Digest& fingerprint() const { return fingerprint_; }
  UnixMillis not_before() const { return not_before_; }
  // The last moment of validity, inclusive.
  UnixMillis not_after() const { return not_after_; }
  bool ValidAt(UnixMillis at) const { return well_timed_ && not_before_ <= at && at <= not_after_; }
  // Lower-case hex without leading zeros; "-5" where a maker wrote a negative one.
  std::string SerialText() const;
  std::string SubjectText() const;
  std::string IssuerText() const;
  // Basic constraints say so.
  bool is_ca() const;
  // It is a CA and its key usage, where there is one, lets it sign certificates.
  bool MayIssue() const;
  // Dotted, in the order of the certificate; empty where its use is not limited.
  std::vector<std::string> purposes() const;
  TpmModel Model() const;
  // Null where OpenSSL knows no such key. Borrowed.
  EVP_PKEY* key() const { return key_.get(); }
  // "rsa", "ec", or OpenSSL's name.
  std::string KeyTypeName() const;
  int key_bits() const;
  // How it was signed rests on SHA-1, or its key is RSA below 2048 bits: reported, not refused.
  bool weak() const;
  X509* x509() const { return x509_.get(); }

  bool operator==(const MakerCertificate& other) const { return der_ == other.der_; }

 private:
  MakerCertificate() = default;
  std::shared_ptr<X509> x509_;
  std::shared_ptr<EVP_PKEY> key_;
  Bytes der_;
  std::size_t padding_ = 0;
  Sha256Digest fingerprint_;
  UnixMillis not_before_;
  UnixMillis not_after_;
  // Its times have the form that RFC 5280 asks for.
  bool well_timed_ = false;
};

// A file (PEM with any number, or one in DER), or every *.pem, *.crt, *.cer, *.der of a folder. At most
// kMaxMakerCertificates and kMaxMakerBytes. Errors: NOT_FOUND/FILE_UNREADABLE; INVALID_ARGUMENT/MALFORMED
// naming the file.
inline constexpr std::size_t kMaxMakerCertificates = 4096;
inline constexpr std::size_t kMaxMakerBytes = 16u << 20;
Result<std::vector<MakerCertificate>> LoadMakerCertificates(const std::filesystem::path& path);

}  // namespace sealift::controller
