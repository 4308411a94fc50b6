// Takes secrets in, and gives them to machines that have just proven that they run what a secret is for.
//
// What leaves is encrypted to the machine's TPM: an object under its endorsement key that opens by the policy
// of that release's images (shared/tpm/release_policy.h), holding the key of the value. Domain logic: no
// gRPC, SQL or PKCS#11. Thread-safe; borrows its parts.
#pragma once

#include <string>

#include "controller/fleet/node.h"
#include "controller/fleet/stores.h"
#include "controller/secret/sealed_secret.h"
#include "controller/secret/secret.h"
#include "shared/base/clock.h"
#include "shared/base/secret.h"
#include "shared/tpm/duplicate.h"
#include "shared/tpm/release_policy.h"

namespace sealift::controller {

// All borrowed. `keys`: null where no token given has one.
struct SecretDeskParts {
  SecretStore& secrets;
  ReleaseStore& releases;
  SecretKeys* keys = nullptr;
  const Clock& clock;
};

// What a node asks for, and what was proven of it a moment ago.
struct SecretAsk {
  std::string name;
  const Node& node;
  // Of the quote made for this call.
  const Verdict& verdict;
  // As quoted.
  const tpm::PcrValues& pcrs;
  Sha256Digest quote_digest;
  // TPM2B_PUBLIC of its endorsement key.
  Bytes ek_public;
  // SubjectPublicKeyInfo of the PCR policy key of the image that runs.
  Bytes policy_key;
};

// A secret for one TPM.
struct SecretForNode {
  std::string name;
  std::string id;
  // Holds an AES-256-GCM key. Opens by `policy`.
  tpm::DuplicatedSecret object;
  tpm::ReleasePolicy policy;
  // The value, encrypted by it; SecretContext is authenticated beside it.
  Bytes nonce;
  Bytes ciphertext;
};

class SecretDesk {
 public:
  explicit SecretDesk(SecretDeskParts parts) : parts_(parts) {}

  // `record`: name, selector or node, releases, boot_only, note, created_by; the rest is set here. Gives the
  // record as stored. Errors: INVALID_ARGUMENT, SELECTOR_INVALID; FAILED_PRECONDITION/HSM_KEY_MISSING where
  // no token given has the key.
  Result<SecretRecord> Put(SecretRecord record, const SecretBytes& value);

  // Whether this node may ask at all. Errors: NOT_FOUND/SECRET_UNKNOWN, the same whether the secret is
  // another's, revoked or not there; PERMISSION_DENIED/NODE_NOT_ADMITTED.
  Result<SecretRecord> Find(const std::string& name, const Node& node);

  // Records the delivery before it returns. Errors: those of Find; PERMISSION_DENIED/SECRET_WITHHELD where
  // the quote is not that of a listed release; INVALID_ARGUMENT with TPM_KEY_MALFORMED or EK_UNSUITABLE for
  // another endorsement key than the node's; those of UnsealSecret.
  Result<SecretForNode> Deliver(const SecretAsk& ask);

 private:
  // The release that the verdict names, if the secret is for it.
  Result<ReleaseRecord> ListedRelease(const SecretRecord& secret, const Verdict& verdict);

  SecretDeskParts parts_;
};

}  // namespace sealift::controller
