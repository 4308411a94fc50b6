#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include <ctime>
#include <utility>

#include "shared/crypto/certificate.h"
#include "shared/crypto/certificate_internal.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/key_reference.h"

namespace sealift {
namespace {

using Asn1OctetStringPtr = CPtr<ASN1_OCTET_STRING, ASN1_OCTET_STRING_free>;
using Asn1IntegerPtr = CPtr<ASN1_INTEGER, ASN1_INTEGER_free>;
using Asn1BitStringPtr = CPtr<ASN1_BIT_STRING, ASN1_BIT_STRING_free>;
using BasicConstraintsPtr = CPtr<BASIC_CONSTRAINTS, BASIC_CONSTRAINTS_free>;
using ExtendedKeyUsagePtr = CPtr<EXTENDED_KEY_USAGE, EXTENDED_KEY_USAGE_free>;
using ExtensionStackPtr = CPtr<STACK_OF(X509_EXTENSION), certificate_internal::FreeExtensions>;

constexpr std::size_t kSerialBytes = 16;

Status SpecError(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("issue certificate: {}", what));
}

Status Failed(std::string_view call) {
  return OpenSslError(Reason::kCryptoFailed, "issue certificate", call);
}

Status SetCommonName(X509_NAME* name, std::string_view common_name) {
  if (common_name.empty() || common_name.size() > 64) {
    return SpecError(fmt::format("common name '{}' is not 1 to 64 bytes long", common_name));
  }
  if (X509_NAME_add_entry_by_NID(name, NID_commonName, MBSTRING_UTF8,
                                 reinterpret_cast<const unsigned char*>(common_name.data()),
                                 static_cast<int>(common_name.size()), -1, 0) != 1) {
    return Failed("X509_NAME_add_entry_by_NID");
  }
  return OkStatus();
}

// Takes over `value` only when the name was added.
bool PushName(GENERAL_NAMES* names, int type, void* value) {
  GENERAL_NAME* name = GENERAL_NAME_new();
  if (name == nullptr) return false;
  GENERAL_NAME_set0_value(name, type, value);
  if (sk_GENERAL_NAME_push(names, name) > 0) return true;
  GENERAL_NAME_free(name);
  return false;
}

Status AddTextNames(GENERAL_NAMES* names, int type, const std::vector<std::string>& texts) {
  for (const std::string& text : texts) {
    if (text.empty() || text.find_first_of(std::string_view("\0\n ", 3)) != std::string::npos) {
      return SpecError(fmt::format("'{}' is not a name", text));
    }
    ASN1_IA5STRING* value = ASN1_IA5STRING_new();
    SEALIFT_CHECK(value != nullptr &&
                  ASN1_STRING_set(value, text.data(), static_cast<int>(text.size())) == 1);
    SEALIFT_CHECK(PushName(names, type, value));
  }
  return OkStatus();
}

Result<GeneralNamesPtr> BuildNames(const CertificateSpec& spec) {
  GeneralNamesPtr names(GENERAL_NAMES_new());
  SEALIFT_CHECK(names != nullptr);
  SEALIFT_RETURN_IF_ERROR(AddTextNames(names.get(), GEN_URI, spec.uris));
  SEALIFT_RETURN_IF_ERROR(AddTextNames(names.get(), GEN_DNS, spec.dns_names));
  for (const std::string& text : spec.ip_addresses) {
    ASN1_OCTET_STRING* address = a2i_IPADDRESS(text.c_str());
    if (address == nullptr) {
      ERR_clear_error();
      return SpecError(fmt::format("'{}' is not an IP address", text));
    }
    SEALIFT_CHECK(PushName(names.get(), GEN_IPADD, address));
  }
  return names;
}

Status AddNames(X509* certificate, const CertificateSpec& spec) {
  SEALIFT_ASSIGN_OR_RETURN(const GeneralNamesPtr names, BuildNames(spec));
  if (sk_GENERAL_NAME_num(names.get()) == 0) return OkStatus();
  return X509_add1_ext_i2d(certificate, NID_subject_alt_name, names.get(), 0, 0) == 1
             ? OkStatus()
             : Failed("X509_add1_ext_i2d");
}

Status AddUsage(X509* certificate, const CertificateSpec& spec) {
  const BasicConstraintsPtr constraints(BASIC_CONSTRAINTS_new());
  const Asn1BitStringPtr usage(ASN1_BIT_STRING_new());
  const ExtendedKeyUsagePtr purposes(EXTENDED_KEY_USAGE_new());
  SEALIFT_CHECK(constraints != nullptr && usage != nullptr && purposes != nullptr);
  constraints->ca = spec.ca ? 0xff : 0;
  if (spec.ca && spec.path_length.has_value()) {
    constraints->pathlen = ASN1_INTEGER_new();
    SEALIFT_CHECK(ASN1_INTEGER_set(constraints->pathlen, *spec.path_length) == 1);
  }
  // RFC 5280 section 4.2.1.3: digitalSignature(0), keyCertSign(5), cRLSign(6).
  for (const int bit : spec.ca ? std::vector<int>{5, 6} : std::vector<int>{0}) {
    ASN1_BIT_STRING_set_bit(usage.get(), bit, 1);
  }
  const auto purpose = [&](bool wanted, int nid) {
    if (wanted) SEALIFT_CHECK(sk_ASN1_OBJECT_push(purposes.get(), OBJ_nid2obj(nid)) > 0);
  };
  purpose(spec.server_auth, NID_server_auth);
  purpose(spec.client_auth, NID_client_auth);
  purpose(spec.code_signing, NID_code_sign);
  const bool added = X509_add1_ext_i2d(certificate, NID_basic_constraints, constraints.get(), 1, 0) == 1 &&
                     X509_add1_ext_i2d(certificate, NID_key_usage, usage.get(), 1, 0) == 1 &&
                     (sk_ASN1_OBJECT_num(purposes.get()) == 0 ||
                      X509_add1_ext_i2d(certificate, NID_ext_key_usage, purposes.get(), 0, 0) == 1);
  return added ? OkStatus() : Failed("X509_add1_ext_i2d");
}

Status AddKeyIdentifiers(X509* certificate, X509* issuer) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const X509ExtensionPtr subject(X509V3_EXT_conf_nid(nullptr, &context, NID_subject_key_identifier, "hash"));
  if (subject == nullptr || X509_add_ext(certificate, subject.get(), -1) != 1) {
    return Failed("X509V3_EXT_conf_nid");
  }
  if (issuer == certificate) return OkStatus();  // its own subject key identifier says it
  const X509ExtensionPtr authority(
      X509V3_EXT_conf_nid(nullptr, &context, NID_authority_key_identifier, "keyid:always"));
  if (authority == nullptr || X509_add_ext(certificate, authority.get(), -1) != 1) {
    return Failed("X509V3_EXT_conf_nid");
  }
  return OkStatus();
}

