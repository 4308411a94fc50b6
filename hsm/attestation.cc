#include "hsm/attestation.h"

#include <fmt/format.h>
#include <openssl/x509.h>

#include <array>

#include "shared/base/files.h"
#include "shared/order/dsse.h"
#include "shared/tuf/json.h"

namespace sealift::hsm {
namespace {

using nlohmann::json;

constexpr int kFormat = 1;
constexpr std::size_t kMaxKeys = 1024;

struct Claim {
  std::string_view claim;
  std::string_view rests_on;
};
constexpr auto kClaims = std::to_array<Claim>({
    {"each key has the public half, the role and the group shown",
     "this statement: ids are hashes of the public halves, checked by whoever reads it"},
    {"each certificate belongs to its key", "this statement: checked by whoever reads it"},
    {"a key was born in its token, cannot leave it and never could",
     "the token's word alone: CKA_LOCAL, CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE, CKA_EXTRACTABLE as it "
     "reports them; where 'token' is missing, its word when the key was made, as the inventory kept it"},
    {"a key can be used for one thing only", "the token's word alone: CKA_SIGN, CKA_DECRYPT, CKA_UNWRAP"},
    {"a key shown as 'wrappable' was made to leave its token in backups; 'copies' lists those restored here",
     "this set's inventory; who holds such a token's PIN can wrap its keys past this software"},
    {"there is no second copy of a key", "the token's word and its keepers' alone: nothing here can show it"},
    {"these are all uses of a key",
     "the signing journals up to their checkpoints, and that nobody with the PIN signed past this software"},
});

Status Contradiction(std::string_view what) {
  return MakeError(Code::kFailedPrecondition, Reason::kKeySetInvalid,
                   fmt::format("check statement: {}", what));
}

Status Malformed(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed, fmt::format("check statement: {}", what));
}

// What DSSE signs (version 1.0 of its specification, "PAE").
Bytes PreAuthentication(std::string_view payload) {
  return order::PreAuthenticationEncoding(kStatementType, AsBytes(payload));
}

json Told(const std::optional<bool>& attribute) { return attribute.has_value() ? json(*attribute) : json(); }

json TokenToJson(const KeyAccount& account) {
  if (!account.in_token.has_value()) return {};
  if (!*account.in_token) return {{"holds_the_key", false}};
  const KeyCustody& custody = account.custody;
  return {{"holds_the_key", true},
          {"CKA_LOCAL", Told(custody.local)},
          {"CKA_SENSITIVE", Told(custody.sensitive)},
          {"CKA_ALWAYS_SENSITIVE", Told(custody.always_sensitive)},
          {"CKA_EXTRACTABLE", Told(custody.extractable)},
          {"CKA_NEVER_EXTRACTABLE", Told(custody.never_extractable)},
          {"CKA_MODIFIABLE", Told(custody.modifiable)},
          {"CKA_COPYABLE", Told(custody.copyable)},
          {"CKA_SIGN", Told(custody.sign)},
          {"CKA_DECRYPT", Told(custody.decrypt)},
          {"CKA_UNWRAP", Told(custody.unwrap)}};
}

Result<json> KeyToJson(const KeyRing& ring, const KeyAccount& account) {
  const InventoryKey& key = *account.key;
  SEALIFT_ASSIGN_OR_RETURN(const PublicKey public_key, ring.PublicKeyFor(key));
  json object = {{"role", key.role},
                 {"group", std::string(GroupName(key.group))},
                 {"generation", key.generation},
                 {"algorithm", std::string(AlgorithmName(key.algorithm))},
                 {"key_id", key.key_id.hex()},
                 {"public_key", Base64Encode(public_key.spki_der())},
                 {"label", key.label},
                 {"born_in_token", account.born_in_token()}};
  if (key.wrappable) object["wrappable"] = true;
  if (!key.copies.empty()) object["copies"] = key.copies;
  if (json token = TokenToJson(account); !token.is_null()) object["token"] = std::move(token);
  if (key.has_certificate) {
    SEALIFT_ASSIGN_OR_RETURN(const Certificate certificate, ring.CertificateFor(key));
    object["certificate"] = Base64Encode(certificate.der());
  }
  if (account.uses.has_value()) {
    object["uses"] = {{"ok", account.uses->ok},
                      {"failed", account.uses->failed},
                      {"unfinished", account.uses->unfinished},
                      {"tls_handshakes", account.tls_handshakes}};
  }
  return object;
}

json JournalToJson(const JournalReport& report) {
  return {{"journal", report.journal},
          {"records", report.records},
          {"head", report.head.hex()},
          {"proven_up_to", report.proven_up_to},
          {"findings", report.findings.size()}};
}

Status CheckOneKey(const json& object, std::map<std::string, PublicKey>& keys_by_id,
                   std::vector<Certificate>& certificates) {
  tuf::ObjectReader reader(object, "key");
  const std::string role = reader.String("role", 64);
  const std::string group = reader.String("group", 64);
  const Sha256Digest key_id = reader.Digest("key_id");
  const std::string public_key_text = reader.String("public_key", 8192);
  const std::string certificate_text = reader.Has("certificate") ? reader.String("certificate", 65536) : "";
  if (!reader.ok()) return Malformed(MessageOf(reader.status()));
  const Role* known = FindRole(role);
  if (known == nullptr || GroupName(known->group) != group) {
    return Contradiction(fmt::format("role '{}' does not belong to group '{}'", role, group));
  }
  SEALIFT_ASSIGN_OR_RETURN(const Bytes spki, Base64Decode(public_key_text));
  SEALIFT_ASSIGN_OR_RETURN(PublicKey public_key, PublicKey::FromDer(spki));
  if (public_key.key_id() != key_id) {
    return Contradiction(fmt::format("the id of '{}' is not the hash of its public half", role));
  }
  if (!certificate_text.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes der, Base64Decode(certificate_text));
    SEALIFT_ASSIGN_OR_RETURN(Certificate certificate, Certificate::FromDer(der));
    if (!(certificate.public_key() == public_key)) {
      return Contradiction(fmt::format("the certificate of '{}' is for another key", role));
    }
    certificates.push_back(std::move(certificate));
  }
  if (!keys_by_id.emplace(key_id.hex(), std::move(public_key)).second) {
    return Contradiction(fmt::format("'{}' has the key of another role", role));
  }
  return OkStatus();
}

