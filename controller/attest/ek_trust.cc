#include "controller/attest/ek_trust.h"

#include <fmt/format.h>
#include <openssl/err.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "shared/base/files.h"
#include "shared/tpm/key_policy.h"

namespace sealift::controller {
namespace {

constexpr std::uint64_t kMaxCaFileBytes = 1u << 20;
constexpr std::string_view kEkPurpose = "2.23.133.8.1";

void FreeStack(STACK_OF(X509) * stack) { sk_X509_free(stack); }
using X509StackPtr = CPtr<STACK_OF(X509), FreeStack>;
using EkuPtr = CPtr<EXTENDED_KEY_USAGE, EXTENDED_KEY_USAGE_free>;

std::string OidText(const ASN1_OBJECT* object) {
  std::array<char, 80> text{};
  OBJ_obj2txt(text.data(), text.size(), object, 1);
  return text.data();
}

// Critical extensions of EK certificates that OpenSSL does not process, and that say nothing about whether
// the chain holds: subject directory attributes (the TPM's specification) and the TCG's own.
bool Harmless(const std::string& oid) { return oid == "2.5.29.9" || oid.starts_with("2.23.133."); }

int AllowTcgExtensions(int ok, X509_STORE_CTX* context) {
  if (ok == 1 || X509_STORE_CTX_get_error(context) != X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION ||
      X509_STORE_CTX_get_error_depth(context) != 0) {
    return ok;
  }
  const X509* leaf = X509_STORE_CTX_get_current_cert(context);
  for (int i = 0; i < X509_get_ext_count(leaf); ++i) {
    X509_EXTENSION* extension = X509_get_ext(leaf, i);
    if (X509_EXTENSION_get_critical(extension) == 0 || X509_supported_extension(extension) != 0) continue;
    if (!Harmless(OidText(X509_EXTENSION_get_object(extension)))) return 0;
  }
  X509_STORE_CTX_set_error(context, X509_V_OK);
  return 1;
}

Status Refuse(std::string_view cause) {
  return MakeError(Code::kUnauthenticated, Reason::kEkCertificateInvalid,
                   fmt::format("verify EK certificate: {}", cause));
}

Status CheckLeaf(const Certificate& leaf) {
  if (leaf.is_ca()) return Refuse("it is that of a CA");
  const EkuPtr purposes(
      static_cast<EXTENDED_KEY_USAGE*>(X509_get_ext_d2i(leaf.x509(), NID_ext_key_usage, nullptr, nullptr)));
  if (purposes == nullptr) return OkStatus();
  for (int i = 0; i < sk_ASN1_OBJECT_num(purposes.get()); ++i) {
    if (OidText(sk_ASN1_OBJECT_value(purposes.get(), i)) == kEkPurpose) return OkStatus();
  }
  return Refuse("it is meant for something else than an endorsement key");
}

Status CheckChain(const Certificate& leaf, const std::vector<Certificate>& helpers, const TpmMakers& makers,
                  UnixMillis now) {
  const X509StorePtr store(X509_STORE_new());
  const X509StackPtr untrusted(sk_X509_new_null());
  const X509StoreCtxPtr context(X509_STORE_CTX_new());
  SEALIFT_CHECK(store != nullptr && untrusted != nullptr && context != nullptr);
  for (const Certificate& anchor : makers.anchors) {
    SEALIFT_CHECK(X509_STORE_add_cert(store.get(), anchor.x509()) == 1);
  }
  for (const Certificate& helper : helpers) SEALIFT_CHECK(sk_X509_push(untrusted.get(), helper.x509()) > 0);
  if (X509_STORE_CTX_init(context.get(), store.get(), leaf.x509(), untrusted.get()) != 1) {
    return OpenSslError(Reason::kCryptoFailed, "verify EK certificate", "X509_STORE_CTX_init");
  }
  X509_VERIFY_PARAM* parameters = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_time(parameters, static_cast<std::time_t>(ToUnixMs(now) / 1000));
  X509_VERIFY_PARAM_set_depth(parameters, static_cast<int>(kMaxChainLength));
  X509_VERIFY_PARAM_set_flags(parameters, X509_V_FLAG_PARTIAL_CHAIN);
  X509_STORE_CTX_set_verify_cb(context.get(), AllowTcgExtensions);
  if (X509_verify_cert(context.get()) == 1) return OkStatus();
  ERR_clear_error();
  return Refuse(fmt::format("{} (issued by {})",
                            X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get())),
                            leaf.IssuerText()));
}

Result<std::vector<Certificate>> ParseCaFile(ByteView bytes) {
  const std::string_view text = AsText(bytes);
  if (text.find("-----BEGIN") != std::string_view::npos) return Certificate::ChainFromPem(text);
  SEALIFT_ASSIGN_OR_RETURN(Certificate one, Certificate::FromDer(bytes));
  return std::vector<Certificate>{std::move(one)};
}

}  // namespace

Result<TpmMakers> LoadTpmMakers(const std::filesystem::path& folder) {
  std::error_code error;
  std::vector<std::filesystem::path> files;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string extension = at->path().extension().string();
    if (extension == ".pem" || extension == ".crt" || extension == ".cer" || extension == ".der") {
      files.push_back(at->path());
    }
  }
  if (error) {
    return MakeError(Code::kNotFound, Reason::kFileUnreadable,
                     fmt::format("read TPM makers' CAs in '{}': {}", folder.string(), error.message()));
  }
  std::ranges::sort(files);
  TpmMakers makers;
  for (const auto& file : files) {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(file, kMaxCaFileBytes));
    auto certificates = ParseCaFile(bytes);
    if (!certificates.ok()) {
      return Annotate(certificates.status(), fmt::format("read TPM maker's CA '{}'", file.string()));
    }
    makers.anchors.insert(makers.anchors.end(), certificates->begin(), certificates->end());
  }
  return makers;
}

Result<EndorsementIdentity> IdentifyEndorsementKey(ByteView ek_public, std::span<const Bytes> chain,
                                                   const TpmMakers& makers, UnixMillis now) {
  SEALIFT_ASSIGN_OR_RETURN(tpm::PublicArea key, tpm::ParsePublic(ek_public));
  SEALIFT_RETURN_IF_ERROR(tpm::CheckEndorsementKey(key));
  const Sha256Digest ek_digest = key.key.key_id();
  EndorsementIdentity identity{
      .key = std::move(key), .ek_digest = ek_digest, .certified = false, .issuer = ""};
  if (chain.empty()) return identity;
  if (chain.size() > kMaxChainLength) return Refuse("its chain is too long");
  std::vector<Certificate> certificates;
  for (const Bytes& der : chain) {
    auto certificate = Certificate::FromDer(der);
    if (!certificate.ok()) return Refuse(MessageOf(certificate.status()));
    certificates.push_back(*std::move(certificate));
  }
  const Certificate leaf = certificates.front();
  if (!(leaf.public_key() == identity.key.key)) {
    return MakeError(Code::kInvalidArgument, Reason::kEkCertificateMismatch,
                     "verify EK certificate: it is that of another key");
  }
  // Without makers to trust a certificate says no more than its key: only a listing admits it.
  if (makers.anchors.empty()) return identity;
  SEALIFT_RETURN_IF_ERROR(CheckLeaf(leaf));
  certificates.erase(certificates.begin());
  SEALIFT_RETURN_IF_ERROR(CheckChain(leaf, certificates, makers, now));
  identity.certified = true;
  identity.issuer = leaf.IssuerText();
  return identity;
}

}  // namespace sealift::controller