Status SetSerial(X509* certificate) {
  Bytes bytes = RandomBytes(kSerialBytes);
  // Positive, and of full length.
  bytes.front() = static_cast<std::uint8_t>((bytes.front() & 0x7f) | 0x40);
  const BigNumPtr number(BN_bin2bn(bytes.data(), static_cast<int>(bytes.size()), nullptr));
  const Asn1IntegerPtr serial(BN_to_ASN1_INTEGER(number.get(), nullptr));
  return serial != nullptr && X509_set_serialNumber(certificate, serial.get()) == 1
             ? OkStatus()
             : Failed("X509_set_serialNumber");
}

Status SetValidity(X509* certificate, const CertificateSpec& spec) {
  if (spec.not_after <= spec.not_before) return SpecError("it ends before it begins");
  const auto seconds = [](UnixMillis time) { return static_cast<std::time_t>(ToUnixMs(time) / 1000); };
  const bool set = ASN1_TIME_set(X509_getm_notBefore(certificate), seconds(spec.not_before)) != nullptr &&
                   ASN1_TIME_set(X509_getm_notAfter(certificate), seconds(spec.not_after)) != nullptr;
  return set ? OkStatus() : Failed("ASN1_TIME_set");
}

// `issuer` null: self-signed.
Result<X509Ptr> BuildCertificate(const CertificateSpec& spec, const PublicKey& subject_key, X509* issuer) {
  X509Ptr certificate(X509_new());
  SEALIFT_CHECK(certificate != nullptr && X509_set_version(certificate.get(), X509_VERSION_3) == 1);
  SEALIFT_RETURN_IF_ERROR(SetSerial(certificate.get()));
  SEALIFT_RETURN_IF_ERROR(SetValidity(certificate.get(), spec));
  SEALIFT_RETURN_IF_ERROR(SetCommonName(X509_get_subject_name(certificate.get()), spec.common_name));
  X509* signer = issuer == nullptr ? certificate.get() : issuer;
  if (X509_set_issuer_name(certificate.get(), X509_get_subject_name(signer)) != 1 ||
      X509_set_pubkey(certificate.get(), subject_key.evp()) != 1) {
    return Failed("X509_set_pubkey");
  }
  SEALIFT_RETURN_IF_ERROR(AddUsage(certificate.get(), spec));
  SEALIFT_RETURN_IF_ERROR(AddNames(certificate.get(), spec));
  SEALIFT_RETURN_IF_ERROR(AddKeyIdentifiers(certificate.get(), signer));
  return certificate;
}

