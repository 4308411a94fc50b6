// Compares what a machine's firmware measured with its model's baselines.
//
// Types of events decide nothing: they are not measured. Of PCR 1 boot variables are left out, which differ
// from machine to machine, and only where the digest proves the event to be one; which other events are not
// compared is said by the approved baseline, never by the machine. Pure functions; thread-safe.
#pragma once

#include <optional>
#include <vector>

#include "controller/attest/verifier.h"
#include "controller/fleet/baseline.h"

namespace sealift::controller {

// More events than any firmware writes; of a longer log there is no baseline.
inline constexpr std::size_t kMaxBaselineEvents = 1024;

// The digest is of a variable BootOrder or Boot#### (UEFI 3.3), name and all, or of what may only be the
// content of one.
bool IsBootVariable(const tpm::Event& event);

// Nothing where the quote does not cover all of kFirmwarePcrs or the log does not lead to them.
std::optional<Baseline> MeasuredBaseline(const Hardware& hardware, const FirmwareMeasurement& firmware);
// The same's id, at a fraction of the cost.
std::optional<Sha256Digest> MeasuredBaselineId(const HardwareModel& model,
                                               const FirmwareMeasurement& firmware);

// In words: the first event of PCR 0 to 3 in which `found` is not `wanted`. Empty where none is.
std::string FirstDifference(const Baseline& wanted, const Baseline& found);

// What a machine's firmware is measured against.
struct FirmwareExpectation {
  // Of the model, newest approval first. Empty: none yet.
  std::vector<Baseline> approved;
  // What this machine shows most of its model and firmware version show, too.
  bool confirmed = false;
  // What a machine is that shows neither: kUnknown or kUntrusted.
  Trust outlier = Trust::kUnknown;
  bool operator==(const FirmwareExpectation&) const = default;
};

// Adds to `verdict`, whose trust only falls:
//   nothing approved    findings "unknown", note BASELINE_UNAPPROVED
//   an approved one     findings "match"
//   else confirmed      findings "match" and "unknown", note BASELINE_UNAPPROVED
//   else                findings "match" and "mismatch" with what differs from the approved one that is
//                       closest; trust `outlier`, and a reason: EVENT_LOG_MISMATCH where the log does not
//                       lead to a register, QUOTE_SELECTION_WRONG where one was not quoted, else
//                       EVENT_NOT_ALLOWED
void JudgeFirmware(const FirmwareMeasurement& firmware, const FirmwareExpectation& expectation,
                   Verdict& verdict);

// As the evidence and the store keep them: JSON.
std::string EncodeBaseline(const Baseline& baseline);
// Errors: INVALID_ARGUMENT/EVIDENCE_INVALID.
Result<Baseline> DecodeBaseline(std::string_view json);
Bytes EncodeFirmwareExpectation(const FirmwareExpectation& expectation);
Result<FirmwareExpectation> DecodeFirmwareExpectation(ByteView json);

}  // namespace sealift::controller
