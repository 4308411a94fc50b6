#include "node-agent/volume/volume_token.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

namespace sealift::agent {
namespace {

using nlohmann::ordered_json;

constexpr int kFormat = 1;
constexpr std::size_t kMaxTokenBytes = 16u << 10;
constexpr std::uint32_t kMaxSlot = 31;
constexpr std::uint32_t kPcrCount = 24;
constexpr std::size_t kMaxVolumeName = 36;
constexpr std::size_t kMaxOrderBytes = 64;

Status Foreign(std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kVolumeForeign,
                   "read volume's token: " + std::string(why));
}

Result<ordered_json> Object(std::string_view json) {
  if (json.size() > kMaxTokenBytes) return Foreign("it is too large");
  ordered_json object = ordered_json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return Foreign("it is no JSON object");
  return object;
}

bool IsVolumeName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxVolumeName &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") ==
             std::string_view::npos;
}

const std::string* Text(const ordered_json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() ? nullptr : found->get_ptr<const std::string*>();
}

Result<Bytes> Base64(const ordered_json& object, const char* name) {
  const std::string* text = Text(object, name);
  if (text == nullptr) return Foreign(std::string("it has no ") + name);
  Result<Bytes> bytes = Base64Decode(*text);
  if (!bytes.ok()) return Foreign(std::string("its ") + name + " does not decode");
  return bytes;
}

Result<std::uint32_t> Slot(const ordered_json& object) {
  const auto slots = object.find("keyslots");
  const std::string* text = slots != object.end() && slots->is_array() && slots->size() == 1
                                ? slots->front().get_ptr<const std::string*>()
                                : nullptr;
  std::uint32_t slot = 0;
  if (text == nullptr) return Foreign("it names other than one key slot");
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), slot);
  if (error != std::errc() || end != text->data() + text->size() || slot > kMaxSlot)
    return Foreign("it names no key slot");
  return slot;
}

Result<std::vector<std::uint32_t>> Pcrs(const ordered_json& object, const char* name) {
  const auto list = object.find(name);
  if (list == object.end() || !list->is_array() || list->size() > kPcrCount)
    return Foreign(std::string("it has no ") + name);
  std::vector<std::uint32_t> pcrs;
  for (const ordered_json& pcr : *list) {
    if (!pcr.is_number_unsigned() || pcr.get<std::uint64_t>() >= kPcrCount ||
        (!pcrs.empty() && pcr.get<std::uint32_t>() <= pcrs.back()))
      return Foreign(std::string("its ") + name + " are no ascending PCRs");
    pcrs.push_back(pcr.get<std::uint32_t>());
  }
  return pcrs;
}

Result<tpm::PcrValues> Literal(const ordered_json& object) {
  const auto list = object.find("literal_pcrs");
  if (list == object.end() || !list->is_object() || list->size() > kPcrCount)
    return Foreign("it has no literal_pcrs");
  tpm::PcrValues values;
  for (const auto& [name, value] : list->items()) {
    std::uint32_t pcr = kPcrCount;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pcr);
    const std::string* hex = value.get_ptr<const std::string*>();
    if (error != std::errc() || end != name.data() + name.size() || pcr >= kPcrCount || hex == nullptr)
      return Foreign("its literal_pcrs are no PCRs");
    const auto digest = Sha256Digest::FromHex(*hex);
    if (!digest.ok()) return Foreign("its literal_pcrs have no digests");
    values[pcr] = *digest;
  }
  return values;
}

}  // namespace

bool IsOrderId(std::string_view text) {
  return !text.empty() && text.size() <= kMaxOrderBytes &&
         text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string_view::npos;
}

std::string FormatSealedToken(const SealedToken& token) {
  ordered_json literal = ordered_json::object();
  for (const auto& [pcr, value] : token.policy.literal) literal[std::to_string(pcr)] = value.hex();
  ordered_json object;
  object["type"] = kSealedTokenType;
  object["keyslots"] = ordered_json::array({std::to_string(token.slot)});
  object["format"] = kFormat;
  object["volume"] = token.volume;
  object["policy_key"] = Base64Encode(token.policy.policy_key.spki_der());
  object["signed_pcrs"] = token.policy.signed_pcrs;
  object["literal_pcrs"] = std::move(literal);
  object["public"] = Base64Encode(token.object.public_area);
  object["private"] = Base64Encode(token.object.private_area);
  object["creation"] = Base64Encode(token.object.creation_data);
  object["ticket"] = Base64Encode(token.object.creation_ticket);
  object["tag"] = token.tag.hex();
  return object.dump();
}

