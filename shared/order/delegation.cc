#include "shared/order/delegation.h"

#include <fmt/format.h>

#include "shared/order/dsse.h"
#include "shared/order/fields.h"

namespace sealift::order {
namespace {

using nlohmann::json;

constexpr std::string_view kWhat = "delegation of orders";
constexpr std::string_view kType = "sealift-orders-delegation";
constexpr std::size_t kMaxKeys = 8;
constexpr std::size_t kMaxKeyBytes = 1024;
constexpr std::size_t kMaxPayloadBytes = 48 * 1024;

Result<Bytes> Item(const json& item, std::size_t max_bytes) {
  if (!item.is_string() || item.get_ref<const std::string&>().size() > max_bytes * 2)
    return Malformed(kWhat, "a key or certificate is no text, or too long");
  auto bytes = Base64Decode(item.get_ref<const std::string&>());
  if (!bytes.ok()) return Malformed(kWhat, "a key or certificate is no base64");
  return bytes;
}

Result<Delegation> ParsePayload(std::string_view payload) {
  SEALIFT_ASSIGN_OR_RETURN(const json value, ParseCanonical(payload, kWhat, kMaxPayloadBytes));
  Members members(value, std::string(kWhat));
  members.Expect("type", kType);
  if (members.Number("schema", 1) != 1) members.Problem("schema", "not 1");
  Delegation delegation;
  delegation.issued = members.Time("issued");
  delegation.expires = members.Time("expires");
  const json& orders = members.Array("orders", kMaxKeys);
  const json& operator_cas = members.Array("operator_cas", kMaxKeys);
  SEALIFT_RETURN_IF_ERROR(members.Finish());
  for (const json& item : orders) {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes der, Item(item, kMaxKeyBytes));
    auto key = PublicKey::FromDer(der);
    if (!key.ok()) return Malformed(kWhat, MessageOf(key.status()));
    delegation.orders.push_back(*std::move(key));
  }
  for (const json& item : operator_cas) {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes der, Item(item, 4 * kMaxKeyBytes));
    auto certificate = Certificate::FromDer(der);
    if (!certificate.ok()) return Malformed(kWhat, MessageOf(certificate.status()));
    delegation.operator_cas.push_back(*std::move(certificate));
  }
  if (delegation.orders.empty() || delegation.operator_cas.empty())
    return Malformed(kWhat, "it names no orders key or no operator CA");
  return delegation;
}

}  // namespace

Result<std::string> MakeDelegation(const Delegation& delegation, Signer& orders_root) {
  json orders = json::array();
  for (const PublicKey& key : delegation.orders) orders.push_back(Base64Encode(key.spki_der()));
  json operator_cas = json::array();
  for (const Certificate& ca : delegation.operator_cas) operator_cas.push_back(Base64Encode(ca.der()));
  const std::string payload = WriteCanonical({{"type", kType},
                                              {"schema", 1},
                                              {"issued", ToUnixMs(delegation.issued)},
                                              {"expires", ToUnixMs(delegation.expires)},
                                              {"orders", orders},
                                              {"operator_cas", operator_cas}});
  SEALIFT_RETURN_IF_ERROR(ParsePayload(payload).status());
  SEALIFT_ASSIGN_OR_RETURN(
      const DsseEnvelope envelope,
      SignEnvelope(orders_root, std::string(kDelegationPayloadType), ToBytes(payload),
                   fmt::format("delegation of orders until {}", FormatRfc3339(delegation.expires))));
  return FormatEnvelope(envelope);
}

Result<Delegation> VerifyDelegation(std::string_view text, const PublicKey& orders_root, UnixMillis now) {
  SEALIFT_ASSIGN_OR_RETURN(const DsseEnvelope envelope, ParseEnvelope(text));
  SEALIFT_RETURN_IF_ERROR(Annotate(VerifyEnvelope(envelope, kDelegationPayloadType, {&orders_root, 1}),
                                   "verify delegation of orders"));
  SEALIFT_ASSIGN_OR_RETURN(Delegation delegation, ParsePayload(AsText(envelope.payload)));
  if (now >= delegation.expires) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kOrderExpired,
        fmt::format("verify delegation of orders: it ended {}; make another one with sealift keys "
                    "delegate-orders",
                    FormatRfc3339(delegation.expires)));
  }
  return delegation;
}

}  // namespace sealift::order
