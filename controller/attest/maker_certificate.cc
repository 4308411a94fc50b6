#include "controller/attest/maker_certificate.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "shared/base/files.h"
#include "shared/crypto/hash.h"

namespace sealift::controller {
namespace {

using EkuPtr = CPtr<EXTENDED_KEY_USAGE, EXTENDED_KEY_USAGE_free>;
using GeneralNamesPtr = CPtr<GENERAL_NAMES, GENERAL_NAMES_free>;

constexpr int kWeakRsaBits = 2048;

Status Malformed(std::string_view cause) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed, fmt::format("read certificate: {}", cause));
}

std::string OidText(const ASN1_OBJECT* object) {
  std::array<char, 80> text{};
  OBJ_obj2txt(text.data(), text.size(), object, 1);
  return text.data();
}

std::string NameText(const X509_NAME* name) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

bool ReadTime(const ASN1_TIME* time, UnixMillis& out) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return false;
  out = UnixMillis(std::chrono::seconds(timegm(&parts)));
  std::time_t any = 0;
  // 0 where the form is not that of RFC 5280.
  return X509_cmp_time(time, &any) != 0;
}

// Some makers name the key of an EK by what it is used with, id-RSAES-OAEP, which OpenSSL does not read.
EvpPkeyPtr OaepKey(const X509* x509) {
  ASN1_OBJECT* algorithm = nullptr;
  const unsigned char* bits = nullptr;
  int size = 0;
  if (X509_PUBKEY_get0_param(&algorithm, &bits, &size, nullptr, X509_get_X509_PUBKEY(x509)) != 1 ||
      OBJ_obj2nid(algorithm) != NID_rsaesOaep || size <= 0) {
    return nullptr;
  }
  return EvpPkeyPtr(d2i_PublicKey(EVP_PKEY_RSA, nullptr, &bits, size));
}

std::shared_ptr<EVP_PKEY> KeyOf(const X509* x509) {
  EvpPkeyPtr key;
  if (EVP_PKEY* known = X509_get0_pubkey(x509); known != nullptr) {
    EVP_PKEY_up_ref(known);
    key.reset(known);
  } else {
    key = OaepKey(x509);
  }
  ERR_clear_error();
  return {key.release(), EVP_PKEY_free};
}

std::string Utf8(const ASN1_STRING* text) {
  unsigned char* utf8 = nullptr;
  const int size = ASN1_STRING_to_UTF8(&utf8, text);
  if (size < 0) {
    ERR_clear_error();
    return {};
  }
  std::string out(reinterpret_cast<const char*>(utf8), static_cast<std::size_t>(size));
  OPENSSL_free(utf8);
  return out;
}

void ReadModel(const X509_NAME* name, TpmModel& model) {
  for (int i = 0; i < X509_NAME_entry_count(name); ++i) {
    const X509_NAME_ENTRY* entry = X509_NAME_get_entry(name, i);
    const std::string oid = OidText(X509_NAME_ENTRY_get_object(entry));
    const std::string value = Utf8(X509_NAME_ENTRY_get_data(entry));
    std::string* const at = oid == "2.23.133.2.1"   ? &model.manufacturer
                            : oid == "2.23.133.2.2" ? &model.model
                            : oid == "2.23.133.2.3" ? &model.version
                                                    : nullptr;
    if (at != nullptr && at->empty()) *at = value;
  }
}

