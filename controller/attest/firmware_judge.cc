#include "controller/attest/firmware_judge.h"

#include "shared/base/log.h"

namespace sealift::controller {

Result<Bytes> FirmwareJudge::Judge(const NodeId& node, const std::optional<Hardware>& claimed,
                                   const FirmwareMeasurement& firmware, bool remember, UnixMillis now,
                                   Verdict& verdict) {
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<NodeHardware> known, store_.HardwareOf(node));
  if (!known && !claimed) return Bytes();
  Hardware hardware = claimed ? *claimed : known->hardware;
  if (known && hardware.model != known->hardware.model) {
    // Else a machine would choose what it is compared with.
    log::Warning("a node says that it is another hardware model than before",
                 {{"node", node.text()},
                  {"error", hardware.model.vendor + " " + hardware.model.product + " instead of " +
                                known->hardware.model.vendor + " " + known->hardware.model.product}});
    hardware.model = known->hardware.model;
  }
  const auto id = MeasuredBaselineId(hardware.model, firmware);
  if (remember && id && verdict.trust == Trust::kTrusted) {
    SEALIFT_RETURN_IF_ERROR(Remember(node, hardware, known, firmware, *id, now));
  }
  FirmwareExpectation expectation{.approved = {}, .confirmed = false, .outlier = rules_.outlier};
  SEALIFT_ASSIGN_OR_RETURN(expectation.approved, store_.Approved(hardware.model));
  if (id) {
    SEALIFT_ASSIGN_OR_RETURN(expectation.confirmed, store_.Confirmed(*id, rules_.machines));
  }
  JudgeFirmware(firmware, expectation, verdict);
  return EncodeFirmwareExpectation(expectation);
}

// A node quotes every hour and is updated once a year: nearly always there is nothing to write.
Status FirmwareJudge::Remember(const NodeId& node, const Hardware& hardware,
                               const std::optional<NodeHardware>& known, const FirmwareMeasurement& firmware,
                               const Sha256Digest& id, UnixMillis now) {
  if (known && *known == NodeHardware{.hardware = hardware, .baseline = id}) return OkStatus();
  const auto baseline = MeasuredBaseline(hardware, firmware);
  if (!baseline) return OkStatus();
  if (known && known->baseline != id) {
    log::Info("a node's firmware measures something else than before",
              {{"node", node.text()}, {"version", hardware.firmware_version}, {"key", id.hex()}});
  }
  return store_.Record(node, hardware, *baseline, now);
}

}  // namespace sealift::controller
