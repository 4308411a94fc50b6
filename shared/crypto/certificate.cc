#include "shared/crypto/certificate.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include <ctime>
#include <utility>

#include "shared/crypto/certificate_internal.h"
#include "shared/crypto/hash.h"

namespace sealift {
namespace {

Result<UnixMillis> ToTime(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) {
    return OpenSslError(Reason::kMalformed, "read certificate: a time is not well formed", "ASN1_TIME_to_tm");
  }
  return UnixMillis(std::chrono::seconds(timegm(&parts)));
}

std::string NameText(const X509_NAME* name) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

}  // namespace

namespace certificate_internal {

std::string CommonName(const X509_NAME* name) {
  const int index = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
  if (index < 0) return {};
  unsigned char* utf8 = nullptr;
  const int size = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, index)));
  if (size < 0) {
    ERR_clear_error();
    return {};
  }
  std::string text(reinterpret_cast<const char*>(utf8), static_cast<std::size_t>(size));
  OPENSSL_free(utf8);
  return text;
}

std::vector<std::string> NamesOfType(const GENERAL_NAMES* names, int type) {
  std::vector<std::string> found;
  for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
    int actual = 0;
    const void* value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &actual);
    if (actual != type) continue;
    const auto* text = static_cast<const ASN1_IA5STRING*>(value);
    std::string name(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                     static_cast<std::size_t>(ASN1_STRING_length(text)));
    // A NUL inside would read as two different names in two programs.
    if (name.find('\0') == std::string::npos) found.push_back(std::move(name));
  }
  return found;
}

}  // namespace certificate_internal

namespace {

std::vector<std::string> SubjectNames(const X509* x509, int type) {
  const GeneralNamesPtr names(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(x509, NID_subject_alt_name, nullptr, nullptr)));
  ERR_clear_error();
  return names == nullptr ? std::vector<std::string>{} : certificate_internal::NamesOfType(names.get(), type);
}

}  // namespace

Result<Certificate> Certificate::FromDer(ByteView der) {
  if (der.size() > kMaxCertificateBytes) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     fmt::format("read certificate: {} bytes is longer than any certificate", der.size()));
  }
  const unsigned char* at = der.data();
  std::shared_ptr<X509> x509(d2i_X509(nullptr, &at, static_cast<long>(der.size())), X509_free);
  if (x509 == nullptr) return OpenSslError(Reason::kMalformed, "read certificate: not DER", "d2i_X509");
  if (at != der.data() + der.size()) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed, "read certificate: bytes after its end");
  }
  EVP_PKEY* key = X509_get0_pubkey(x509.get());
  if (key == nullptr) {
    return OpenSslError(Reason::kMalformed, "read certificate: its key is not usable", "X509_get0_pubkey");
  }
  SEALIFT_ASSIGN_OR_RETURN(PublicKey public_key, PublicKey::FromEvp(key));
  Certificate certificate(std::move(x509), ToBytes(der), std::move(public_key));
  SEALIFT_ASSIGN_OR_RETURN(certificate.not_before_, ToTime(X509_get0_notBefore(certificate.x509())));
  SEALIFT_ASSIGN_OR_RETURN(certificate.not_after_, ToTime(X509_get0_notAfter(certificate.x509())));
  // Fills OpenSSL's cache of extensions now, so that later readers on several threads only read.
  X509_check_purpose(certificate.x509(), -1, 0);
  ERR_clear_error();
  return certificate;
}

Result<std::vector<Certificate>> Certificate::ChainFromPem(std::string_view pem) {
  if (pem.size() > kMaxChainLength * 2 * kMaxCertificateBytes) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed, "read certificates: text is too long");
  }
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  std::vector<Certificate> chain;
  while (const X509Ptr x509{PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)}) {
    if (chain.size() == kMaxChainLength) {
      return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                       fmt::format("read certificates: more than {}", kMaxChainLength));
    }
    unsigned char* der = nullptr;
    const int size = i2d_X509(x509.get(), &der);
    if (size <= 0) return OpenSslError(Reason::kMalformed, "read certificates", "i2d_X509");
    const Bytes bytes(der, der + size);
    OPENSSL_free(der);
    SEALIFT_ASSIGN_OR_RETURN(Certificate certificate, FromDer(bytes));
    chain.push_back(std::move(certificate));
  }
  const bool clean_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (chain.empty() || !clean_end) {
    return OpenSslError(Reason::kMalformed, "read certificates: not PEM CERTIFICATE", "PEM_read_bio_X509");
  }
  ERR_clear_error();
  return chain;
}

Result<Certificate> Certificate::FromPem(std::string_view pem) {
  SEALIFT_ASSIGN_OR_RETURN(std::vector<Certificate> chain, ChainFromPem(pem));
  if (chain.size() != 1) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     fmt::format("read certificate: found {} where one is expected", chain.size()));
  }
  return std::move(chain.front());
}

