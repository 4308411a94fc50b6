#include "node-agent/secret/kept_secret.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "shared/base/files.h"
#include "shared/base/json_member.h"
#include "shared/crypto/aead.h"
#include "shared/tpm/secret_context.h"

namespace sealift::agent {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kType = "sealift-secret";
constexpr int kFormat = 1;
constexpr std::uint32_t kPcrCount = 24;
constexpr std::size_t kMaxIdBytes = 64;

Status Malformed(std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed, fmt::format("read kept secret: {}", why));
}

ordered_json PcrsJson(const tpm::PcrValues& values) {
  ordered_json object = ordered_json::object();
  for (const auto& [pcr, value] : values) object[std::to_string(pcr)] = value.hex();
  return object;
}

Result<tpm::PcrValues> Pcrs(const ordered_json& list) {
  if (!list.is_object() || list.empty() || list.size() > kPcrCount) return Malformed("it names no registers");
  tpm::PcrValues values;
  for (const auto& [name, value] : list.items()) {
    std::uint32_t pcr = kPcrCount;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pcr);
    const std::string* hex = value.get_ptr<const std::string*>();
    if (error != std::errc() || end != name.data() + name.size() || pcr >= kPcrCount || hex == nullptr)
      return Malformed("its registers are none");
    const auto digest = Sha256Digest::FromHex(*hex);
    if (!digest.ok()) return Malformed("its registers have no digests");
    values[pcr] = *digest;
  }
  return values;
}

Result<tpm::ReleasePolicy> Policy(const ordered_json& object) {
  auto key = PublicKey::FromDer(Base64Member(object, "policy_key"));
  if (!key.ok()) return Malformed("it names no policy key");
  tpm::ReleasePolicy policy{.policy_key = *std::move(key), .fixed = {}, .running = std::nullopt};
  const auto fixed = object.find("fixed_pcrs");
  if (fixed == object.end()) return Malformed("it names no registers");
  SEALIFT_ASSIGN_OR_RETURN(policy.fixed, Pcrs(*fixed));
  if (const auto running = object.find("running_pcrs"); running != object.end()) {
    SEALIFT_ASSIGN_OR_RETURN(policy.running, Pcrs(*running));
  }
  return policy;
}

std::filesystem::path FileOf(const std::filesystem::path& folder, const std::string& name) {
  return folder / (name + ".json");
}

// The image's signature for the registers of now, if it has one by the secret's key.
Result<std::optional<SignedPcrs>> ApprovalOfNow(const KeptSecret& secret, const ImageApprovals& approvals,
                                                TpmVault& registers) {
  if (!(approvals.policy_key == secret.policy.policy_key)) return std::optional<SignedPcrs>();
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest fingerprint, approvals.policy_key.Pkcs1Fingerprint());
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PcrValues now, registers.ReadPcrs(kSecretSignedPcrs));
  const Sha256Digest policy = tpm::ExtendByPcrs({}, now);
  const auto bank = approvals.signatures.find("sha256");
  if (bank == approvals.signatures.end()) return std::optional<SignedPcrs>();
  for (const uki::PcrSignature& entry : bank->second) {
    if (entry.policy == policy && entry.key_fingerprint == fingerprint &&
        std::ranges::equal(entry.pcrs, kSecretSignedPcrs))
      return std::optional(SignedPcrs{.policy = entry.policy, .signature = entry.signature});
  }
  return std::optional<SignedPcrs>();
}

}  // namespace

std::string FormatKeptSecret(const KeptSecret& secret) {
  ordered_json object;
  object["type"] = kType;
  object["format"] = kFormat;
  object["name"] = secret.name;
  object["id"] = secret.id;
  object["public"] = Base64Encode(secret.object.public_area);
  object["private"] = Base64Encode(secret.object.private_area);
  object["policy_key"] = Base64Encode(secret.policy.policy_key.spki_der());
  object["fixed_pcrs"] = PcrsJson(secret.policy.fixed);
  if (secret.policy.running) object["running_pcrs"] = PcrsJson(*secret.policy.running);
  object["nonce"] = Base64Encode(secret.nonce);
  object["ciphertext"] = Base64Encode(secret.ciphertext);
  return object.dump();
}

Result<KeptSecret> ParseKeptSecret(std::string_view json) {
  if (json.size() > kMaxKeptSecretBytes) return Malformed(fmt::format("{} bytes", json.size()));
  const ordered_json object = ordered_json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object() || TextMember(object, "type") != kType) return Malformed("it is none");
  const auto format = object.find("format");
  if (format == object.end() || !format->is_number_integer() || *format != kFormat)
    return Malformed("it is of another format");
  SEALIFT_ASSIGN_OR_RETURN(tpm::ReleasePolicy policy, Policy(object));
  KeptSecret secret{.name = TextMember(object, "name"),
                    .id = TextMember(object, "id"),
                    .object = {.public_area = Base64Member(object, "public"),
                               .private_area = Base64Member(object, "private")},
                    .policy = std::move(policy),
                    .nonce = Base64Member(object, "nonce"),
                    .ciphertext = Base64Member(object, "ciphertext")};
  if (!tpm::IsSecretName(secret.name) || secret.id.empty() || secret.id.size() > kMaxIdBytes)
    return Malformed("it has no name and id");
  SEALIFT_RETURN_IF_ERROR(tpm::ParseSealedArea(secret.object.public_area).status());
  if (secret.object.private_area.empty() || secret.nonce.size() != kAeadNonceBytes ||
      secret.ciphertext.size() <= kAeadTagBytes)
    return Malformed("its parts have wrong sizes");
  return secret;
}

Result<KeptSecret> ReadKeptSecret(const std::filesystem::path& folder, const std::string& name) {
  if (!tpm::IsSecretName(name)) return Malformed("no secret has such a name");
  SEALIFT_ASSIGN_OR_RETURN(const std::string json, ReadTextFile(FileOf(folder, name), kMaxKeptSecretBytes));
  SEALIFT_ASSIGN_OR_RETURN(KeptSecret secret, ParseKeptSecret(json));
  if (secret.name != name) return Malformed(fmt::format("it is secret '{}'", secret.name));
  return secret;
}

Status WriteKeptSecret(const std::filesystem::path& folder, const KeptSecret& secret) {
  SEALIFT_CHECK(tpm::IsSecretName(secret.name));
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  return WriteFileAtomically(FileOf(folder, secret.name), AsBytes(FormatKeptSecret(secret)), 0600);
}

Result<SecretBytes> OpenKeptSecret(const KeptSecret& secret, const std::optional<ImageApprovals>& approvals,
                                   TpmVault& registers, TpmImporter& importer) {
  std::optional<SignedPcrs> approval;
  if (approvals) {
    SEALIFT_ASSIGN_OR_RETURN(approval, ApprovalOfNow(secret, *approvals, registers));
  }
  SEALIFT_ASSIGN_OR_RETURN(const SecretBytes key, importer.Unseal(secret.object, secret.policy, approval));
  return AeadOpen(key, secret.nonce, tpm::SecretContext(secret.name, secret.id), secret.ciphertext);
}

}  // namespace sealift::agent