const EVP_MD* HashFor(const PublicKey& key) {
  return key.type() == KeyType::kEcP384 ? EVP_sha384() : EVP_sha256();
}

Result<Certificate> SignCertificate(X509* certificate, const std::shared_ptr<Signer>& signer,
                                    std::string intent) {
  SEALIFT_ASSIGN_OR_RETURN(const EvpPkeyPtr key, WrapSigner(signer, std::move(intent)));
  if (X509_sign(certificate, key.get(), HashFor(signer->public_key())) <= 0) return Failed("X509_sign");
  unsigned char* der = nullptr;
  const int size = i2d_X509(certificate, &der);
  if (size <= 0) return Failed("i2d_X509");
  const Bytes bytes(der, der + size);
  OPENSSL_free(der);
  SEALIFT_ASSIGN_OR_RETURN(Certificate parsed, Certificate::FromDer(bytes));
  if (X509_verify(parsed.x509(), signer->public_key().evp()) != 1) return Failed("X509_verify");
  return parsed;
}

}  // namespace

Result<Certificate> IssueCertificate(const CertificateSpec& spec, const PublicKey& subject_key,
                                     const std::shared_ptr<Signer>& issuer,
                                     const Certificate& issuer_certificate, std::string intent) {
  if (!(issuer->public_key() == issuer_certificate.public_key()) || !issuer_certificate.is_ca()) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     fmt::format("issue certificate '{}': '{}' is not a CA certificate of the signing key",
                                 spec.common_name, issuer_certificate.SubjectText()));
  }
  SEALIFT_ASSIGN_OR_RETURN(const X509Ptr certificate,
                           BuildCertificate(spec, subject_key, issuer_certificate.x509()));
  return SignCertificate(certificate.get(), issuer, std::move(intent));
}

Result<Certificate> IssueSelfSigned(const CertificateSpec& spec, const std::shared_ptr<Signer>& signer,
                                    std::string intent) {
  SEALIFT_ASSIGN_OR_RETURN(const PublicKey key, PublicKey::FromDer(signer->public_key().spki_der()));
  SEALIFT_ASSIGN_OR_RETURN(const X509Ptr certificate, BuildCertificate(spec, key, nullptr));
  return SignCertificate(certificate.get(), signer, std::move(intent));
}

// --- requests

