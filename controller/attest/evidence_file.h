// Evidence of one verdict as a file: everything it takes to judge it again, years later, without controller,
// network or TPM.
//
// The format ("sealift-evidence", 1) is JSON and only grows. What the file claims is not believed: the
// quote's signature under the key in it is verified, the log replayed and compared again with the expected
// values in it. Whose key that is, and that a release predicted these values, the file does not prove:
// compare the EK digest and the releases' ids with the records of the time (docs/attestation.md).
// Thread-safe, pure.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "controller/attest/verifier.h"
#include "controller/fleet/stores.h"

namespace sealift::controller {

// Expected values as JSON, as the evidence store keeps them.
Bytes EncodeExpectations(std::span<const ExpectedRelease> releases);
// Errors: INVALID_ARGUMENT/EVIDENCE_INVALID, also where a release lacks a judged register.
Result<std::vector<ExpectedRelease>> DecodeExpectations(ByteView json);

std::string EncodeEvidenceFile(const EvidenceRecord& record, const Sha256Digest& ek_digest);

struct EvidenceFile {
  EvidenceRecord record;
  Sha256Digest ek_digest;
};
// At most kMaxEvidenceFileBytes. Errors: INVALID_ARGUMENT/EVIDENCE_INVALID.
inline constexpr std::size_t kMaxEvidenceFileBytes = 32u << 20;
Result<EvidenceFile> DecodeEvidenceFile(std::string_view text);

// Judges the record again and gives the verdict that follows from it. Errors:
// FAILED_PRECONDITION/EVIDENCE_INVALID where the record states another outcome, other reasons, findings or
// another release, or lacks what a judgement needs. Reasons about the epoch rest on another certification,
// which is not in the file: where they are all that differs, the record's verdict is given as it stands.
Result<Verdict> JudgeAgain(const EvidenceRecord& record);

}  // namespace sealift::controller
