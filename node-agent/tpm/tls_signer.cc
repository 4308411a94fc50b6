#include "node-agent/tpm/tls_signer.h"

#include <fmt/format.h>

#include "shared/crypto/key_reference.h"
#include "shared/tpm/structures.h"

namespace sealift::agent {
namespace {

class TlsSigner final : public Signer {
 public:
  TlsSigner(std::shared_ptr<Tpm> tpm, PublicKey key) : tpm_(std::move(tpm)), key_(std::move(key)) {}

  const PublicKey& public_key() const override { return key_; }

  Result<Bytes> Sign(const SigningRequest& request) override {
    const auto digest = Sha256Digest::FromBytes(request.digest);
    if (request.scheme != SignatureScheme::kEcdsaSha256 || !digest.ok()) {
      return MakeError(
          Code::kInvalidArgument, Reason::kInvalidArgument,
          fmt::format("sign {}: the TPM's TLS key signs ECDSA with SHA-256 only", request.intent));
    }
    auto signature = tpm_->SignWithTlsKey(*digest);
    if (!signature.ok()) return Annotate(signature.status(), fmt::format("sign {}", request.intent));
    SEALIFT_RETURN_IF_ERROR(key_.VerifyDigest(request.digest, *signature, request.scheme));
    return signature;
  }

 private:
  const std::shared_ptr<Tpm> tpm_;
  const PublicKey key_;
};

}  // namespace

Result<std::shared_ptr<Signer>> MakeTlsSigner(std::shared_ptr<Tpm> tpm) {
  SEALIFT_ASSIGN_OR_RETURN(const TpmKeys keys, tpm->EnsureKeys());
  SEALIFT_ASSIGN_OR_RETURN(tpm::PublicArea area, tpm::ParsePublic(keys.tls));
  return std::make_shared<TlsSigner>(std::move(tpm), std::move(area.key));
}

void RegisterTpmKeyResolver(std::shared_ptr<Tpm> tpm) {
  RegisterKeyResolver("tpm2",
                      [tpm = std::move(tpm)](std::string_view uri) -> Result<std::shared_ptr<Signer>> {
                        if (uri != kTlsKeyUri) {
                          return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                                           fmt::format("open key '{}': only {} is known", uri, kTlsKeyUri));
                        }
                        return MakeTlsSigner(tpm);
                      });
}

}  // namespace sealift::agent