Result<SealedToken> ParseSealedToken(std::string_view json) {
  SEALIFT_ASSIGN_OR_RETURN(const ordered_json object, Object(json));
  const auto format = object.find("format");
  if (format == object.end() || !format->is_number_unsigned() || format->get<std::uint64_t>() != kFormat)
    return Foreign("it is of another format");
  SEALIFT_ASSIGN_OR_RETURN(const std::uint32_t slot, Slot(object));
  const std::string* volume = Text(object, "volume");
  const std::string* tag_text = Text(object, "tag");
  const auto tag = Sha256Digest::FromHex(tag_text == nullptr ? "" : *tag_text);
  if (volume == nullptr || !IsVolumeName(*volume) || !tag.ok())
    return Foreign("it names no volume, or has no tag");
  SEALIFT_ASSIGN_OR_RETURN(const Bytes key_der, Base64(object, "policy_key"));
  Result<PublicKey> key = PublicKey::FromDer(key_der);
  if (!key.ok()) return Foreign("its policy key does not parse");
  SEALIFT_ASSIGN_OR_RETURN(std::vector<std::uint32_t> signed_pcrs, Pcrs(object, "signed_pcrs"));
  SEALIFT_ASSIGN_OR_RETURN(tpm::PcrValues literal, Literal(object));
  SealedToken token{.slot = slot,
                    .volume = *volume,
                    .policy = {.policy_key = *std::move(key),
                               .signed_pcrs = std::move(signed_pcrs),
                               .literal = std::move(literal)},
                    .object = {},
                    .tag = *tag};
  SEALIFT_ASSIGN_OR_RETURN(token.object.public_area, Base64(object, "public"));
  SEALIFT_ASSIGN_OR_RETURN(token.object.private_area, Base64(object, "private"));
  SEALIFT_ASSIGN_OR_RETURN(token.object.creation_data, Base64(object, "creation"));
  SEALIFT_ASSIGN_OR_RETURN(token.object.creation_ticket, Base64(object, "ticket"));
  return token;
}

std::string FormatRecoveryToken(const RecoveryToken& token) {
  ordered_json object;
  object["type"] = kRecoveryTokenType;
  object["keyslots"] = ordered_json::array({std::to_string(token.slot)});
  object["format"] = kFormat;
  object["escrow"] = ordered_json::parse(escrow::Format(token.escrowed));
  if (!token.order.empty()) object["order"] = token.order;
  object["tag"] = token.tag.hex();
  return object.dump();
}

Result<RecoveryToken> ParseRecoveryToken(std::string_view json) {
  SEALIFT_ASSIGN_OR_RETURN(const ordered_json object, Object(json));
  SEALIFT_ASSIGN_OR_RETURN(const std::uint32_t slot, Slot(object));
  const auto escrowed = object.find("escrow");
  if (escrowed == object.end()) return Foreign("it has no escrowed key");
  // Strings that are no UTF-8 would make a plain dump throw.
  SEALIFT_ASSIGN_OR_RETURN(
      escrow::EscrowedKey key,
      escrow::Parse(escrowed->dump(-1, ' ', false, ordered_json::error_handler_t::replace)));
  const std::string* tag_text = Text(object, "tag");
  const auto tag = Sha256Digest::FromHex(tag_text == nullptr ? "" : *tag_text);
  if (!tag.ok()) return Foreign("it has no tag");
  const std::string* order = Text(object, "order");
  if (order != nullptr && !IsOrderId(*order)) return Foreign("it names no order");
  return RecoveryToken{.slot = slot,
                       .escrowed = std::move(key),
                       .order = order == nullptr ? std::string() : *order,
                       .tag = *tag};
}

}  // namespace sealift::agent
