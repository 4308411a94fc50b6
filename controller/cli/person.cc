#include "controller/cli/person.h"

#include <openssl/evp.h>
#include <openssl/pem.h>

#include "hsm/key_ring.h"
#include "shared/base/files.h"
#include "shared/base/secret.h"
#include "shared/crypto/certificate.h"
#include "shared/crypto/key_reference.h"
#include "shared/order/change_request.h"
#include "shared/wire/channel.h"

namespace sealift::cli {
namespace {

constexpr std::size_t kMaxKeyBytes = 64u << 10;

Result<EvpPkeyPtr> LoadKey(const std::filesystem::path& file) {
  SEALIFT_RETURN_IF_ERROR(CheckSecretFile(file));
  SEALIFT_ASSIGN_OR_RETURN(std::string pem, ReadTextFile(file, kMaxKeyBytes));
  auto key = LoadKeyPem(pem, "read your private key");
  WipeMemory(pem.data(), pem.size());
  return key;
}

}  // namespace

Result<Person> Person::Load(const std::string& profile_path) {
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  hsm::RegisterPkcs11Resolver();
  SEALIFT_ASSIGN_OR_RETURN(const wire::Profile profile,
                           wire::LoadProfile(profile_path.empty() ? wire::DefaultProfilePath()
                                                                  : std::filesystem::path(profile_path)));
  SEALIFT_ASSIGN_OR_RETURN(const std::string pem, ReadTextFile(profile.certificate, kMaxCertificateBytes));
  SEALIFT_ASSIGN_OR_RETURN(const auto chain, Certificate::ChainFromPem(pem));
  const auto uris = chain.front().uris();
  SEALIFT_ASSIGN_OR_RETURN(const order::Person person,
                           order::ParsePersonUri(uris.empty() ? "" : uris.front()));
  SEALIFT_ASSIGN_OR_RETURN(EvpPkeyPtr key, LoadKey(profile.key));
  return Person(person.name, std::move(key));
}

Result<Bytes> Person::Sign(const std::string& text) const {
  const EvpMdCtxPtr context(EVP_MD_CTX_new());
  std::size_t size = 0;
  const auto* data = reinterpret_cast<const unsigned char*>(text.data());
  if (context == nullptr ||
      EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, key_.get()) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &size, data, text.size()) != 1) {
    return OpenSslError(Reason::kCryptoFailed, "sign request", "EVP_DigestSign");
  }
  Bytes signature(size);
  if (EVP_DigestSign(context.get(), signature.data(), &size, data, text.size()) != 1)
    return OpenSslError(Reason::kCryptoFailed, "sign request", "EVP_DigestSign");
  signature.resize(size);
  return signature;
}

}  // namespace sealift::cli
