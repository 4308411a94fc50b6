#include "shared/tpm/quote.h"

#include <fmt/format.h>
#include <openssl/crypto.h>

#include <algorithm>

namespace sealift::tpm {
namespace {

Status Refuse(Reason reason, std::string_view cause) {
  return MakeError(Code::kInvalidArgument, reason, fmt::format("verify quote: {}", cause));
}

Status CheckSelection(const QuoteInfo& quote, const PcrValues& values,
                      std::span<const std::uint32_t> required) {
  PcrSelection expected{.hash = kAlgSha256, .pcrs = {}};
  for (const auto& [pcr, value] : values) expected.pcrs.push_back(pcr);
  if (quote.selections.size() != 1 || quote.selections.front() != expected) {
    return Refuse(Reason::kQuoteSelectionWrong,
                  "it covers other registers than the values that came with it");
  }
  for (const std::uint32_t pcr : required) {
    if (!values.contains(pcr)) {
      return Refuse(Reason::kQuoteSelectionWrong, fmt::format("PCR {} is not covered", pcr));
    }
  }
  return OkStatus();
}

Status DigestDiffers() {
  return Refuse(Reason::kQuoteDigestMismatch, "the register values sent do not hash to the quoted digest");
}

Status CheckDigest(const QuoteInfo& quote, const PcrValues& values, std::uint16_t hash) {
  Bytes concatenated;
  for (const auto& [pcr, value] : values) Append(concatenated, value.view());
  return HashWith(hash, concatenated) == quote.pcr_digest ? OkStatus() : DigestDiffers();
}

Status CheckNonce(const Attest& attest, ByteView nonce) {
  if (attest.extra_data.size() == nonce.size() &&
      CRYPTO_memcmp(attest.extra_data.data(), nonce.data(), nonce.size()) == 0) {
    return OkStatus();
  }
  return Refuse(Reason::kQuoteNonceStale, "it answers another nonce");
}

// Bank after bank in the order of the selection, as the TPM hashed them (part 3, 18.4).
Status CheckBanks(const QuoteInfo& quote,
                  const std::map<std::uint16_t, std::map<std::uint32_t, Bytes>>& values, std::uint16_t hash) {
  Bytes concatenated;
  for (const PcrSelection& selection : quote.selections) {
    const auto bank = values.find(selection.hash);
    for (const std::uint32_t pcr : selection.pcrs) {
      if (bank == values.end() || !bank->second.contains(pcr)) {
        return Refuse(Reason::kQuoteSelectionWrong,
                      fmt::format("no value is given for PCR {} of {}", pcr, AlgorithmName(selection.hash)));
      }
      Append(concatenated, bank->second.at(pcr));
    }
  }
  return HashWith(hash, concatenated) == quote.pcr_digest ? OkStatus() : DigestDiffers();
}

std::uint16_t HashOfSize(std::size_t size) {
  for (const std::uint16_t hash : {kAlgSha256, kAlgSha384, kAlgSha512, kAlgSha1}) {
    if (DigestSize(hash) == size) return hash;
  }
  return kAlgNull;
}

bool RestsOnSha1(const QuoteInfo& quote, const std::optional<Signature>& signature) {
  return (signature && signature->hash == kAlgSha1) ||
         std::ranges::any_of(quote.selections, [](const PcrSelection& selection) {
           return selection.hash == kAlgSha1 && !selection.pcrs.empty();
         });
}

}  // namespace

Result<VerifiedQuote> VerifyQuote(const QuoteEvidence& evidence, const PublicArea& attestation_key,
                                  ByteView nonce, std::span<const std::uint32_t> required) {
  SEALIFT_ASSIGN_OR_RETURN(const Attest attest, ParseAttest(evidence.attest, kStAttestQuote, kQuoteReasons));
  SEALIFT_ASSIGN_OR_RETURN(const Signature signature,
                           ParseSignature(evidence.signature, Reason::kQuoteMalformed));
  SEALIFT_RETURN_IF_ERROR(CheckNonce(attest, nonce));
  const auto& quote = std::get<QuoteInfo>(attest.info);
  SEALIFT_RETURN_IF_ERROR(CheckSelection(quote, evidence.pcrs, required));
  SEALIFT_RETURN_IF_ERROR(CheckDigest(quote, evidence.pcrs, signature.hash));
  SEALIFT_RETURN_IF_ERROR(
      VerifySignature(attestation_key.key, evidence.attest, signature, Reason::kQuoteSignatureInvalid));
  return VerifiedQuote(evidence.pcrs, attest, attestation_key.name);
}

Result<QuoteExamination> ExamineQuote(ByteView attest, std::optional<ByteView> signature,
                                      const QuoteChecks& checks) {
  QuoteExamination seen;
  SEALIFT_ASSIGN_OR_RETURN(seen.attest, ParseAttest(attest, kStAttestQuote, kQuoteReasons));
  if (signature) {
    SEALIFT_ASSIGN_OR_RETURN(seen.signature,
                             ParseSignature(*signature, Reason::kQuoteMalformed, SignatureHashes::kAny));
  }
  const auto note = [&](QuoteCheck& check, const Status& found) {
    check = found.ok() ? QuoteCheck::kOk : QuoteCheck::kBad;
    if (seen.problem.ok()) seen.problem = found;
  };
  if (checks.nonce) note(seen.nonce_check, CheckNonce(seen.attest, *checks.nonce));
  // The digest's hash is that of the signature; without one its size has to tell.
  const std::uint16_t hash =
      seen.signature ? seen.signature->hash : HashOfSize(seen.quote().pcr_digest.size());
  if (checks.pcrs && hash != kAlgNull) note(seen.pcr_check, CheckBanks(seen.quote(), *checks.pcrs, hash));
  if (checks.pcrs && hash == kAlgNull) note(seen.pcr_check, DigestDiffers());
  if (checks.key != nullptr && seen.signature) {
    note(seen.signature_check,
         VerifySignature(checks.key, attest, *seen.signature, Reason::kQuoteSignatureInvalid));
  }
  if (!checks.allow_sha1 && seen.problem.ok() && RestsOnSha1(seen.quote(), seen.signature)) {
    seen.problem = Refuse(Reason::kQuoteAlgorithmWeak, "it rests on SHA-1");
  }
  return seen;
}

}  // namespace sealift::tpm
