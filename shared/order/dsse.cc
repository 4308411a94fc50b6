#include "shared/order/dsse.h"

#include <fmt/format.h>

#include "shared/order/fields.h"
#include "shared/tuf/json.h"

namespace sealift::order {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxTypeBytes = 128;
constexpr std::size_t kMaxSignatures = 8;
constexpr std::size_t kMaxSignatureBytes = 1024;
constexpr std::size_t kMaxKeyIdBytes = 64;

}  // namespace

Bytes PreAuthenticationEncoding(std::string_view payload_type, ByteView payload) {
  Bytes out = ToBytes(fmt::format("DSSEv1 {} {} {} ", payload_type.size(), payload_type, payload.size()));
  Append(out, payload);
  return out;
}

std::string FormatEnvelope(const DsseEnvelope& envelope) {
  json signatures = json::array();
  for (const DsseSignature& one : envelope.signatures)
    signatures.push_back({{"keyid", one.key_id}, {"sig", Base64Encode(one.signature)}});
  return WriteCanonical({{"payload", Base64Encode(envelope.payload)},
                         {"payloadType", envelope.payload_type},
                         {"signatures", signatures}});
}

Result<DsseEnvelope> ParseEnvelope(std::string_view text) {
  constexpr std::string_view kWhat = "envelope";
  // What others write has white space and members of its own; only the payload is signed, byte by byte.
  auto value = tuf::ParseJson(text, {.max_bytes = kMaxEnvelopeBytes, .max_depth = 4});
  if (!value.ok()) return Malformed(kWhat, MessageOf(value.status()));
  if (!value->is_object()) return Malformed(kWhat, "no object");
  Members members(*value, std::string(kWhat));
  DsseEnvelope envelope{.payload_type = members.Text("payloadType", kMaxTypeBytes),
                        .payload = members.Base64("payload", kMaxEnvelopeBytes),
                        .signatures = {}};
  for (const json& one : members.Array("signatures", kMaxSignatures)) {
    if (!one.is_object()) return Malformed(kWhat, "signatures: no object");
    Members signature(one, "signature of an envelope");
    DsseSignature read{.key_id = one.contains("keyid") ? signature.Text("keyid", kMaxKeyIdBytes) : "",
                       .signature = signature.Base64("sig", kMaxSignatureBytes)};
    SEALIFT_RETURN_IF_ERROR(signature.Finish());
    envelope.signatures.push_back(std::move(read));
  }
  SEALIFT_RETURN_IF_ERROR(members.Finish());
  if (envelope.signatures.empty()) return Malformed(kWhat, "no signature");
  return envelope;
}

Result<DsseEnvelope> SignEnvelope(Signer& signer, std::string payload_type, Bytes payload,
                                  std::string intent) {
  SEALIFT_ASSIGN_OR_RETURN(
      Bytes signature,
      signer.SignMessage(PreAuthenticationEncoding(payload_type, payload), std::move(intent)));
  return DsseEnvelope{.payload_type = std::move(payload_type),
                      .payload = std::move(payload),
                      .signatures = {{signer.public_key().key_id().hex(), std::move(signature)}}};
}

Status VerifyEnvelope(const DsseEnvelope& envelope, std::string_view payload_type,
                      std::span<const PublicKey> keys) {
  if (envelope.payload_type != payload_type) {
    return Malformed("envelope",
                     fmt::format("its payload is '{}', not '{}'", envelope.payload_type, payload_type));
  }
  const Bytes signed_bytes = PreAuthenticationEncoding(envelope.payload_type, envelope.payload);
  for (const PublicKey& key : keys) {
    for (const DsseSignature& one : envelope.signatures) {
      if (key.VerifyMessage(signed_bytes, one.signature, key.default_scheme()).ok()) return OkStatus();
    }
  }
  return MakeError(Code::kUnauthenticated, Reason::kOrderSignatureInvalid,
                   "verify envelope: none of its signatures is by a trusted key");
}

}  // namespace sealift::order