Result<std::vector<MakerCertificate>> FromPem(std::string_view pem) {
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  std::vector<MakerCertificate> found;
  while (true) {
    char* name = nullptr;
    char* header = nullptr;
    unsigned char* data = nullptr;
    long size = 0;
    if (PEM_read_bio(bio.get(), &name, &header, &data, &size) != 1) break;
    const CPtr<char, [](char*p) { OPENSSL_free(p); }> name_owner(name), header_owner(header);
    const CPtr<unsigned char, [](unsigned char* p) { OPENSSL_free(p); }> data_owner(data);
    const std::string_view kind(name);
    if (kind != PEM_STRING_X509 && kind != PEM_STRING_X509_OLD && kind != PEM_STRING_X509_TRUSTED) continue;
    if (found.size() == kMaxMakerCertificates) return Malformed("too many in one file");
    SEALIFT_ASSIGN_OR_RETURN(MakerCertificate one,
                             MakerCertificate::FromDer(ByteView(data, static_cast<std::size_t>(size))));
    found.push_back(std::move(one));
  }
  const bool clean_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  ERR_clear_error();
  if (found.empty() || !clean_end) return Malformed("not PEM CERTIFICATE");
  return found;
}

Result<std::vector<MakerCertificate>> FromBytes(ByteView bytes) {
  const std::string_view text = AsText(bytes);
  if (text.find("-----BEGIN") != std::string_view::npos) return FromPem(text);
  SEALIFT_ASSIGN_OR_RETURN(MakerCertificate one, MakerCertificate::FromDer(bytes));
  return std::vector<MakerCertificate>{std::move(one)};
}

Result<std::vector<std::filesystem::path>> FilesOf(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) return std::vector<std::filesystem::path>{path};
  std::vector<std::filesystem::path> files;
  for (std::filesystem::directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
    const std::string extension = at->path().extension().string();
    if (extension == ".pem" || extension == ".crt" || extension == ".cer" || extension == ".der") {
      files.push_back(at->path());
    }
  }
  if (error) {
    return MakeError(Code::kNotFound, Reason::kFileUnreadable,
                     fmt::format("read TPM makers' CAs in '{}': {}", path.string(), error.message()));
  }
  std::ranges::sort(files);
  return files;
}

}  // namespace

Result<MakerCertificate> MakerCertificate::FromDer(ByteView der) {
  const unsigned char* at = der.data();
  const std::size_t bounded = std::min(der.size(), kMaxCertificateBytes);
  MakerCertificate made;
  made.x509_ = std::shared_ptr<X509>(d2i_X509(nullptr, &at, static_cast<long>(bounded)), X509_free);
  if (made.x509_ == nullptr) return OpenSslError(Reason::kMalformed, "read certificate: not DER", "d2i_X509");
  const auto size = static_cast<std::size_t>(at - der.data());
  const ByteView rest = der.subspan(size);
  if (!rest.empty() && (rest.size() > kMaxCertificateBytes || (rest.front() != 0 && rest.front() != 0xFF) ||
                        std::ranges::any_of(rest, [&](std::uint8_t b) { return b != rest.front(); }))) {
    return Malformed("bytes after its end");
  }
  made.der_ = ToBytes(der.first(size));
  made.padding_ = rest.size();
  made.fingerprint_ = Sha256(made.der_);
  const bool begins = ReadTime(X509_get0_notBefore(made.x509()), made.not_before_);
  made.well_timed_ = ReadTime(X509_get0_notAfter(made.x509()), made.not_after_) && begins;
  made.key_ = KeyOf(made.x509());
  // Fills OpenSSL's cache of extensions now, so that later readers on several threads only read.
  X509_check_purpose(made.x509(), -1, 0);
  ERR_clear_error();
  return made;
}

Result<MakerCertificate> MakerCertificate::FromFile(ByteView file) {
  SEALIFT_ASSIGN_OR_RETURN(std::vector<MakerCertificate> found, FromBytes(file));
  if (found.size() != 1) return Malformed(fmt::format("found {} where one is expected", found.size()));
  return std::move(found.front());
}

MakerCertificate::MakerCertificate(const Certificate& certificate)
    : MakerCertificate(FromDer(certificate.der()).value()) {}