std::string Certificate::Pem() const {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  SEALIFT_CHECK(PEM_write_bio_X509(bio.get(), x509()) == 1);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

Sha256Digest Certificate::fingerprint() const { return Sha256(der_); }

std::string Certificate::common_name() const {
  return certificate_internal::CommonName(X509_get_subject_name(x509()));
}
std::string Certificate::SubjectText() const { return NameText(X509_get_subject_name(x509())); }
std::string Certificate::IssuerText() const { return NameText(X509_get_issuer_name(x509())); }
std::vector<std::string> Certificate::uris() const { return SubjectNames(x509(), GEN_URI); }
std::vector<std::string> Certificate::dns_names() const { return SubjectNames(x509(), GEN_DNS); }

Bytes Certificate::serial() const {
  const ASN1_INTEGER* serial = X509_get0_serialNumber(x509());
  const unsigned char* data = ASN1_STRING_get0_data(serial);
  return {data, data + ASN1_STRING_length(serial)};
}

bool Certificate::is_ca() const { return X509_check_ca(x509()) == 1; }

// --- verification

namespace {

using X509StackPtr = CPtr<STACK_OF(X509), certificate_internal::FreeX509Stack>;

Status ChainError(const Certificate& leaf, std::string_view why) {
  return MakeError(Code::kUnauthenticated, Reason::kCertificateInvalid,
                   fmt::format("verify certificate '{}': {}", leaf.SubjectText(), why));
}

Status CheckPurpose(const Certificate& leaf, CertificatePurpose purpose) {
  if (purpose == CertificatePurpose::kAny) return OkStatus();
  const bool server = purpose == CertificatePurpose::kServer;
  const bool named = (X509_get_extension_flags(leaf.x509()) & EXFLAG_XKUSAGE) != 0;
  const std::uint32_t usage = X509_get_extended_key_usage(leaf.x509());
  if (named && (usage & (server ? XKU_SSL_SERVER : XKU_SSL_CLIENT)) != 0) return OkStatus();
  return ChainError(leaf, fmt::format("it is not for {} authentication", server ? "server" : "client"));
}

}  // namespace

Result<VerifiedChain> VerifyChain(const Certificate& leaf, const std::vector<Certificate>& intermediates,
                                  const std::vector<Certificate>& anchors, UnixMillis at,
                                  CertificatePurpose purpose) {
  SEALIFT_RETURN_IF_ERROR(CheckPurpose(leaf, purpose));
  const X509StorePtr store(X509_STORE_new());
  const X509StackPtr untrusted(sk_X509_new_null());
  const X509StoreCtxPtr context(X509_STORE_CTX_new());
  SEALIFT_CHECK(store != nullptr && untrusted != nullptr && context != nullptr);
  for (const Certificate& anchor : anchors) {
    SEALIFT_CHECK(X509_STORE_add_cert(store.get(), anchor.x509()) == 1);
  }
  for (const Certificate& intermediate : intermediates) {
    SEALIFT_CHECK(sk_X509_push(untrusted.get(), intermediate.x509()) > 0);
  }
  if (X509_STORE_CTX_init(context.get(), store.get(), leaf.x509(), untrusted.get()) != 1) {
    return OpenSslError(Reason::kCryptoFailed, "verify certificate", "X509_STORE_CTX_init");
  }
  X509_VERIFY_PARAM* parameters = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_time(parameters, static_cast<std::time_t>(ToUnixMs(at) / 1000));
  X509_VERIFY_PARAM_set_depth(parameters, static_cast<int>(kMaxChainLength));
  if (purpose != CertificatePurpose::kAny) {
    X509_STORE_CTX_set_purpose(context.get(), purpose == CertificatePurpose::kServer
                                                  ? X509_PURPOSE_SSL_SERVER
                                                  : X509_PURPOSE_SSL_CLIENT);
  }
  if (X509_verify_cert(context.get()) != 1) {
    ERR_clear_error();
    return ChainError(leaf, X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get())));
  }
  VerifiedChain verified;
  const STACK_OF(X509)* built = X509_STORE_CTX_get0_chain(context.get());
  for (int i = 0; i < sk_X509_num(built); ++i) {
    unsigned char* der = nullptr;
    const int size = i2d_X509(sk_X509_value(built, i), &der);
    SEALIFT_CHECK(size > 0);
    const Bytes bytes(der, der + size);
    OPENSSL_free(der);
    SEALIFT_ASSIGN_OR_RETURN(Certificate certificate, Certificate::FromDer(bytes));
    verified.chain.push_back(std::move(certificate));
  }
  return verified;
}

}  // namespace sealift
