// What the services need from rooms that they do not know: seams of plain values, filled in by the
// composition root. All implementations are thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "controller/fleet/baseline.h"
#include "controller/fleet/node.h"
#include "controller/fleet/stores.h"
#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::controller {

// A quote as a node sent it; nothing of it is believed yet.
struct AttestationEvidence {
  Bytes attest;
  Bytes signature;
  Bytes event_log;
  std::map<std::uint32_t, Sha256Digest> pcrs;
  // What the machine says that it is.
  std::optional<Hardware> hardware = std::nullopt;
};

// A verdict and what it rests on besides the evidence (EvidenceRecord).
struct Judgement {
  Verdict verdict;
  std::optional<QuoteClock> before;
  Bytes expected;
  Bytes baseline = {};
};

// Turns a quote into a verdict.
class NodeAttestor {
 public:
  virtual ~NodeAttestor() = default;
  // Bad evidence is a verdict (untrusted, with reasons), not an error. Errors: what kept it from deciding at
  // all.
  virtual Result<Judgement> Attest(const Node& node, const AttestationEvidence& evidence, ByteView nonce,
                                   UnixMillis now) = 0;
};

// Counters; names of metrics are the implementation's business.
class Metrics {
 public:
  virtual ~Metrics() = default;
  // `method`: one of the authorisation table or "unknown".
  virtual void CountRpc(std::string_view method, Code code) = 0;
  virtual void CountVerdict(Trust trust) = 0;
  virtual void CountContentBytes(std::uint64_t bytes) = 0;
  // What the attestation policy did by itself (PolicyEnforcer).
  virtual void CountPolicyAct(std::string_view act) = 0;
};

}  // namespace sealift::controller
