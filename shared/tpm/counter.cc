#include "shared/tpm/counter.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/crypto/hash.h"

namespace sealift::tpm {
namespace {

constexpr std::uint16_t kCounterBytes = 8;

}  // namespace

Bytes CounterName(std::uint32_t handle) {
  // TPMS_NV_PUBLIC (Part 2, 13.5).
  ByteWriter area(ByteWriter::Endian::kBig);
  area.U32(handle);
  area.U16(kAlgSha256);
  area.U32(kCounterAttributes);
  area.U16(0);
  area.U16(kCounterBytes);
  ByteWriter name(ByteWriter::Endian::kBig);
  name.U16(kAlgSha256);
  name.Raw(Sha256(area.bytes()).view());
  return std::move(name).Finish();
}

Result<std::uint64_t> VerifyCounter(ByteView attest, ByteView signature, const PublicArea& attestation_key,
                                    ByteView nonce, std::uint32_t handle) {
  const auto refuse = [&](Reason reason, std::string_view cause) {
    return MakeError(Code::kInvalidArgument, reason,
                     fmt::format("verify TPM counter {:#x}: {}", handle, cause));
  };
  SEALIFT_ASSIGN_OR_RETURN(const Attest parsed, ParseAttest(attest, kStAttestNv, kCertifyReasons));
  SEALIFT_ASSIGN_OR_RETURN(const Signature parsed_signature,
                           ParseSignature(signature, Reason::kCertifyMalformed));
  if (!std::ranges::equal(parsed.extra_data, nonce))
    return refuse(Reason::kCertifyNonceStale, "it answers another nonce");
  const auto& nv = std::get<NvInfo>(parsed.info);
  if (nv.index_name != CounterName(handle))
    return refuse(Reason::kCertifyNameMismatch, "it names another index than this counter");
  if (nv.offset != 0 || nv.contents.size() != kCounterBytes)
    return refuse(Reason::kCertifyMalformed, "it is not of the whole counter");
  SEALIFT_RETURN_IF_ERROR(
      VerifySignature(attestation_key.key, attest, parsed_signature, Reason::kCertifySignatureInvalid));
  ByteReader reader(nv.contents, ByteReader::Endian::kBig);
  return reader.U64();
}

}  // namespace sealift::tpm
