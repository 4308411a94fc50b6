// One simulated machine of a fleet: how it enrols and attests, honestly or with one lie.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sealift/v1/enrolment.grpc.pb.h"
#include "sealift/v1/node.grpc.pb.h"
#include "tests/sim/fleet/sim_controller.h"
#include "tests/support/measured_boot.h"
#include "tests/support/software_machine.h"

namespace sealift::sim {

// When a machine lies: as a newcomer, as a known node that renews, or when a node is asked for a quote.
enum class Act { kNever, kEnrol, kRenew, kAttest };

enum class Lie {
  kNone,
  kOldQuote,
  kQuoteOfAnotherNode,
  kQuoteBySoftwareKey,
  kSoftwareAttestationKey,
  kClonedDisk,
  kAttestationKeyOfAnotherNode,
  kCertificateOfAnotherKey,
  kTwoClaimOneKey,
  kKeysChanged,
  kQuoteBeforeReset,
  kOldQuoteLater,
  kQuoteBeforeResetLater,
};

struct LieKind {
  Lie lie;
  Act act;
  std::string_view words;
  // What the controller has to say to it.
  std::string_view reason;
};
inline constexpr std::array<LieKind, 12> kLies{{
    {Lie::kOldQuote, Act::kEnrol, "an old quote, replayed", "QUOTE_NONCE_STALE"},
    {Lie::kQuoteOfAnotherNode, Act::kEnrol, "another node's quote", "QUOTE_SIGNATURE_INVALID"},
    {Lie::kQuoteBySoftwareKey, Act::kEnrol, "right nonce, software key", "QUOTE_SIGNATURE_INVALID"},
    {Lie::kSoftwareAttestationKey, Act::kEnrol, "attestation key outside the TPM",
     "CREDENTIAL_NOT_ACTIVATED"},
    {Lie::kClonedDisk, Act::kEnrol, "a cloned disk in another machine", "CREDENTIAL_NOT_ACTIVATED"},
    {Lie::kAttestationKeyOfAnotherNode, Act::kEnrol, "attestation key of another node",
     "CREDENTIAL_NOT_ACTIVATED"},
    {Lie::kCertificateOfAnotherKey, Act::kEnrol, "EK certificate with the wrong key",
     "EK_CERTIFICATE_MISMATCH"},
    {Lie::kTwoClaimOneKey, Act::kEnrol, "two machines claim one EK", "EK_CLAIMED"},
    {Lie::kKeysChanged, Act::kRenew, "known EK, other attestation key", "NODE_KEYS_CHANGED"},
    {Lie::kQuoteBeforeReset, Act::kRenew, "a quote from before a reset", "QUOTE_CLOCK_BACKWARDS"},
    {Lie::kOldQuoteLater, Act::kAttest, "an old quote, replayed by a node", "QUOTE_NONCE_STALE"},
    {Lie::kQuoteBeforeResetLater, Act::kAttest, "a node's quote from before a reset",
     "QUOTE_CLOCK_BACKWARDS"},
}};

struct Answer {
  // "issued", "pending", "refused", "trusted", "untrusted", "unknown", or "failed" with a status' text.
  std::string state;
  std::string reason;
  // Of "failed": all that is known.
  std::string message = {};
};

// Not thread-safe; different machines may be used from different threads.
class SimNode {
 public:
  SimNode(const test::TpmMaker& maker, KeyType ek_type) : tpm_(maker, ek_type) {}

  const LieKind* lie = nullptr;
  // Whose things it shows, where its lie needs somebody else. Honest, and not in use meanwhile.
  SimNode* victim = nullptr;
  // As it says it of itself.
  std::string product = "simulated";
  std::string firmware_version = "1";
  // The event log of a boot other than the fixture's; null: that one.
  const std::string* event_log = nullptr;

  // One connection, one whole exchange.
  Answer Enrol(const ControllerAt& controller, const std::string& ca_pem, const test::MeasuredBoot& boot,
               bool renewing);
  // With the certificate it has: one connection, a check-in, and the quote that it asks for.
  Answer Attest(const ControllerAt& controller, const std::string& ca_pem, const test::MeasuredBoot& boot);

  test::SoftwareMachine& tpm() { return tpm_; }
  const std::string& node_id() const { return node_id_; }
  // PEM; what it got last.
  const std::string& chain() const { return chain_; }

 private:
  bool Lies(Act act) const { return lie != nullptr && lie->act == act; }
  Lie LieAt(Act act) const { return Lies(act) ? lie->lie : Lie::kNone; }
  v1::BeginRequest Offer(Lie telling, test::SoftwareMachine& shown) const;
  void Prove(const v1::BeginResponse& challenge, Lie telling, test::SoftwareMachine& shown,
             const test::MeasuredBoot& boot, v1::CompleteRequest& proof);

  test::SoftwareMachine tpm_;
  // Of an exchange before; what a liar replays.
  v1::Quote earlier_;
  std::string node_id_;
  std::string chain_;
};

}  // namespace sealift::sim
