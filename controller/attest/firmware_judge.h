// What a node's firmware shows, judged by the baselines of its model and remembered for them.
#pragma once

#include "controller/attest/firmware.h"
#include "controller/fleet/baseline.h"

namespace sealift::controller {

struct BaselineRules {
  // So many machines of a model and firmware version, and more than half of them, confirm what they show.
  std::uint32_t machines = 3;
  // What a machine is that shows neither an approved baseline of its model nor a confirmed one.
  Trust outlier = Trust::kUnknown;
};

// Thread-safe. Borrows the store.
class FirmwareJudge {
 public:
  FirmwareJudge(BaselineStore& store, BaselineRules rules) : store_(store), rules_(rules) {}

  // `claimed`: what the machine says it is; what it said first counts, for vendor and product. A machine that
  // never said anything is not judged. `remember`: a running node whose verdict is trusted so far proposes
  // what it shows. Changes `verdict` as JudgeFirmware does. Gives what it was measured against, encoded;
  // empty where it was not. Errors: those of the store.
  Result<Bytes> Judge(const NodeId& node, const std::optional<Hardware>& claimed,
                      const FirmwareMeasurement& firmware, bool remember, UnixMillis now, Verdict& verdict);

 private:
  // Whether it was written.
  Status Remember(const NodeId& node, const Hardware& hardware, const std::optional<NodeHardware>& known,
                  const FirmwareMeasurement& firmware, const Sha256Digest& id, UnixMillis now);

  BaselineStore& store_;
  const BaselineRules rules_;
};

}  // namespace sealift::controller
