// What the daemon signs with, and whom it trusts: opened once at start.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "controller/app/config.h"
#include "controller/attest/enrolment.h"
#include "controller/publish/tuf_repository.h"
#include "controller/secret/sealed_secret.h"
#include "hsm/inventory.h"
#include "hsm/journal.h"
#include "hsm/key_ring.h"
#include "shared/base/clock.h"
#include "shared/crypto/certificate.h"
#include "shared/crypto/signer.h"
#include "shared/wire/tls.h"

namespace sealift::controller {

struct OnlineKeys {
  OnlineSigners tuf;
  std::shared_ptr<Signer> node_ca;
  // Of `node_ca`.
  Certificate node_ca_certificate;
  // Every generation that may have issued a certificate still in use.
  std::vector<Certificate> node_cas;
  std::vector<Certificate> operator_cas;
  // Signs orders that two persons asked for. Null where no token given has the key.
  std::shared_ptr<Signer> orders;
  // Public halves of every orders-root: whose delegation nodes believe.
  std::vector<PublicKey> orders_roots;
  wire::TlsIdentity tls;
  // Records all of the above; the newest checkpoint goes into each TUF timestamp. Null in tests without
  // token.
  std::shared_ptr<hsm::Journal> journal;
  // What the set's folder says of all its keys: when their certificates end. Of 'controller-tls' when the one
  // that is served ends.
  hsm::Inventory inventory;
  // Encrypts secrets at rest. Null where no token given has the key.
  std::shared_ptr<SecretKeys> secrets;
  // Of OpenReleaseKeys.
  std::shared_ptr<hsm::KeyRing> release;
};

// Opens the tokens of `config`, refuses those of other groups, and where names are configured has the node CA
// issue the server's certificate for them (a new one at each start, so that a change of names is a restart).
// Errors: FAILED_PRECONDITION/TOKEN_GROUP_FORBIDDEN; those of hsm::KeyRing and IssueCertificate.
Result<OnlineKeys> OpenOnlineKeys(const ControllerConfig& config, const Clock& clock);

// The tokens of [build], for the builds of operators; null where there are none. They share the daemon's
// journal. Errors: FAILED_PRECONDITION/TOKEN_GROUP_FORBIDDEN; those of hsm::KeyRing, and of a missing db, pcr
// or tuf-targets key.
Result<std::shared_ptr<hsm::KeyRing>> OpenReleaseKeys(const ControllerConfig& config);

// The server's certificate: for `names` and the key of `tls`, by `ca`.
// Errors: FAILED_PRECONDITION/SIGNER_CERTIFICATE_EXPIRED where the CA's has ended; those of IssueCertificate.
Result<Certificate> IssueServerCertificate(const ControllerConfig& config, const PublicKey& key,
                                           const std::shared_ptr<Signer>& ca,
                                           const Certificate& ca_certificate, UnixMillis now);

// Node certificates by the node CA. Thread-safe. Errors as IssueServerCertificate.
class NodeCa final : public NodeCertificateIssuer {
 public:
  NodeCa(std::shared_ptr<Signer> signer, Certificate certificate, std::chrono::hours lifetime,
         const Clock& clock)
      : signer_(std::move(signer)),
        certificate_(std::move(certificate)),
        lifetime_(lifetime),
        clock_(clock) {}
  Result<IssuedNodeCertificate> IssueNodeCertificate(const NodeId& id, const PublicKey& tls_key) override;

 private:
  const std::shared_ptr<Signer> signer_;
  const Certificate certificate_;
  const std::chrono::hours lifetime_;
  const Clock& clock_;
};

}  // namespace sealift::controller
