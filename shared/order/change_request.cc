#include "shared/order/change_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "shared/crypto/hash.h"
#include "shared/order/fields.h"

namespace sealift::order {
namespace {

using nlohmann::json;

constexpr std::string_view kWhat = "request";
constexpr std::string_view kType = "sealift-change-request";
constexpr std::size_t kIdBytes = 16;
constexpr std::size_t kMaxNameBytes = 64;
constexpr std::size_t kMaxReasonBytes = 256;
constexpr std::size_t kMaxParameters = 4;
constexpr std::size_t kMaxParameterBytes = 64;
constexpr std::size_t kMaxPersonSignatureBytes = 1024;
constexpr std::size_t kNonceRandomBytes = 24;
constexpr std::string_view kUriPrefix = "sealift:operator:";
constexpr std::string_view kRoleParameter = "?role=";

struct ActionRow {
  Action action;
  std::string_view name;
  // The one parameter; empty: none.
  std::string_view parameter;
};

constexpr auto kActions = std::to_array<ActionRow>({
    {Action::kReset, "reset", ""},
    {Action::kRaiseEpoch, "raise-epoch", "epoch"},
    {Action::kRetry, "retry", "version"},
    {Action::kRollback, "rollback", "version"},
    {Action::kUpgradeRecovery, "upgrade-recovery", ""},
    {Action::kReplaceRecoveryKey, "replace-recovery-key", ""},
    {Action::kSelectEntry, "select-entry", "entry"},
    {Action::kReleaseRecoveryKey, "release-recovery-key", ""},
});

const ActionRow& RowOf(Action action) {
  const auto* row = std::find_if(kActions.begin(), kActions.end(),
                                 [&](const ActionRow& one) { return one.action == action; });
  SEALIFT_CHECK(row != kActions.end());
  return *row;
}

bool IsPlain(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0x7f;
  });
}

bool IsEpoch(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value > 0 && value <= 1'000'000 &&
         std::to_string(value) == text;
}

Status CheckParameters(const ChangeRequest& request) {
  const std::string_view wanted = RowOf(request.action).parameter;
  if (wanted.empty()) {
    return request.parameters.empty() ? OkStatus() : Malformed(kWhat, "parameters: this action takes none");
  }
  const auto found = request.parameters.find(std::string(wanted));
  if (request.parameters.size() != 1 || found == request.parameters.end())
    return Malformed(kWhat, fmt::format("parameters: this action takes '{}' and nothing else", wanted));
  const std::string& value = found->second;
  const bool good = wanted == "version" ? IsValidVersion(value)
                    : wanted == "epoch" ? IsEpoch(value)
                                        : value == "active" || value == "passive" || value == "recovery";
  return good ? OkStatus() : Malformed(kWhat, fmt::format("parameters: '{}' is no {}", value, wanted));
}

Status Unapproved(Code code, std::string_view why) {
  return MakeError(code, Reason::kOrderUnapproved, fmt::format("check who signed: {}", why));
}

}  // namespace

std::string_view ActionName(Action action) { return RowOf(action).name; }

Result<Action> ParseAction(std::string_view name) {
  for (const ActionRow& row : kActions) {
    if (row.name == name) return row.action;
  }
  return MakeError(Code::kUnimplemented, Reason::kOrderUnsupported,
                   fmt::format("read action '{}': none of this version", name.substr(0, 40)));
}

Status CheckChangeRequest(const ChangeRequest& request) {
  const auto id = HexDecode(request.id);
  if (!id.ok() || id->size() != kIdBytes || HexEncode(*id) != request.id)
    return Malformed(kWhat, "id: not 32 lower-case hex digits");
  if (request.requester.empty() || request.requester.size() > kMaxNameBytes || !IsPlain(request.requester))
    return Malformed(kWhat, "requester: no name");
  if (request.reason.size() > kMaxReasonBytes || !IsPlain(request.reason))
    return Malformed(kWhat, "reason: too long, or more than one line");
  if (request.nonce.size() != kNonceBytes &&
      !(request.nonce.empty() && request.action == Action::kReleaseRecoveryKey))
    return Malformed(kWhat, "nonce: missing or of another length; the node has to check in first");
  if (request.created >= request.expires || request.expires - request.created > kMaxLifetime)
    return Malformed(kWhat, "expires: before its creation, or more than 31 days after it");
  return CheckParameters(request);
}

std::string CanonicalRequest(const ChangeRequest& request) {
  return WriteCanonical({{"action", ActionName(request.action)},
                         {"created", ToUnixMs(request.created)},
                         {"ek", request.ek_digest.hex()},
                         {"expires", ToUnixMs(request.expires)},
                         {"id", request.id},
                         {"node", request.node.text()},
                         {"nonce", HexEncode(request.nonce)},
                         {"parameters", request.parameters},
                         {"reason", request.reason},
                         {"requester", request.requester},
                         {"schema", 1},
                         {"type", kType}});
}