std::string MakerCertificate::SerialText() const {
  const BigNumPtr number(ASN1_INTEGER_to_BN(X509_get0_serialNumber(x509()), nullptr));
  if (number == nullptr) {
    ERR_clear_error();
    return {};
  }
  Bytes bytes(static_cast<std::size_t>(BN_num_bytes(number.get())));
  BN_bn2bin(number.get(), bytes.data());
  std::string hex = HexEncode(bytes);
  hex.erase(0, hex.find_first_not_of('0'));
  if (hex.empty()) return "0";
  return BN_is_negative(number.get()) != 0 ? "-" + hex : hex;
}

std::string MakerCertificate::SubjectText() const { return NameText(X509_get_subject_name(x509())); }
std::string MakerCertificate::IssuerText() const { return NameText(X509_get_issuer_name(x509())); }

bool MakerCertificate::is_ca() const {
  constexpr std::uint32_t kBoth = EXFLAG_BCONS | EXFLAG_CA;
  return (X509_get_extension_flags(x509()) & kBoth) == kBoth;
}

bool MakerCertificate::MayIssue() const {
  return is_ca() && (X509_get_extension_flags(x509()) & EXFLAG_INVALID) == 0 &&
         (X509_get_key_usage(x509()) & KU_KEY_CERT_SIGN) != 0;
}

std::vector<std::string> MakerCertificate::purposes() const {
  const EkuPtr purposes(
      static_cast<EXTENDED_KEY_USAGE*>(X509_get_ext_d2i(x509(), NID_ext_key_usage, nullptr, nullptr)));
  std::vector<std::string> found;
  for (int i = 0; i < sk_ASN1_OBJECT_num(purposes.get()); ++i) {
    found.push_back(OidText(sk_ASN1_OBJECT_value(purposes.get(), i)));
  }
  ERR_clear_error();
  return found;
}

TpmModel MakerCertificate::Model() const {
  TpmModel model;
  const GeneralNamesPtr names(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(x509(), NID_subject_alt_name, nullptr, nullptr)));
  ERR_clear_error();
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    int type = 0;
    const void* value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type);
    if (type == GEN_DIRNAME) ReadModel(static_cast<const X509_NAME*>(value), model);
  }
  ReadModel(X509_get_subject_name(x509()), model);
  return model;
}

std::string MakerCertificate::KeyTypeName() const {
  if (key() == nullptr) return "unknown";
  if (EVP_PKEY_is_a(key(), "RSA") == 1 || EVP_PKEY_is_a(key(), "RSA-PSS") == 1) return "rsa";
  if (EVP_PKEY_is_a(key(), "EC") == 1) return "ec";
  const char* const name = EVP_PKEY_get0_type_name(key());
  return name == nullptr ? "unknown" : name;
}

int MakerCertificate::key_bits() const { return key() == nullptr ? 0 : EVP_PKEY_get_bits(key()); }

bool MakerCertificate::weak() const {
  int hash = NID_undef;
  X509_get_signature_info(x509(), &hash, nullptr, nullptr, nullptr);
  ERR_clear_error();
  return hash == NID_sha1 || (KeyTypeName() == "rsa" && key_bits() < kWeakRsaBits);
}

Result<std::vector<MakerCertificate>> LoadMakerCertificates(const std::filesystem::path& path) {
  SEALIFT_ASSIGN_OR_RETURN(const auto files, FilesOf(path));
  std::vector<MakerCertificate> all;
  std::size_t budget = kMaxMakerBytes;
  for (const auto& file : files) {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(file, kMaxMakerBytes));
    auto found = FromBytes(bytes);
    if (!found.ok()) {
      return Annotate(found.status(), fmt::format("read TPM maker's CA '{}'", file.string()));
    }
    if (bytes.size() > budget || all.size() + found->size() > kMaxMakerCertificates) {
      return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                       fmt::format("read TPM makers' CAs in '{}': more than {} certificates or {} bytes",
                                   path.string(), kMaxMakerCertificates, kMaxMakerBytes));
    }
    budget -= bytes.size();
    all.insert(all.end(), found->begin(), found->end());
  }
  return all;
}

}  // namespace sealift::controller