// By a key of the set, if its issuer is one; an issuer outside is not for us to judge.
Status CheckIssuers(const std::vector<Certificate>& certificates) {
  for (const Certificate& certificate : certificates) {
    for (const Certificate& issuer : certificates) {
      if (certificate.IssuerText() != issuer.SubjectText()) continue;
      if (X509_verify(certificate.x509(), issuer.public_key().evp()) != 1) {
        return Contradiction(fmt::format("'{}' did not sign the certificate of '{}'", issuer.SubjectText(),
                                         certificate.SubjectText()));
      }
    }
  }
  return OkStatus();
}

Status CheckSignature(const json& envelope, std::string_view payload, const PublicKey& key) {
  tuf::ObjectReader reader(envelope, "statement");
  for (const json& one : reader.Array("signatures", 8)) {
    tuf::ObjectReader signature(one, "signature");
    const auto bytes = Base64Decode(signature.String("sig", 2048));
    if (!signature.ok() || !bytes.ok()) continue;
    if (key.VerifyMessage(PreAuthentication(payload), *bytes, key.default_scheme()).ok()) return OkStatus();
  }
  return MakeError(Code::kUnauthenticated, Reason::kSignatureInvalid,
                   "check statement: the key given did not sign it");
}

}  // namespace

Result<std::vector<KeyAccount>> AccountForKeys(const Inventory& inventory, const TokensByGroup& tokens,
                                               const std::vector<JournalReport>& journals) {
  std::vector<KeyAccount> accounts;
  for (const InventoryKey& key : inventory.keys) {
    KeyAccount account{.key = &key};
    const auto of_group = tokens.find(key.group);
    if (of_group != tokens.end()) account.in_token = false;
    for (std::size_t i = 0; account.in_token == false && i < of_group->second.size(); ++i) {
      KeyStore& keys = of_group->second[i]->keys();
      SEALIFT_ASSIGN_OR_RETURN(account.in_token, keys.HoldsPrivateKey(key.key_id));
      if (!*account.in_token) continue;
      SEALIFT_ASSIGN_OR_RETURN(account.custody, keys.ReadCustody(key.key_id));
    }
    if (!journals.empty()) account.uses.emplace();
    for (const JournalReport& journal : journals) {
      const auto handshakes = journal.handshakes_by_key.find(key.key_id);
      if (handshakes != journal.handshakes_by_key.end()) account.tls_handshakes += handshakes->second;
      const auto uses = journal.uses.find(key.key_id);
      if (uses == journal.uses.end()) continue;
      account.uses->ok += uses->second.ok;
      account.uses->failed += uses->second.failed;
      account.uses->unfinished += uses->second.unfinished;
    }
    accounts.push_back(std::move(account));
  }
  return accounts;
}

