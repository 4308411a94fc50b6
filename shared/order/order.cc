#include "shared/order/order.h"

#include <fmt/format.h>

#include "shared/crypto/hash.h"
#include "shared/order/delegation.h"
#include "shared/order/dsse.h"
#include "shared/order/fields.h"

namespace sealift::order {
namespace {

using nlohmann::json;

constexpr std::string_view kWhat = "order";
constexpr std::string_view kType = "sealift-order";
constexpr std::size_t kMaxPersonCertificateBytes = 4096;
constexpr std::size_t kMaxPersonSignatureBytes = 1024;
constexpr std::size_t kMaxPayloadBytes = 48 * 1024;
constexpr std::size_t kMaxDelegationBytes = 24 * 1024;

json PersonJson(const PersonSignature& person) {
  return {{"certificate", Base64Encode(person.certificate)}, {"signature", Base64Encode(person.signature)}};
}

Result<PersonSignature> PersonFrom(const json& value, const char* who) {
  Members members(value, fmt::format("{} of an order", who));
  PersonSignature person{.certificate = members.Base64("certificate", kMaxPersonCertificateBytes),
                         .signature = members.Base64("signature", kMaxPersonSignatureBytes)};
  SEALIFT_RETURN_IF_ERROR(members.Finish());
  return person;
}

Result<OrderParts> ParsePayload(std::string_view payload) {
  SEALIFT_ASSIGN_OR_RETURN(const json value, ParseCanonical(payload, kWhat, kMaxPayloadBytes));
  Members members(value, std::string(kWhat));
  members.Expect("type", kType);
  if (members.Number("schema", 1) != 1) members.Problem("schema", "not 1");
  OrderParts parts;
  parts.issued = members.Time("issued");
  parts.delegation = members.Text("delegation", kMaxDelegationBytes);
  const json& request = members.Object("request");
  const json& requester = members.Object("requester");
  const json& approver = members.Object("approver");
  SEALIFT_RETURN_IF_ERROR(members.Finish());
  // The whole is canonical, so this part is what the persons signed.
  parts.canonical = WriteCanonical(request);
  SEALIFT_ASSIGN_OR_RETURN(parts.requester, PersonFrom(requester, "requester"));
  SEALIFT_ASSIGN_OR_RETURN(parts.approver, PersonFrom(approver, "approver"));
  return parts;
}

Status CheckContext(const ChangeRequest& request, const OrderContext& context) {
  if (context.now >= request.expires) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kOrderExpired,
        fmt::format("verify order {}: its time ended {}", request.id, FormatRfc3339(request.expires)));
  }
  if (request.ek_digest != context.ek_digest) {
    return MakeError(Code::kPermissionDenied, Reason::kOrderForeign,
                     fmt::format("verify order {}: it is for the machine with EK {}", request.id,
                                 request.ek_digest.hex().substr(0, 16)));
  }
  if (context.nonce.size() != kNonceBytes || request.nonce != context.nonce) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kOrderReplayed,
        fmt::format("verify order {}: it answers another nonce than this machine's", request.id));
  }
  return OkStatus();
}

}  // namespace

Result<std::string> MakeOrder(const OrderParts& parts, Signer& orders) {
  SEALIFT_ASSIGN_OR_RETURN(const ChangeRequest request, ParseChangeRequest(parts.canonical));
  SEALIFT_ASSIGN_OR_RETURN(const json canonical,
                           ParseCanonical(parts.canonical, "request", kMaxRequestBytes));
  const std::string payload = WriteCanonical({{"type", kType},
                                              {"schema", 1},
                                              {"issued", ToUnixMs(parts.issued)},
                                              {"delegation", parts.delegation},
                                              {"request", canonical},
                                              {"requester", PersonJson(parts.requester)},
                                              {"approver", PersonJson(parts.approver)}});
  SEALIFT_RETURN_IF_ERROR(ParsePayload(payload).status());
  SEALIFT_ASSIGN_OR_RETURN(const DsseEnvelope envelope,
                           SignEnvelope(orders, std::string(kOrderPayloadType), ToBytes(payload),
                                        fmt::format("order {} {} for node {}", ActionName(request.action),
                                                    request.id, request.node.text())));
  std::string text = FormatEnvelope(envelope);
  if (text.size() > kMaxEnvelopeBytes) return Malformed(kWhat, "too large");
  return text;
}

Result<VerifiedOrder> VerifyOrder(std::string_view text, const OrderContext& context) {
  SEALIFT_ASSIGN_OR_RETURN(const DsseEnvelope envelope, ParseEnvelope(text));
  if (envelope.payload_type != kOrderPayloadType) return Malformed(kWhat, "another kind of payload");
  SEALIFT_ASSIGN_OR_RETURN(const OrderParts parts, ParsePayload(AsText(envelope.payload)));
  SEALIFT_ASSIGN_OR_RETURN(const Delegation delegation,
                           VerifyDelegation(parts.delegation, context.orders_root, context.now));
  SEALIFT_RETURN_IF_ERROR(
      Annotate(VerifyEnvelope(envelope, kOrderPayloadType, delegation.orders), "verify order"));
  SEALIFT_ASSIGN_OR_RETURN(ChangeRequest request, ParseChangeRequest(parts.canonical));
  SEALIFT_RETURN_IF_ERROR(CheckContext(request, context));

  const UnixMillis at = std::max(context.now, request.created);
  SEALIFT_ASSIGN_OR_RETURN(const Person requester,
                           VerifyPerson(parts.requester, parts.canonical, delegation.operator_cas, at));
  SEALIFT_ASSIGN_OR_RETURN(Person approver,
                           VerifyPerson(parts.approver, parts.canonical, delegation.operator_cas, at));
  SEALIFT_RETURN_IF_ERROR(CheckTwoPersons(request, requester, parts.requester, approver, parts.approver));
  return VerifiedOrder(std::move(request), Sha256(AsBytes(parts.canonical)), std::move(approver));
}

Result<OrderLabel> ReadOrderLabel(std::string_view text) {
  SEALIFT_ASSIGN_OR_RETURN(const DsseEnvelope envelope, ParseEnvelope(text));
  if (envelope.payload_type != kOrderPayloadType) return Malformed(kWhat, "another kind of payload");
  SEALIFT_ASSIGN_OR_RETURN(const OrderParts parts, ParsePayload(AsText(envelope.payload)));
  SEALIFT_ASSIGN_OR_RETURN(ChangeRequest request, ParseChangeRequest(parts.canonical));
  return OrderLabel{.digest = Sha256(AsBytes(parts.canonical)), .request = std::move(request)};
}

}  // namespace sealift::order