Result<Bytes> CreateCertificateRequest(std::string_view common_name, const std::vector<std::string>& uris,
                                       const std::shared_ptr<Signer>& signer, std::string intent) {
  SEALIFT_ASSIGN_OR_RETURN(const PublicKey public_key, PublicKey::FromDer(signer->public_key().spki_der()));
  SEALIFT_ASSIGN_OR_RETURN(const EvpPkeyPtr key, WrapSigner(signer, std::move(intent)));
  const X509ReqPtr request(X509_REQ_new());
  SEALIFT_CHECK(request != nullptr && X509_REQ_set_version(request.get(), X509_REQ_VERSION_1) == 1);
  SEALIFT_RETURN_IF_ERROR(SetCommonName(X509_REQ_get_subject_name(request.get()), common_name));
  if (X509_REQ_set_pubkey(request.get(), public_key.evp()) != 1) return Failed("X509_REQ_set_pubkey");
  SEALIFT_ASSIGN_OR_RETURN(const GeneralNamesPtr names, BuildNames(CertificateSpec{.uris = uris}));
  if (!uris.empty()) {
    STACK_OF(X509_EXTENSION)* raw = nullptr;
    const bool made = X509V3_add1_i2d(&raw, NID_subject_alt_name, names.get(), 0, X509V3_ADD_DEFAULT) == 1;
    const ExtensionStackPtr extensions(raw);
    if (!made || X509_REQ_add_extensions(request.get(), raw) != 1) return Failed("X509_REQ_add_extensions");
  }
  if (X509_REQ_sign(request.get(), key.get(), HashFor(public_key)) <= 0) return Failed("X509_REQ_sign");
  unsigned char* der = nullptr;
  const int size = i2d_X509_REQ(request.get(), &der);
  if (size <= 0) return Failed("i2d_X509_REQ");
  Bytes bytes(der, der + size);
  OPENSSL_free(der);
  return bytes;
}

Result<CertificateRequest> CertificateRequest::FromRequest(X509_REQ* request) {
  EVP_PKEY* key = X509_REQ_get0_pubkey(request);
  if (key == nullptr) {
    return OpenSslError(Reason::kMalformed, "read certificate request: its key is not usable",
                        "X509_REQ_get0_pubkey");
  }
  SEALIFT_ASSIGN_OR_RETURN(PublicKey public_key, PublicKey::FromEvp(key));
  if (X509_REQ_verify(request, key) != 1) {
    ERR_clear_error();
    return MakeError(Code::kUnauthenticated, Reason::kSignatureInvalid,
                     "read certificate request: its signature is not by its own key");
  }
  CertificateRequest parsed(std::move(public_key));
  parsed.common_name_ = certificate_internal::CommonName(X509_REQ_get_subject_name(request));
  const ExtensionStackPtr extensions(X509_REQ_get_extensions(request));
  const GeneralNamesPtr names(
      static_cast<GENERAL_NAMES*>(X509V3_get_d2i(extensions.get(), NID_subject_alt_name, nullptr, nullptr)));
  ERR_clear_error();
  if (names != nullptr) parsed.uris_ = certificate_internal::NamesOfType(names.get(), GEN_URI);
  return parsed;
}

Result<CertificateRequest> CertificateRequest::FromDer(ByteView der) {
  const unsigned char* at = der.data();
  const X509ReqPtr request(der.size() > kMaxCertificateBytes
                               ? nullptr
                               : d2i_X509_REQ(nullptr, &at, static_cast<long>(der.size())));
  if (request == nullptr || at != der.data() + der.size()) {
    return OpenSslError(Reason::kMalformed, "read certificate request: not DER", "d2i_X509_REQ");
  }
  return FromRequest(request.get());
}

Result<CertificateRequest> CertificateRequest::FromPem(std::string_view pem) {
  const BioPtr bio(
      BIO_new_mem_buf(pem.data(), static_cast<int>(std::min(pem.size(), 2 * kMaxCertificateBytes))));
  const X509ReqPtr request(PEM_read_bio_X509_REQ(bio.get(), nullptr, nullptr, nullptr));
  if (request == nullptr) {
    return OpenSslError(Reason::kMalformed, "read certificate request: not PEM", "PEM_read_bio_X509_REQ");
  }
  return FromRequest(request.get());
}

}  // namespace sealift
