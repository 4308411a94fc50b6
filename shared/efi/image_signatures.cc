#include "shared/efi/image_signatures.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pkcs7.h>

#include <algorithm>
#include <array>

#include "shared/crypto/openssl.h"
#include "shared/efi/signed_data.h"
#include "shared/efi/win_certificate.h"

namespace sealift::efi {
namespace {

constexpr std::uint8_t kSequence = 0x30;
constexpr int kMaxCertificates = 32;

void FreeStack(STACK_OF(X509) * stack) { sk_X509_free(stack); }
// The certificates in it belong to the signature.
using CertificateStack = CPtr<STACK_OF(X509), FreeStack>;

Bytes DerOf(X509* certificate) {
  Bytes der;
  const int size = i2d_X509(certificate, nullptr);
  if (size <= 0) return der;
  der.resize(static_cast<std::size_t>(size));
  unsigned char* cursor = der.data();
  i2d_X509(certificate, &cursor);
  return der;
}

// What PKCS7_verify does without a chain; that function itself loses memory where a digest is unknown.
bool SignaturesFit(PKCS7* pkcs7, STACK_OF(X509) * signers, ByteView content) {
  BioPtr covered(BIO_new_mem_buf(content.data(), static_cast<int>(content.size())));
  const BioPtr digests(covered == nullptr ? nullptr : PKCS7_dataInit(pkcs7, covered.get()));
  if (digests == nullptr) return false;
  static_cast<void>(covered.release());  // The chain ends with it.
  std::array<unsigned char, 4096> buffer{};
  while (BIO_read(digests.get(), buffer.data(), static_cast<int>(buffer.size())) > 0) continue;
  STACK_OF(PKCS7_SIGNER_INFO)* infos = PKCS7_get_signer_info(pkcs7);
  if (infos == nullptr || sk_PKCS7_SIGNER_INFO_num(infos) != sk_X509_num(signers)) return false;
  for (int i = 0; i < sk_X509_num(signers); ++i) {
    if (PKCS7_signatureVerify(digests.get(), pkcs7, sk_PKCS7_SIGNER_INFO_value(infos, i),
                              sk_X509_value(signers, i)) != 1)
      return false;
  }
  return true;
}

// Who signed, and whether the signatures fit; OpenSSL does the work for every algorithm it knows.
void CheckSignature(ByteView blob, ImageSignature& signature) {
  const Result<SignedData> data = SignedData::Parse(blob);
  if (!data.ok()) {
    signature.problem = MessageOf(data.status());
    return;
  }
  const unsigned char* cursor = blob.data();
  const Pkcs7Ptr pkcs7(d2i_PKCS7(nullptr, &cursor, static_cast<long>(blob.size())));
  ByteView content = data->content();
  ByteView value;
  if (pkcs7 == nullptr || !DerTake(content, kSequence, value).ok() ||
      sk_PKCS7_SIGNER_INFO_num(PKCS7_get_signer_info(pkcs7.get())) > kMaxCertificates ||
      sk_X509_num(pkcs7->d.sign->cert) > kMaxCertificates) {
    ERR_clear_error();
    signature.problem = "it is no signature that can be checked";
    return;
  }
  const CertificateStack signers(PKCS7_get0_signers(pkcs7.get(), nullptr, 0));
  for (int i = 0; i < sk_X509_num(signers.get()); ++i)
    signature.signers.push_back(DerOf(sk_X509_value(signers.get(), i)));
  signature.signature_ok = !signature.signers.empty() && SignaturesFit(pkcs7.get(), signers.get(), value);
  if (!signature.signature_ok) signature.problem = "the signature does not fit its certificate and content";
  ERR_clear_error();
}

}  // namespace

Result<std::vector<ImageSignature>> ReadImageSignatures(ByteView table, const ImageDigests& digests) {
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<ByteView> entries, ImageCertificates(table));
  std::vector<ImageSignature> signatures;
  for (const ByteView entry : entries) {
    ImageSignature& signature = signatures.emplace_back();
    const Result<WinCertificate> certificate = ParseWinCertificate(entry);
    if (!certificate.ok()) {
      signature.problem = MessageOf(certificate.status());
      continue;
    }
    signature.digest_algorithm = certificate->digest_algorithm;
    signature.digest = certificate->digest;
    signature.certificates = certificate->certificates;
    CheckSignature(entry.subspan(kWinCertificateHeaderBytes), signature);
    const auto own = digests.find(signature.digest_algorithm);
    signature.digest_ok = own != digests.end() && std::find(own->second.begin(), own->second.end(),
                                                            signature.digest) != own->second.end();
    if (!signature.digest_ok && signature.problem.empty()) signature.problem = "it is of other bytes";
  }
  return signatures;
}

}  // namespace sealift::efi
