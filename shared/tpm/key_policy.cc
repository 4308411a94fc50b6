#include "shared/tpm/key_policy.h"

#include <fmt/format.h>

namespace sealift::tpm {
namespace {

constexpr std::uint32_t kBornHere = kAttrFixedTpm | kAttrFixedParent | kAttrSensitiveDataOrigin;

Status Refuse(Reason reason, std::string_view role, std::string_view cause) {
  return MakeError(Code::kInvalidArgument, reason, fmt::format("check {}: {}", role, cause));
}

}  // namespace

Status CheckEndorsementKey(const PublicArea& key) {
  const auto refuse = [](std::string_view cause) {
    return Refuse(Reason::kEkUnsuitable, "endorsement key", cause);
  };
  if (!key.Has(kBornHere)) return refuse("it could exist outside its TPM");
  if (!key.Has(kAttrRestricted | kAttrDecrypt) || key.HasAny(kAttrSign)) {
    return refuse("it is no restricted decryption key");
  }
  if (key.name_algorithm != kAlgSha256 || key.symmetric != kAlgAes || key.symmetric_bits != 128 ||
      key.symmetric_mode != kAlgCfb) {
    return refuse("it is not of a default template (SHA-256, AES-128-CFB)");
  }
  const bool known =
      (key.key.type() == KeyType::kRsa && key.key.bits() == 2048) || key.key.type() == KeyType::kEcP256;
  return known ? OkStatus() : refuse("it is neither RSA 2048 nor ECC P-256");
}

Status CheckAttestationKey(const PublicArea& key) {
  const auto refuse = [](std::string_view cause) {
    return Refuse(Reason::kAkUnsuitable, "attestation key", cause);
  };
  if (!key.Has(kBornHere)) return refuse("it could exist outside its TPM");
  if (!key.Has(kAttrRestricted | kAttrSign) || key.HasAny(kAttrDecrypt)) {
    return refuse("it is no restricted signing key");
  }
  if (key.HasAny(kAttrStClear)) return refuse("it does not survive a reboot");
  if (key.scheme_hash != kAlgSha256 && key.scheme_hash != kAlgSha384) return refuse("its hash is too weak");
  return OkStatus();
}

Status CheckTlsKey(const PublicArea& key) {
  const auto refuse = [](std::string_view cause) {
    return Refuse(Reason::kTlsKeyUnsuitable, "TLS key", cause);
  };
  if (!key.Has(kBornHere)) return refuse("it could exist outside its TPM");
  if (!key.Has(kAttrSign) || key.HasAny(kAttrRestricted | kAttrDecrypt)) {
    return refuse("it is no plain signing key");
  }
  if (key.key.type() != KeyType::kEcP256) return refuse("it is not ECC P-256");
  return OkStatus();
}

}  // namespace sealift::tpm
