#include "shared/install/config_signature.h"

#include <fmt/format.h>

#include "shared/crypto/hash.h"
#include "shared/order/dsse.h"

namespace sealift {
namespace {

Status Unsigned(std::string_view why) {
  return MakeError(Code::kUnauthenticated, Reason::kInstallConfigUnsigned,
                   fmt::format("verify install configuration: {}", why));
}

}  // namespace

Result<std::string> SignInstallConfiguration(std::string_view configuration, Signer& signer) {
  if (configuration.size() > kMaxInstallConfigurationBytes) {
    return MakeError(
        Code::kInvalidArgument, Reason::kFileTooLarge,
        fmt::format("sign install configuration: larger than {} bytes", kMaxInstallConfigurationBytes));
  }
  const std::string digest = Sha256(AsBytes(configuration)).hex();
  SEALIFT_ASSIGN_OR_RETURN(const order::DsseEnvelope envelope,
                           order::SignEnvelope(signer, std::string(kInstallConfigurationType),
                                               ToBytes(configuration), "install configuration " + digest));
  return order::FormatEnvelope(envelope);
}

Result<Sha256Digest> VerifyInstallConfiguration(std::string_view configuration, std::string_view signature,
                                                std::span<const PublicKey> keys) {
  const Result<order::DsseEnvelope> envelope = order::ParseEnvelope(signature);
  if (!envelope.ok()) return Unsigned(MessageOf(envelope.status()));
  if (AsText(envelope->payload) != configuration)
    return Unsigned("its signature is of another configuration");
  Status last = Unsigned("this image names no key (install.keys) that may sign one");
  for (const PublicKey& key : keys) {
    const Status verified = order::VerifyEnvelope(*envelope, kInstallConfigurationType, {&key, 1});
    if (verified.ok()) return key.key_id();
    last = Unsigned(MessageOf(verified));
  }
  return last;
}

}  // namespace sealift