Result<std::string> MakeStatement(const KeyRing& ring, const std::vector<KeyAccount>& keys,
                                  const std::vector<JournalReport>& journals, UnixMillis now,
                                  Signer* signer) {
  json statement = {
      {"format", kFormat},          {"set", ring.inventory().set}, {"owner", ring.inventory().owner.text()},
      {"made", FormatRfc3339(now)}, {"keys", json::array()},       {"journals", json::array()},
      {"claims", json::array()}};
  for (const KeyAccount& account : keys) {
    SEALIFT_ASSIGN_OR_RETURN(json key, KeyToJson(ring, account));
    statement["keys"].push_back(std::move(key));
  }
  for (const JournalReport& journal : journals) statement["journals"].push_back(JournalToJson(journal));
  for (const Claim& claim : kClaims) {
    statement["claims"].push_back(
        {{"claim", std::string(claim.claim)}, {"rests_on", std::string(claim.rests_on)}});
  }
  const std::string payload = tuf::CompactJson(statement);
  json envelope = {{"payloadType", kStatementType},
                   {"payload", Base64Encode(AsBytes(payload))},
                   {"signatures", json::array()}};
  if (signer != nullptr) {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes signature, signer->SignMessage(PreAuthentication(payload),
                                                                        "statement of the key hierarchy"));
    envelope["signatures"].push_back(
        {{"keyid", signer->public_key().key_id().hex()}, {"sig", Base64Encode(signature)}});
  }
  return envelope.dump(2) + "\n";
}

Result<CheckedStatement> CheckStatement(std::string_view text, const std::optional<PublicKey>& key) {
  const auto envelope = tuf::ParseJson(text, {.max_bytes = kMaxStatementBytes, .max_depth = 4});
  if (!envelope.ok()) return Malformed(MessageOf(envelope.status()));
  tuf::ObjectReader outer(*envelope, "statement");
  const std::string type = outer.String("payloadType", 128);
  const auto payload = Base64Decode(outer.String("payload", kMaxStatementBytes));
  if (!outer.ok() || !payload.ok() || type != kStatementType) return Malformed("it is no statement of keys");
  CheckedStatement checked;
  if (key.has_value()) {
    SEALIFT_RETURN_IF_ERROR(CheckSignature(*envelope, AsText(*payload), *key));
    checked.signed_by_key = true;
  }
  const auto statement = tuf::ParseJson(AsText(*payload), {.max_bytes = kMaxStatementBytes, .max_depth = 6});
  if (!statement.ok()) return Malformed(MessageOf(statement.status()));
  tuf::ObjectReader reader(*statement, "statement");
  reader.Unsigned("format", kFormat, kFormat);
  checked.set = reader.String("set", 64);
  const std::string made = reader.String("made", 32);
  std::map<std::string, PublicKey> keys_by_id;
  std::vector<Certificate> certificates;
  for (const json& one : reader.Array("keys", kMaxKeys)) {
    SEALIFT_RETURN_IF_ERROR(CheckOneKey(one, keys_by_id, certificates));
  }
  for (const json& one : reader.Array("claims", 64)) {
    tuf::ObjectReader claim(one, "claim");
    checked.claims.push_back(
        fmt::format("{}: {}", claim.String("claim", 512), claim.String("rests_on", 1024)));
  }
  if (!reader.ok()) return Malformed(MessageOf(reader.status()));
  SEALIFT_ASSIGN_OR_RETURN(checked.made, ParseRfc3339(made));
  SEALIFT_RETURN_IF_ERROR(CheckIssuers(certificates));
  checked.keys = keys_by_id.size();
  checked.certificates = certificates.size();
  return checked;
}

}  // namespace sealift::hsm
