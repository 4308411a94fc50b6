// X.509 certificates: reading, issuing with a key that stays where it is, verifying, and signing requests.
//
// Values are immutable after parsing and share OpenSSL's object, so copies are cheap and reading is
// thread-safe. Public keys are of the kinds that public_key.h knows; a certificate with another is refused.
// RFC 5280; requests are PKCS#10 (RFC 2986).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/crypto/openssl.h"
#include "shared/crypto/public_key.h"
#include "shared/crypto/signer.h"

namespace sealift {

// No certificate of this project's peers comes near it; a longer one is refused before it is parsed.
inline constexpr std::size_t kMaxCertificateBytes = 64 * 1024;
inline constexpr std::size_t kMaxChainLength = 16;

class Certificate {
 public:
  // Exactly one certificate and nothing after it. Errors: INVALID_ARGUMENT/MALFORMED.
  static Result<Certificate> FromDer(ByteView der);
  static Result<Certificate> FromPem(std::string_view pem);
  // One or more PEM certificates, in the order of the text; at most kMaxChainLength.
  static Result<std::vector<Certificate>> ChainFromPem(std::string_view pem);

  const Bytes& der() const { return der_; }
  std::string Pem() const;
  // SHA-256 of the DER.
  Sha256Digest fingerprint() const;
  const PublicKey& public_key() const { return public_key_; }
  // Empty where the subject has none.
  std::string common_name() const;
  // "CN=node CA of demo,O=...": for messages, not for decisions.
  std::string SubjectText() const;
  std::string IssuerText() const;
  // URIs of the subject alternative name: "sealift:node:<uuid>", "sealift:operator:<name>?role=<role>".
  std::vector<std::string> uris() const;
  std::vector<std::string> dns_names() const;
  UnixMillis not_before() const { return not_before_; }
  // The last moment of validity, inclusive.
  UnixMillis not_after() const { return not_after_; }
  // Big-endian, as in the certificate.
  Bytes serial() const;
  bool is_ca() const;
  // Borrowed; lives as long as this object or a copy of it.
  X509* x509() const { return x509_.get(); }

  bool operator==(const Certificate& other) const { return der_ == other.der_; }

 private:
  Certificate(std::shared_ptr<X509> x509, Bytes der, PublicKey public_key)
      : x509_(std::move(x509)), der_(std::move(der)), public_key_(std::move(public_key)) {}
  std::shared_ptr<X509> x509_;
  Bytes der_;
  PublicKey public_key_;
  UnixMillis not_before_;
  UnixMillis not_after_;
};

// What a certificate shall say. Serial (16 random bytes) and key identifiers are added by the issuing
// function.
struct CertificateSpec {
  // 1 to 64 bytes.
  std::string common_name;
  std::vector<std::string> uris;
  std::vector<std::string> dns_names;
  // Text form, IPv4 or IPv6.
  std::vector<std::string> ip_addresses;
  bool server_auth = false;
  bool client_auth = false;
  bool code_signing = false;
  // A CA signs certificates and revocation lists; anything else signs data.
  bool ca = false;
  // How many CAs may follow below this one. For a CA only.
  std::optional<int> path_length;
  // Second resolution; the milliseconds are dropped.
  UnixMillis not_before;
  UnixMillis not_after;
};

// Signs with `issuer`, whose certificate `issuer_certificate` must be. `intent` goes to the journal.
// Needs InstallKeyProvider(). The result was parsed again and verified.
// Errors: INVALID_ARGUMENT when the spec cannot be written; FAILED_PRECONDITION/KEY_MISMATCH when key and
// certificate of the issuer differ or it is no CA; those of the signer.
Result<Certificate> IssueCertificate(const CertificateSpec& spec, const PublicKey& subject_key,
                                     const std::shared_ptr<Signer>& issuer,
                                     const Certificate& issuer_certificate, std::string intent);
// The same, with the subject as its own issuer.
Result<Certificate> IssueSelfSigned(const CertificateSpec& spec, const std::shared_ptr<Signer>& signer,
                                    std::string intent);

// kAny: whatever the extended key usage says, as for endorsement keys and code signing.
enum class CertificatePurpose { kServer, kClient, kAny };

// Evidence of a verification: the chain that was built, leaf first, anchor last.
struct VerifiedChain {
  std::vector<Certificate> chain;
  const Certificate& leaf() const { return chain.front(); }
  const Certificate& anchor() const { return chain.back(); }
};

// Builds a chain from `leaf` over `intermediates` to one of `anchors`, all valid at `at`. For kServer and
// kClient the leaf must name that purpose: a certificate without an extended key usage is refused.
// Revocation is the caller's business. Errors: UNAUTHENTICATED/CERTIFICATE_INVALID with OpenSSL's reason.
Result<VerifiedChain> VerifyChain(const Certificate& leaf, const std::vector<Certificate>& intermediates,
                                  const std::vector<Certificate>& anchors, UnixMillis at,
                                  CertificatePurpose purpose);

// A request whose proof of possession was checked: it could not be built otherwise. What it asks for is data;
// the issuer decides what a certificate says.
class CertificateRequest {
 public:
  // Errors: INVALID_ARGUMENT/MALFORMED; UNAUTHENTICATED/SIGNATURE_INVALID when the proof is wrong.
  static Result<CertificateRequest> FromDer(ByteView der);
  static Result<CertificateRequest> FromPem(std::string_view pem);
  const PublicKey& public_key() const { return public_key_; }
  const std::string& common_name() const { return common_name_; }
  const std::vector<std::string>& uris() const { return uris_; }

 private:
  static Result<CertificateRequest> FromRequest(X509_REQ* request);
  explicit CertificateRequest(PublicKey public_key) : public_key_(std::move(public_key)) {}
  PublicKey public_key_;
  std::string common_name_;
  std::vector<std::string> uris_;
};

// DER of a request for `signer`'s key, asking for `common_name` and `uris`. Needs InstallKeyProvider().
Result<Bytes> CreateCertificateRequest(std::string_view common_name, const std::vector<std::string>& uris,
                                       const std::shared_ptr<Signer>& signer, std::string intent);

}  // namespace sealift
