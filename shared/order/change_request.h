// What one person asks for and another approves: the bytes that both sign.
//
// A ChangeRequest has exactly one form, canonical JSON (docs/orders.md); its SHA-256 names it everywhere.
// Both signatures are over these bytes with SHA-256, by the keys of the persons' client certificates, and a
// node checks both: nobody in between can ask for something else. Plain values; thread-safe functions.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/ids.h"
#include "shared/base/status.h"
#include "shared/crypto/certificate.h"

namespace sealift::order {

// What a node may be ordered to do. Text forms are stored and on the wire; never rename one.
enum class Action {
  // "reset": makes `persistent` anew at the next boot; all that it held is gone.
  kReset,
  // "raise-epoch": images of a lower security epoch unlock no more. Parameter "epoch".
  kRaiseEpoch,
  // "retry": forgets that a version failed. Parameter "version".
  kRetry,
  // "rollback": allows a version older than what runs, never one of a lower epoch. Parameter "version".
  kRollback,
  // "upgrade-recovery": the recovery entry boots the active image from now on.
  kUpgradeRecovery,
  // "replace-recovery-key": new recovery keys, escrowed before the old ones are removed.
  kReplaceRecoveryKey,
  // "select-entry": boots an entry once. Parameter "entry": active, passive or recovery.
  kSelectEntry,
  // "release-recovery-key": a custodian may read the recovery keys. As an order: replace them now.
  kReleaseRecoveryKey,
};

std::string_view ActionName(Action action);
// Errors: UNIMPLEMENTED/ORDER_UNSUPPORTED.
Result<Action> ParseAction(std::string_view name);

inline constexpr std::size_t kMaxRequestBytes = 4096;
inline constexpr std::size_t kNonceBytes = 32;
// Longer lives are refused: by then nobody remembers why.
inline constexpr std::chrono::milliseconds kMaxLifetime = std::chrono::hours(24 * 31);

struct ChangeRequest {
  // Chosen by the requester: 32 lower-case hex digits.
  std::string id;
  Action action = Action::kRetry;
  std::map<std::string, std::string> parameters;
  NodeId node;
  // SHA-256 of the EK's SubjectPublicKeyInfo: the machine itself.
  Sha256Digest ek_digest;
  // Of the node, which takes one order for each. Empty only for kReleaseRecoveryKey of a node that told none.
  Bytes nonce;
  // Name in the requester's certificate.
  std::string requester;
  // For people; at most 256 bytes.
  std::string reason;
  UnixMillis created;
  // Not approved, not obeyed and nothing released from then on.
  UnixMillis expires;
  bool operator==(const ChangeRequest&) const = default;
};

// Checks values against each other and the action's parameters. Errors: INVALID_ARGUMENT/ORDER_MALFORMED.
Status CheckChangeRequest(const ChangeRequest& request);
// `request` has passed CheckChangeRequest.
std::string CanonicalRequest(const ChangeRequest& request);
// Errors: INVALID_ARGUMENT/ORDER_MALFORMED; UNIMPLEMENTED/ORDER_UNSUPPORTED for an action of a later version.
Result<ChangeRequest> ParseChangeRequest(std::string_view canonical);

// A person's word.
struct PersonSignature {
  // DER of the client certificate.
  Bytes certificate;
  // ECDSA (DER) or RSA PKCS#1 v1.5 with SHA-256 over the canonical bytes.
  Bytes signature;
  bool operator==(const PersonSignature&) const = default;
};

struct Person {
  std::string name;
  // "viewer", "operator", "approver", "custodian".
  std::string role;
  bool operator==(const Person&) const = default;
};

// "sealift:operator:<name>?role=<role>". Errors: INVALID_ARGUMENT/CERTIFICATE_INVALID.
Result<Person> ParsePersonUri(std::string_view uri);

// Who signed: the certificate was issued directly by one of `operator_cas`, is valid at `at`, and its key
// signed `canonical`. Errors: UNAUTHENTICATED/ORDER_UNAPPROVED with what is wrong.
Result<Person> VerifyPerson(const PersonSignature& signature, std::string_view canonical,
                            const std::vector<Certificate>& operator_cas, UnixMillis at);

// Whether these may ask for and approve this: the requester is the one named in it, an operator or custodian
// (kReleaseRecoveryKey: a custodian); the approver is an approver; names and keys differ. Errors:
// PERMISSION_DENIED/ORDER_UNAPPROVED.
Status CheckTwoPersons(const ChangeRequest& request, const Person& requester,
                       const PersonSignature& requester_signature, const Person& approver,
                       const PersonSignature& approver_signature);

// The nonce of a machine that has carried out `orders` of them (a TPM counter that only grows): the counter
// and a digest of it with the machine's identity, so that the machine needs no memory to know it again.
Bytes NonceFor(const Sha256Digest& ek_digest, std::uint64_t orders);

}  // namespace sealift::order
