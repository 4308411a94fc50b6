// Verifies TPM2_Quote: a TPM says what its registers hold, now, under a key that only it has.
//
// Thread-safe, pure. Knows nothing about which register values are good; see controller/attest for that.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>

#include "shared/base/bytes.h"
#include "shared/tpm/structures.h"

namespace sealift::tpm {

// Registers of the SHA-256 bank, by index.
using PcrValues = std::map<std::uint32_t, Sha256Digest>;

// A quote as it travels. All of it is untrusted until VerifyQuote has looked at it.
struct QuoteEvidence {
  // TPMS_ATTEST.
  Bytes attest;
  // TPMT_SIGNATURE.
  Bytes signature;
  PcrValues pcrs;
};

class VerifiedQuote;

// The checks, in this order, each with its own reason:
//   QUOTE_MALFORMED         attest, signature: lengths, trailing bytes, unknown algorithms
//   QUOTE_MAGIC_WRONG       not made by a TPM
//   QUOTE_TYPE_WRONG        a TPM made it, but it is no quote
//   QUOTE_NONCE_STALE       extraData is not `nonce`
//   QUOTE_SELECTION_WRONG   not exactly the SHA-256 registers in `evidence.pcrs`, or one of `required` lacks
//   QUOTE_DIGEST_MISMATCH   `evidence.pcrs` do not hash to what was quoted
//   QUOTE_SIGNATURE_INVALID not signed by `attestation_key` (code UNAUTHENTICATED; the others
//                           INVALID_ARGUMENT)
// `attestation_key` must have passed CheckAttestationKey: an unrestricted key signs anything it is given.
Result<VerifiedQuote> VerifyQuote(const QuoteEvidence& evidence, const PublicArea& attestation_key,
                                  ByteView nonce, std::span<const std::uint32_t> required);

// Evidence that VerifyQuote succeeded; nothing else makes one. An immutable value.
class VerifiedQuote {
 public:
  const PcrValues& pcrs() const { return pcrs_; }
  const ClockInfo& clock() const { return clock_; }
  std::uint64_t firmware_version() const { return firmware_version_; }
  // Name of the attestation key that signed.
  const Bytes& signer_name() const { return signer_name_; }

 private:
  friend Result<VerifiedQuote> VerifyQuote(const QuoteEvidence&, const PublicArea&, ByteView,
                                           std::span<const std::uint32_t>);
  VerifiedQuote(PcrValues pcrs, const Attest& attest, Bytes signer_name)
      : pcrs_(std::move(pcrs)),
        clock_(attest.clock),
        firmware_version_(attest.firmware_version),
        signer_name_(std::move(signer_name)) {}

  PcrValues pcrs_;
  ClockInfo clock_;
  std::uint64_t firmware_version_;
  Bytes signer_name_;
};

// --- for looking at what others made

// What an attestation is looked at with. Borrows the key.
struct QuoteChecks {
  EVP_PKEY* key = nullptr;
  std::optional<Bytes> nonce;
  // By bank (TPM_ALG_ID) and register.
  std::optional<std::map<std::uint16_t, std::map<std::uint32_t, Bytes>>> pcrs;
  bool allow_sha1 = false;
};

enum class QuoteCheck { kNotChecked, kOk, kBad };

struct QuoteExamination {
  Attest attest;
  std::optional<Signature> signature;
  QuoteCheck signature_check = QuoteCheck::kNotChecked;
  QuoteCheck nonce_check = QuoteCheck::kNotChecked;
  QuoteCheck pcr_check = QuoteCheck::kNotChecked;
  // OK, or the first thing that is wrong, with a reason of VerifyQuote or QUOTE_ALGORITHM_WEAK. Without a key
  // and a signature nothing is verified: then it means only that what was checked is right.
  Status problem;
  const QuoteInfo& quote() const { return std::get<QuoteInfo>(attest.info); }
};

// The same parsers and checks as VerifyQuote, for any banks and hashes; each check on its own. `signature`:
// TPMT_SIGNATURE, or nothing. Errors: QUOTE_MALFORMED, QUOTE_MAGIC_WRONG, QUOTE_TYPE_WRONG.
Result<QuoteExamination> ExamineQuote(ByteView attest, std::optional<ByteView> signature,
                                      const QuoteChecks& checks);

}  // namespace sealift::tpm