Result<ChangeRequest> ParseChangeRequest(std::string_view canonical) {
  SEALIFT_ASSIGN_OR_RETURN(const json value, ParseCanonical(canonical, kWhat, kMaxRequestBytes));
  Members members(value, std::string(kWhat));
  members.Expect("type", kType);
  if (members.Number("schema", 1) != 1) members.Problem("schema", "not 1");
  const std::string action = members.Text("action", kMaxNameBytes);
  const std::string node = members.Text("node", kMaxNameBytes);
  const Bytes ek = members.Hex("ek", 32, false);
  const std::string id = members.Text("id", 2 * kIdBytes);
  const Bytes nonce = members.Hex("nonce", kNonceBytes, true);
  const std::string requester = members.Text("requester", kMaxNameBytes);
  const std::string reason = members.Text("reason", kMaxReasonBytes);
  const UnixMillis created = members.Time("created");
  const UnixMillis expires = members.Time("expires");
  const json& parameters = members.Object("parameters");
  SEALIFT_RETURN_IF_ERROR(members.Finish());

  auto node_id = NodeId::Parse(node);
  if (!node_id.ok()) return Malformed(kWhat, "node: no node id");
  ChangeRequest request{.id = id, .node = *std::move(node_id)};
  SEALIFT_ASSIGN_OR_RETURN(request.action, ParseAction(action));
  SEALIFT_ASSIGN_OR_RETURN(request.ek_digest, Sha256Digest::FromBytes(ek));
  request.nonce = nonce;
  request.requester = requester;
  request.reason = reason;
  request.created = created;
  request.expires = expires;
  if (parameters.size() > kMaxParameters) return Malformed(kWhat, "parameters: too many");
  for (const auto& [key, one] : parameters.items()) {
    if (!one.is_string() || one.get_ref<const std::string&>().size() > kMaxParameterBytes)
      return Malformed(kWhat, "parameters: no text, or too long");
    request.parameters.emplace(key, one.get<std::string>());
  }
  SEALIFT_RETURN_IF_ERROR(CheckChangeRequest(request));
  return request;
}

Result<Person> ParsePersonUri(std::string_view uri) {
  const std::size_t parameter = uri.find(kRoleParameter);
  if (uri.rfind(kUriPrefix, 0) != 0 || parameter == std::string_view::npos ||
      parameter <= kUriPrefix.size()) {
    return MakeError(Code::kInvalidArgument, Reason::kCertificateInvalid,
                     "read operator's name: the certificate names no operator with a role");
  }
  return Person{.name = std::string(uri.substr(kUriPrefix.size(), parameter - kUriPrefix.size())),
                .role = std::string(uri.substr(parameter + kRoleParameter.size()))};
}

Result<Person> VerifyPerson(const PersonSignature& signature, std::string_view canonical,
                            const std::vector<Certificate>& operator_cas, UnixMillis at) {
  if (signature.certificate.size() > kMaxCertificateBytes ||
      signature.signature.size() > kMaxPersonSignatureBytes)
    return Unapproved(Code::kUnauthenticated, "certificate or signature is too long");
  const auto certificate = Certificate::FromDer(signature.certificate);
  if (!certificate.ok()) return Unapproved(Code::kUnauthenticated, MessageOf(certificate.status()));
  const auto chain = VerifyChain(*certificate, {}, operator_cas, at, CertificatePurpose::kClient);
  // Directly: a certificate that was issued may not issue others, whatever it says of itself.
  if (!chain.ok() || chain->chain.size() != 2) {
    return Unapproved(Code::kUnauthenticated,
                      fmt::format("the certificate of {} is not by an operator CA, or not valid now",
                                  certificate->SubjectText()));
  }
  const std::vector<std::string> uris = certificate->uris();
  if (uris.size() != 1) return Unapproved(Code::kUnauthenticated, "the certificate names nobody, or several");
  auto person = ParsePersonUri(uris.front());
  if (!person.ok()) return Unapproved(Code::kUnauthenticated, MessageOf(person.status()));
  const PublicKey& key = certificate->public_key();
  const SignatureScheme scheme =
      key.type() == KeyType::kRsa ? SignatureScheme::kRsaPkcs1Sha256 : SignatureScheme::kEcdsaSha256;
  if (!key.VerifyMessage(AsBytes(canonical), signature.signature, scheme).ok()) {
    return Unapproved(Code::kUnauthenticated,
                      fmt::format("the signature of {} is not over this request", person->name));
  }
  return person;
}

Status CheckTwoPersons(const ChangeRequest& request, const Person& requester,
                       const PersonSignature& requester_signature, const Person& approver,
                       const PersonSignature& approver_signature) {
  const auto refuse = [](std::string_view why) { return Unapproved(Code::kPermissionDenied, why); };
  if (requester.name != request.requester)
    return refuse(fmt::format("{} signed what {} asks for", requester.name, request.requester));
  const bool may_ask = requester.role == "custodian" ||
                       (requester.role == "operator" && request.action != Action::kReleaseRecoveryKey);
  if (!may_ask) return refuse(fmt::format("role {} may not ask for this", requester.role));
  if (approver.role != "approver") return refuse(fmt::format("role {} approves nothing", approver.role));
  if (approver.name == requester.name) return refuse("requester and approver are the same person");
  const auto first = Certificate::FromDer(requester_signature.certificate);
  const auto second = Certificate::FromDer(approver_signature.certificate);
  if (!first.ok() || !second.ok() || first->public_key() == second->public_key())
    return refuse("requester and approver have the same key");
  return OkStatus();
}

Bytes NonceFor(const Sha256Digest& ek_digest, std::uint64_t orders) {
  ByteWriter text(ByteWriter::Endian::kBig);
  text.Raw(AsBytes("sealift order nonce"));
  text.Raw(ek_digest.view());
  text.U64(orders);
  const Sha256Digest digest = Sha256(text.bytes());
  ByteWriter nonce(ByteWriter::Endian::kBig);
  nonce.Raw(digest.view().first(kNonceRandomBytes));
  nonce.U64(orders);
  return std::move(nonce).Finish();
}

}  // namespace sealift::order
