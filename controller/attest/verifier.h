// Judges what a machine booted: quoted registers and event log against what releases predict.
//
// A verdict is evidence, not an opinion: each register with what was expected, what was found, and the first
// event that differs, in words. Pure functions over plain values; thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "controller/fleet/node.h"
#include "shared/tpm/event_log.h"
#include "shared/tpm/quote.h"

namespace sealift::controller {

// Decided by release and key set alone: what was started (4), Secure Boot (7), the image's content (11), what
// came beside it (12, 13). Other registers are reported as "unpredicted".
inline constexpr std::array<std::uint32_t, 5> kJudgedPcrs{4, 7, 11, 12, 13};

struct ExpectedEvent {
  // "image EFI/BOOT/BOOTX64.EFI", "variable db", "phase sysinit".
  std::string description;
  Sha256Digest digest;
};

// One value that a register may have, and how it comes about.
struct ExpectedValue {
  // What tells it from the others: "phase sysinit:ready", "boot loader 1a2b...".
  std::string label;
  Sha256Digest value;
  std::vector<ExpectedEvent> events;
};

// A release as its machines' registers show it.
struct ExpectedRelease {
  ReleaseId id;
  std::string version;
  // Never empty for a judged register. PCR 11: in the order the phases pass, the running system's last.
  std::map<std::uint32_t, std::vector<ExpectedValue>> registers;
  // Authenticode digests: what firmware may start on the way to this release, the image itself among them.
  std::vector<Sha256Digest> allowed_images;
  Sha256Digest uki;
};

// At enrolment a machine may be anywhere in its boot; later only the last phase counts.
enum class PhaseRule { kAnyPhase, kFinalPhase };

// `candidates`: every release that would be right for someone; the one that the registers show is named in
// the verdict. Outcomes:
//   trusted    every judged register is as one candidate predicts, and the log leads to 4 and 7. Also, with
//              degraded_boot, when firmware tried other boot options around allowed images only.
//   untrusted  QUOTE_PCR_MISMATCH: another value; EVENT_LOG_MISMATCH: the log does not lead to the registers;
//              EVENT_NOT_ALLOWED, besides: the log leads there, but over an event that no candidate allows in
//              that register. Types of events are never asked: they are not measured.
//   unknown    BASELINE_UNAPPROVED: PCR 7 is as predicted but for the event of dbx (attest/revocations.h),
//              and everything else is as it should be.
//              RELEASE_UNKNOWN: Secure Boot is as predicted, but neither the image nor how it was started is
//              known; an image around a candidate's initrd is that candidate, changed, and untrusted
Verdict Judge(const tpm::VerifiedQuote& quote, const tpm::EventLog& log,
              std::span<const ExpectedRelease> candidates, PhaseRule phases, UnixMillis now);

// What firmware measured before anything of ours ran: its code and configuration (0, 1), and those of add-in
// cards (2, 3). No release predicts it; attest/firmware.h compares it with the model's baselines.
inline constexpr std::array<std::uint32_t, 4> kFirmwarePcrs{0, 1, 2, 3};
struct FirmwareMeasurement {
  // Those of kFirmwarePcrs that the quote covers, and which of them the log leads to.
  tpm::PcrValues registers;
  std::set<std::uint32_t> explained;
  tpm::EventLog log;
};

// What a machine sends.
struct Evidence {
  tpm::QuoteEvidence quote;
  // As the firmware wrote it, unparsed.
  Bytes event_log;
};

// VerifyQuote over the judged registers, then Judge. A log that cannot be read makes the verdict untrusted.
// Errors: those of VerifyQuote: the evidence is not this machine's, or not of now, and says nothing about it.
Result<Verdict> JudgeEvidence(const Evidence& evidence, const tpm::PublicArea& attestation_key,
                              ByteView nonce, std::span<const ExpectedRelease> candidates, PhaseRule phases,
                              UnixMillis now);

// The same, with what the firmware measured; nothing of it where the log could not be read.
struct JudgedMachine {
  Verdict verdict;
  std::optional<FirmwareMeasurement> firmware;
};
Result<JudgedMachine> ExamineEvidence(const Evidence& evidence, const tpm::PublicArea& attestation_key,
                                      ByteView nonce, std::span<const ExpectedRelease> candidates,
                                      PhaseRule phases, UnixMillis now);

// JudgeEvidence of a running node, as a verdict in every case. `before`: how far the TPM had come at the
// node's last quote. Besides: QUOTE_CLOCK_BACKWARDS where this quote is from before (the counters wrap, as
// TPMs add a constant of their own for keys outside the endorsement hierarchy, part 1, 36.7); note
// FIRMWARE_CHANGED.
Verdict JudgeMachine(const Evidence& evidence, const tpm::PublicArea& attestation_key, ByteView nonce,
                     std::span<const ExpectedRelease> candidates, PhaseRule phases,
                     const std::optional<QuoteClock>& before, UnixMillis now);
// The same, with what the firmware measured, where the quote held.
JudgedMachine ExamineMachine(const Evidence& evidence, const tpm::PublicArea& attestation_key, ByteView nonce,
                             std::span<const ExpectedRelease> candidates, PhaseRule phases,
                             const std::optional<QuoteClock>& before, UnixMillis now);

// Untrusted, with the reason of an error, for evidence that JudgeEvidence refused.
Verdict RefusedEvidence(const Status& error, UnixMillis now);

}  // namespace sealift::controller
