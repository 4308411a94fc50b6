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

Status CheckDigest(const QuoteInfo& quote, const PcrValues& values, std::uint16_t hash) {
  Bytes concatenated;
  for (const auto& [pcr, value] : values) Append(concatenated, value.view());
  if (HashWith(hash, concatenated) != quote.pcr_digest) {
    return Refuse(Reason::kQuoteDigestMismatch, "the register values sent do not hash to the quoted digest");
  }
  return OkStatus();
}

}  // namespace

Result<VerifiedQuote> VerifyQuote(const QuoteEvidence& evidence, const PublicArea& attestation_key,
                                  ByteView nonce, std::span<const std::uint32_t> required) {
  SEALIFT_ASSIGN_OR_RETURN(const Attest attest, ParseAttest(evidence.attest, kStAttestQuote, kQuoteReasons));
  SEALIFT_ASSIGN_OR_RETURN(const Signature signature,
                           ParseSignature(evidence.signature, Reason::kQuoteMalformed));
  if (attest.extra_data.size() != nonce.size() ||
      CRYPTO_memcmp(attest.extra_data.data(), nonce.data(), nonce.size()) != 0) {
    return Refuse(Reason::kQuoteNonceStale, "it answers another nonce");
  }
  const auto& quote = std::get<QuoteInfo>(attest.info);
  SEALIFT_RETURN_IF_ERROR(CheckSelection(quote, evidence.pcrs, required));
  SEALIFT_RETURN_IF_ERROR(CheckDigest(quote, evidence.pcrs, signature.hash));
  SEALIFT_RETURN_IF_ERROR(
      VerifySignature(attestation_key.key, evidence.attest, signature, Reason::kQuoteSignatureInvalid));
  return VerifiedQuote(evidence.pcrs, attest, attestation_key.name);
}

}  // namespace sealift::tpm
