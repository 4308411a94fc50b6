#include "controller/secret/secret_desk.h"

#include <fmt/format.h>

#include <algorithm>

#include "controller/secret/release_rule.h"
#include "shared/crypto/aead.h"
#include "shared/crypto/hash.h"
#include "shared/release/manifest.h"
#include "shared/tpm/key_policy.h"
#include "shared/tpm/secret_context.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kIdBytes = 8;
constexpr std::uint32_t kSecureBootPcr = 7;
// Of a machine as it runs: Secure Boot, the image, what lies beside it.
constexpr std::array<std::uint32_t, 4> kRunningPcrs{7, 11, 12, 13};

Status Unknown(const std::string& name) {
  return MakeError(Code::kNotFound, Reason::kSecretUnknown, fmt::format("find secret '{}'", name));
}

Status Withheld(const std::string& name, std::string_view cause) {
  return MakeError(Code::kPermissionDenied, Reason::kSecretWithheld,
                   fmt::format("give secret '{}': {}", name, cause));
}

std::string Joined(const std::vector<std::string>& reasons) {
  return fmt::format("{}", fmt::join(reasons, ", "));
}

bool IsFor(const SecretRecord& secret, const Node& node) {
  if (secret.node) return *secret.node == node.id;
  const auto selector = Selector::Parse(secret.selector);
  return selector.ok() && selector->Matches(node.labels);
}

// The node's own endorsement key, whatever it says of it.
Result<tpm::PublicArea> EndorsementKeyOf(const SecretAsk& ask) {
  SEALIFT_ASSIGN_OR_RETURN(tpm::PublicArea key, tpm::ParsePublic(ask.ek_public));
  SEALIFT_RETURN_IF_ERROR(tpm::CheckEndorsementKey(key));
  if (key.key.key_id() == ask.node.ek_digest) return key;
  return MakeError(Code::kInvalidArgument, Reason::kEkUnsuitable,
                   fmt::format("give secret '{}': the endorsement key is not that of node {}", ask.name,
                               ask.node.id.text()));
}

Result<tpm::ReleasePolicy> PolicyFor(const SecretRecord& secret, const SecretAsk& ask,
                                     const ReleaseRecord& release) {
  SEALIFT_ASSIGN_OR_RETURN(const Manifest manifest, ParseManifest(release.manifest_json));
  if (std::ranges::find(manifest.pcr_keys, Sha256(ask.policy_key)) == manifest.pcr_keys.end())
    return Withheld(secret.name, "the image's PCR policy key is none of its release's");
  SEALIFT_ASSIGN_OR_RETURN(PublicKey key, PublicKey::FromDer(ask.policy_key));
  tpm::ReleasePolicy policy{.policy_key = std::move(key), .fixed = {}, .running = std::nullopt};
  tpm::PcrValues running;
  for (const std::uint32_t pcr : kRunningPcrs) {
    const auto found = ask.pcrs.find(pcr);
    if (found == ask.pcrs.end()) return Withheld(secret.name, fmt::format("PCR {} was not quoted", pcr));
    running.insert(*found);
  }
  policy.fixed.insert(*running.find(kSecureBootPcr));
  if (!secret.boot_only) policy.running = std::move(running);
  return policy;
}

}  // namespace

Result<SecretRecord> SecretDesk::Put(SecretRecord record, const SecretBytes& value) {
  if (!tpm::IsSecretName(record.name)) {
    return MakeError(
        Code::kInvalidArgument, Reason::kInvalidArgument,
        fmt::format("keep secret '{}': a name is 1 to 64 of [a-z0-9._-], led by a letter or digit",
                    record.name.substr(0, 64)));
  }
  if (parts_.keys == nullptr) {
    return MakeError(Code::kFailedPrecondition, Reason::kHsmKeyMissing,
                     fmt::format("keep secret '{}': this controller's tokens have no key 'secrets'; add a "
                                 "generation of it",
                                 record.name));
  }
  SEALIFT_ASSIGN_OR_RETURN(const Selector selector, Selector::Parse(record.selector));
  SEALIFT_ASSIGN_OR_RETURN(const ReleaseRule rule, ReleaseRule::Parse(record.releases));
  record.selector = selector.text();
  record.releases = rule.text();
  record.id = HexEncode(RandomBytes(kIdBytes));
  record.created = parts_.clock.Now();
  record.revoked = std::nullopt;
  SEALIFT_ASSIGN_OR_RETURN(record.sealed, SealSecret(record, value, parts_.keys->Current()));
  SEALIFT_RETURN_IF_ERROR(parts_.secrets.Put(record));
  return record;
}

