#include "controller/app/online_keys.h"

#include <fmt/format.h>

#include <algorithm>

#include "hsm/key_ring.h"
#include "hsm/token_decrypter.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/key_reference.h"

namespace sealift::controller {
namespace {

// Clocks of machines differ: a certificate that starts now would be refused by one that is a little behind.
constexpr auto kBackdate = std::chrono::minutes(10);
constexpr auto kServerCertificateLifetime = std::chrono::hours(24 * 398);

Status RefuseForeignGroups(hsm::KeyRing& ring, bool release_expected) {
  SEALIFT_ASSIGN_OR_RETURN(const auto held, ring.HeldGroups());
  for (const hsm::Group group : held) {
    if (group == hsm::Group::kRoot || group == hsm::Group::kCustody) {
      return MakeError(
          Code::kFailedPrecondition, Reason::kTokenGroupForbidden,
          fmt::format("open tokens: one of them holds keys of group '{}', which a daemon must not reach",
                      hsm::GroupName(group)));
    }
    if (group == hsm::Group::kRelease && !release_expected) {
      log::Warning("the daemon can sign releases: give it a token that holds group 'online' only");
    }
  }
  return OkStatus();
}

// Null where no token given holds the key: everything else goes on without it.
Result<std::shared_ptr<Signer>> OrdersSigner(hsm::KeyRing& ring) {
  auto signer = ring.SignerFor("orders");
  if (signer.ok() || ReasonOf(signer.status()) != Reason::kHsmKeyMissing) return signer;
  log::Warning("no orders can be given: add a generation of their key to this token",
               {{"error", Describe(signer.status())}});
  return std::shared_ptr<Signer>();
}

// Each generation of the role `secrets` in a token given.
class TokenSecretKeys final : public SecretKeys {
 public:
  TokenSecretKeys(PublicKey current, std::map<Sha256Digest, std::shared_ptr<hsm::Token>> tokens)
      : current_(std::move(current)), tokens_(std::move(tokens)) {}

  const PublicKey& Current() const override { return current_; }
  Result<std::unique_ptr<escrow::OaepDecrypter>> Open(const Sha256Digest& key_id,
                                                      const std::string& intent) override {
    const auto found = tokens_.find(key_id);
    if (found == tokens_.end()) {
      return MakeError(Code::kNotFound, Reason::kHsmKeyMissing,
                       fmt::format("decrypt secret: no token given has the key 'secrets' {}", key_id.hex()));
    }
    SEALIFT_ASSIGN_OR_RETURN(auto decrypter, hsm::TokenDecrypter::Open(found->second, key_id, intent));
    return decrypter;
  }

