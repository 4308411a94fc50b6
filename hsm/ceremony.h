// Ceremonies: acts of custodians that make keys and the first certificates under them.
//
// Run by one person at a time on one machine. Private keys are born in the tokens and stay there; what is
// written is public, all of it or nothing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hsm/enrolment_content.h"
#include "hsm/hierarchy.h"
#include "hsm/inventory.h"
#include "hsm/key_maker.h"
#include "hsm/key_ring.h"
#include "hsm/token.h"
#include "shared/base/clock.h"
#include "shared/crypto/certificate.h"

namespace sealift::hsm {

struct KeySetOptions {
  // IsValidSetName.
  std::string set;
  // Must not exist; its parent is made when missing.
  std::filesystem::path folder;
  // All four groups; several may share a token.
  std::map<Group, std::shared_ptr<Token>> tokens;
  // By role, instead of its own.
  std::map<std::string, KeyAlgorithm, std::less<>> algorithms;
  // kWrapped: keys that `keys backup` can take out. The set is marked for ever.
  Leaving leaving = Leaving::kNever;
  // Life of certificates and of the TUF root, from now; not beyond the year 9999, where certificates end.
  std::int64_t expiration_days = 365;
  // What KEK, db and dbx hold beside the set's own certificates.
  EnrolmentContent enrolment;
  // "DNS:name" or "IP:address" of the controller.
  std::vector<std::string> controller_names;
  UnixMillis now;
  // Signing journal of the ceremony; empty is `journal` in the folder.
  std::filesystem::path journal;
};

// Makes generation 1 of every role and writes to the folder:
//
//   PK|KEK|db.{pem,der,esl,auth}   Secure Boot: certificates, signature lists, authenticated variables
//   dbx.{esl,auth}                 only where firmware exports had revocations
//   tpm2-pcr-public.pem            key of the PCR 11 policies (systemd's name for it)
//   node-ca.pem, operator-ca.pem   CA certificates; two hierarchies
//   controller-tls.pem, .key.pem   the controller's certificate and the reference to its key
//   tuf/1.root.json                the repository's first root, every role with threshold 1
//   orders-delegation.json         what orders-root lets the orders key do
//   public/<role>-1.pem            public half of every key
//   journal, journal.pub.pem       signing journal, begun by this ceremony, and the key of its checkpoints
//   inventory.json                 what is where
//
// PK signs PK and KEK, KEK signs db and dbx. Needs InstallKeyProvider().
// Errors: ALREADY_EXISTS/KEY_SET_EXISTS; INVALID_ARGUMENT; KEY_ALGORITHM_UNSUPPORTED; HSM_KEY_EXISTS before
// anything was made; those of the tokens. HSM_MECHANISM_MISSING before anything was made. After a failure the
// same call may be made again: keys that were made are destroyed, or stay marked in tokens that forbid it and
// are taken over (set_marker.h).
Result<Inventory> InitialiseKeySet(const KeySetOptions& options, const Progress& progress);

struct OperatorCertificateOptions {
  // 1 to 64 of [a-z0-9._-], led by a letter or digit.
  std::string name;
  // One of OperatorRoles().
  std::string role;
  int valid_days = 365;
  UnixMillis now;
  // Sign although the CA's certificate has ended. The result then outlives its issuer.
  bool allow_expired = false;
};
// "viewer", "operator", "approver", "custodian".
std::span<const std::string_view> OperatorRoles();
// Client certificate with the subject URI "sealift:operator:<name>?role=<role>", signed by operator-ca.
// Errors: INVALID_ARGUMENT; SIGNER_CERTIFICATE_EXPIRED; those of KeyRing.
Result<Certificate> IssueOperatorCertificate(KeyRing& ring, const OperatorCertificateOptions& options,
                                             const PublicKey& key);

}  // namespace sealift::hsm