Result<SecretRecord> SecretDesk::Find(const std::string& name, const Node& node) {
  if (node.admission != Admission::kAdmitted) {
    return MakeError(
        Code::kPermissionDenied, Reason::kNodeNotAdmitted,
        fmt::format("give secret: node {} is {}", node.id.text(), AdmissionName(node.admission)));
  }
  if (!tpm::IsSecretName(name)) return Unknown(name.substr(0, 64));
  SEALIFT_ASSIGN_OR_RETURN(SecretRecord secret, parts_.secrets.Get(name));
  if (secret.revoked || !IsFor(secret, node)) return Unknown(name);
  return secret;
}

Result<ReleaseRecord> SecretDesk::ListedRelease(const SecretRecord& secret, const Verdict& verdict) {
  if (verdict.trust != Trust::kTrusted || !verdict.release_id) {
    return Withheld(secret.name, fmt::format("the node's quote is {}{}{}", TrustName(verdict.trust),
                                             verdict.reasons.empty() ? "" : ": ", Joined(verdict.reasons)));
  }
  SEALIFT_ASSIGN_OR_RETURN(const ReleaseRule rule, ReleaseRule::Parse(secret.releases));
  SEALIFT_ASSIGN_OR_RETURN(auto releases, parts_.releases.List(""));
  const auto found = std::ranges::find(releases, *verdict.release_id, &ReleaseRecord::release_id);
  if (found == releases.end()) return Withheld(secret.name, "the release it runs is not published any more");
  if (!rule.Allows(found->channel, found->version)) {
    return Withheld(secret.name, fmt::format("the node runs {} of channel {}, which it is not meant for",
                                             found->version, found->channel));
  }
  return std::move(*found);
}

Result<SecretForNode> SecretDesk::Deliver(const SecretAsk& ask) {
  SEALIFT_ASSIGN_OR_RETURN(const SecretRecord secret, Find(ask.name, ask.node));
  SEALIFT_ASSIGN_OR_RETURN(const ReleaseRecord release, ListedRelease(secret, ask.verdict));
  SEALIFT_ASSIGN_OR_RETURN(tpm::ReleasePolicy policy, PolicyFor(secret, ask, release));
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PublicArea endorsement, EndorsementKeyOf(ask));
  SEALIFT_ASSIGN_OR_RETURN(const auto digests, tpm::DigestReleasePolicy(policy));
  if (parts_.keys == nullptr) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kHsmKeyMissing,
        fmt::format("give secret '{}': this controller's tokens have no key 'secrets'", ask.name));
  }
  SEALIFT_ASSIGN_OR_RETURN(
      const SecretBytes value,
      UnsealSecret(secret, *parts_.keys,
                   fmt::format("secret {} {} for node {}", secret.name, secret.id, ask.node.id.text())));
  SecretForNode out{.name = secret.name,
                    .id = secret.id,
                    .object = {},
                    .policy = std::move(policy),
                    .nonce = RandomBytes(kAeadNonceBytes),
                    .ciphertext = {}};
  const SecretBytes key(RandomBytes(kAeadKeyBytes));
  SEALIFT_ASSIGN_OR_RETURN(out.object, tpm::DuplicateSecret(endorsement, key, digests.whole));
  SEALIFT_ASSIGN_OR_RETURN(out.ciphertext,
                           AeadSeal(key, out.nonce, tpm::SecretContext(out.name, out.id), value));
  SEALIFT_RETURN_IF_ERROR(parts_.secrets.RecordDelivery({.name = secret.name,
                                                         .id = secret.id,
                                                         .node = ask.node.id,
                                                         .release = release.release_id,
                                                         .channel = release.channel,
                                                         .version = release.version,
                                                         .quote = ask.quote_digest,
                                                         .at = parts_.clock.Now()}));
  return out;
}

}  // namespace sealift::controller
