// Enrolment exchanges under way: one nonce and one secret each, used once, short-lived.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "shared/base/clock.h"
#include "shared/base/ids.h"
#include "shared/base/secret.h"
#include "shared/base/status.h"

namespace sealift::controller {

// On the wire; do not renumber (proto CompleteResponse.State).
enum class EnrolmentState { kIssued = 1, kPending = 2, kRefused = 3 };

struct EnrolmentAnswer {
  EnrolmentState state = EnrolmentState::kRefused;
  // DER, leaf first, without the root; of kIssued only.
  std::vector<Bytes> certificate_chain;
  std::optional<NodeId> node_id;
  // Reason id and one sentence that gives nothing away about what was expected; of the others.
  std::string reason;
  std::string message;
};

// What Begin learnt and Complete needs.
struct EnrolmentSession {
  std::string id;
  Sha256Digest ek_digest;
  // The maker's certificate was shown and holds.
  bool certified = false;
  // EnrolmentOffer::origin.
  std::string origin;
  // TPM2B_PUBLIC; both passed their checks.
  Bytes ak_public;
  Bytes tls_public;
  // Of the join token it brought; one that is none has no hash.
  std::optional<Sha256Digest> join_token_hash;
  bool brought_token = false;
  // What the machine's TPM has to give back.
  SecretBytes secret;
  Bytes nonce;
  UnixMillis expires;
};

// A claimed session, or the answer that ended it before.
struct SessionClaim {
  std::shared_ptr<const EnrolmentSession> session;
  std::optional<EnrolmentAnswer> answer;
};

// Thread-safe. Implementations keep at most a bounded number of sessions; when there are more, the oldest of
// the origin that has most goes first, so that a flood from one address pushes out its own.
class EnrolmentSessions {
 public:
  virtual ~EnrolmentSessions() = default;
  virtual Status Open(EnrolmentSession session) = 0;
  // At most one caller holds a session. Errors: NOT_FOUND/ENROLMENT_SESSION_UNKNOWN, also for an expired one;
  // ABORTED/ENROLMENT_SESSION_UNKNOWN while another holds it.
  virtual Result<SessionClaim> Claim(const std::string& id, UnixMillis now) = 0;
  // Ends a claimed session; later claims get `answer` until it expires.
  virtual Status Finish(const std::string& id, const EnrolmentAnswer& answer) = 0;
  // Gives a claimed session back undecided.
  virtual Status Release(const std::string& id) = 0;
};

// Sessions of one process: a machine whose session is lost with it begins again.
std::unique_ptr<EnrolmentSessions> MakeMemoryEnrolmentSessions(std::size_t capacity = 4096);

}  // namespace sealift::controller