 private:
  const PublicKey current_;
  const std::map<Sha256Digest, std::shared_ptr<hsm::Token>> tokens_;
};

// Null where no token given holds the key, as in sets that are older than the role.
Result<std::shared_ptr<SecretKeys>> OpenSecretKeys(hsm::KeyRing& ring) {
  std::map<Sha256Digest, std::shared_ptr<hsm::Token>> tokens;
  for (const hsm::InventoryKey* key : ring.inventory().Generations("secrets")) {
    auto token = ring.TokenFor(*key);
    if (!token.ok() && ReasonOf(token.status()) != Reason::kHsmKeyMissing) return token.status();
    if (token.ok()) tokens.emplace(key->key_id, *std::move(token));
  }
  if (tokens.empty()) {
    log::Warning("no secrets can be kept: add a generation of the key 'secrets' to this token");
    return std::shared_ptr<SecretKeys>();
  }
  SEALIFT_ASSIGN_OR_RETURN(const hsm::InventoryKey* current, ring.KeyFor("secrets"));
  SEALIFT_ASSIGN_OR_RETURN(PublicKey key, ring.PublicKeyFor(*current));
  return std::make_shared<TokenSecretKeys>(std::move(key), std::move(tokens));
}

// A reference names the key by token and id; the token is open, so no PIN is asked for.
Result<std::string> TlsKeyReference(const ControllerConfig& config, hsm::KeyRing& ring) {
  SEALIFT_ASSIGN_OR_RETURN(const hsm::InventoryKey* key, ring.KeyFor("controller-tls"));
  SEALIFT_ASSIGN_OR_RETURN(const auto token, ring.TokenFor(*key));
  for (const std::string& argument : config.tokens) {
    SEALIFT_ASSIGN_OR_RETURN(const auto parsed, hsm::TokenArgument::Parse(argument));
    SEALIFT_ASSIGN_OR_RETURN(const auto opened, hsm::Token::Open(parsed.uri));
    if (opened == token) return KeyReferencePem(hsm::KeyUri(parsed.uri, key->key_id).Text());
  }
  return KeyReferencePem(hsm::KeyUri(token->uri(), key->key_id).Text());
}

// What it issues would have ended before it began.
Status CheckCa(const Certificate& ca, UnixMillis now) {
  if (now < ca.not_after()) return OkStatus();
  return MakeError(
      Code::kFailedPrecondition, Reason::kSignerCertificateExpired,
      fmt::format("issue certificate: that of 'node-ca' ended at {}", FormatRfc3339(ca.not_after())));
}

}  // namespace

Result<Certificate> IssueServerCertificate(const ControllerConfig& config, const PublicKey& key,
                                           const std::shared_ptr<Signer>& ca,
                                           const Certificate& ca_certificate, UnixMillis now) {
  SEALIFT_RETURN_IF_ERROR(CheckCa(ca_certificate, now));
  CertificateSpec spec{.common_name = "sealift-controller",
                       .dns_names = config.dns_names,
                       .ip_addresses = config.ip_addresses,
                       .server_auth = true,
                       .not_before = now - kBackdate,
                       .not_after = std::min(now + kServerCertificateLifetime, ca_certificate.not_after())};
  return IssueCertificate(spec, key, ca, ca_certificate, "certificate controller-tls");
}

Result<OnlineKeys> OpenOnlineKeys(const ControllerConfig& config, const Clock& clock) {
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  hsm::RegisterPkcs11Resolver();
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(config.state_dir, 0700));
  SEALIFT_ASSIGN_OR_RETURN(
      const auto ring, hsm::KeyRing::Open(config.keys, config.tokens, config.journal, config.generations));
  SEALIFT_RETURN_IF_ERROR(RefuseForeignGroups(*ring, /*release_expected=*/false));
  SEALIFT_ASSIGN_OR_RETURN(Certificate node_ca_certificate, ring->CertificateFor("node-ca"));
  // Certificates by an older generation stay in use until they end.
  SEALIFT_ASSIGN_OR_RETURN(auto node_cas, ring->CertificatesFor("node-ca"));
  SEALIFT_ASSIGN_OR_RETURN(auto operator_cas, ring->CertificatesFor("operator-ca"));
  SEALIFT_ASSIGN_OR_RETURN(auto node_ca, ring->SignerFor("node-ca"));
  SEALIFT_ASSIGN_OR_RETURN(const auto tls, ring->SignerFor("controller-tls"));
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Signer> orders, OrdersSigner(*ring));
  std::vector<PublicKey> orders_roots;
  for (const hsm::InventoryKey* root : ring->inventory().Generations("orders-root")) {
    SEALIFT_ASSIGN_OR_RETURN(PublicKey key, ring->PublicKeyFor(*root));
    orders_roots.push_back(std::move(key));
  }
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<SecretKeys> secrets, OpenSecretKeys(*ring));
  OnlineSigners tuf;
  SEALIFT_ASSIGN_OR_RETURN(tuf.snapshot, ring->SignerFor("tuf-snapshot"));
  SEALIFT_ASSIGN_OR_RETURN(tuf.timestamp, ring->SignerFor("tuf-timestamp"));
  SEALIFT_ASSIGN_OR_RETURN(
      const Certificate server,
      config.dns_names.empty() && config.ip_addresses.empty()
          ? ring->CertificateFor("controller-tls")
          : IssueServerCertificate(config, tls->public_key(), node_ca, node_ca_certificate, clock.Now()));
  SEALIFT_ASSIGN_OR_RETURN(std::string key, TlsKeyReference(config, *ring));
  SEALIFT_ASSIGN_OR_RETURN(auto release, OpenReleaseKeys(config));
  // Expiry is told of the certificate that is served: a daemon that runs for a year needs a restart.
  hsm::Inventory inventory = ring->inventory();
  SEALIFT_ASSIGN_OR_RETURN(const hsm::InventoryKey* served, ring->KeyFor("controller-tls"));
  for (hsm::InventoryKey& one : inventory.keys) {
    if (one.key_id != served->key_id) continue;
    one.has_certificate = true;
    one.not_after = server.not_after();
  }
  return OnlineKeys{.tuf = std::move(tuf),
                    .node_ca = std::move(node_ca),
                    .node_ca_certificate = node_ca_certificate,
                    .node_cas = std::move(node_cas),
                    .operator_cas = std::move(operator_cas),
                    .orders = std::move(orders),
                    .orders_roots = std::move(orders_roots),
                    .tls = {.certificate_chain = server.Pem(), .key = std::move(key)},
                    .journal = ring->journal(),
                    .inventory = std::move(inventory),
                    .secrets = std::move(secrets),
                    .release = std::move(release)};
}

Result<std::shared_ptr<hsm::KeyRing>> OpenReleaseKeys(const ControllerConfig& config) {
  if (config.build.tokens.empty()) return std::shared_ptr<hsm::KeyRing>();
  SEALIFT_ASSIGN_OR_RETURN(
      std::shared_ptr<hsm::KeyRing> ring,
      hsm::KeyRing::Open(config.keys, config.build.tokens, config.journal, config.generations));
  SEALIFT_RETURN_IF_ERROR(RefuseForeignGroups(*ring, /*release_expected=*/true));
  for (const char* role : {"db", "pcr", "tuf-targets"})
    SEALIFT_RETURN_IF_ERROR(ring->SignerFor(role).status());
  return ring;
}

Result<IssuedNodeCertificate> NodeCa::IssueNodeCertificate(const NodeId& id, const PublicKey& tls_key) {
  const UnixMillis now = clock_.Now();
  SEALIFT_RETURN_IF_ERROR(CheckCa(certificate_, now));
  CertificateSpec spec{.common_name = id.text(),
                       .uris = {id.SubjectUri()},
                       .client_auth = true,
                       .not_before = now - kBackdate,
                       .not_after = std::min(now + lifetime_, certificate_.not_after())};
  SEALIFT_ASSIGN_OR_RETURN(const Certificate issued, IssueCertificate(spec, tls_key, signer_, certificate_,
                                                                      "certificate node " + id.text()));
  return IssuedNodeCertificate{.chain = {issued.der()}, .not_after = issued.not_after()};
}

}  // namespace sealift::controller
