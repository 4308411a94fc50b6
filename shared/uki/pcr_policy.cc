#include "shared/uki/pcr_policy.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/rsa.h>

#include <nlohmann/json.hpp>

#include "shared/crypto/hash.h"
#include "shared/uki/pcr_bank.h"

namespace sealift::uki {
namespace {

using nlohmann::ordered_json;

constexpr unsigned kPcrCount = 24;
constexpr unsigned kKernelImagePcr = 11;
constexpr std::size_t kMaxTextBytes = 256u << 10;
constexpr std::size_t kMaxBanks = 8;
constexpr std::size_t kMaxEntries = 1024;
constexpr std::size_t kMaxSignatureBytes = 1024;

Status Malformed(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kPcrSignatureMalformed,
                   fmt::format("read PCR signatures: {}", what));
}

// The text member `name`, or nullptr.
const std::string* Text(const ordered_json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() ? nullptr : found->get_ptr<const std::string*>();
}

Result<PcrSignature> ReadEntry(const ordered_json& object) {
  if (!object.is_object()) return Malformed("an entry that is not an object");
  PcrSignature entry;
  const auto pcrs = object.find("pcrs");
  if (pcrs == object.end() || !pcrs->is_array() || pcrs->empty() || pcrs->size() > kPcrCount)
    return Malformed("an entry without PCRs");
  for (const ordered_json& pcr : *pcrs) {
    if (!pcr.is_number_unsigned() || pcr.get<std::uint64_t>() >= kPcrCount)
      return Malformed("a PCR beyond 23");
    entry.pcrs.push_back(pcr.get<unsigned>());
  }
  const std::string* fingerprint = Text(object, "pkfp");
  const std::string* policy = Text(object, "pol");
  const std::string* signature = Text(object, "sig");
  if (fingerprint == nullptr || policy == nullptr || signature == nullptr)
    return Malformed("an entry without pkfp, pol or sig");
  const Result<Sha256Digest> key_digest = Sha256Digest::FromHex(*fingerprint);
  const Result<Sha256Digest> policy_digest = Sha256Digest::FromHex(*policy);
  Result<Bytes> bytes = Base64Decode(*signature);
  if (!key_digest.ok() || !policy_digest.ok() || !bytes.ok() || bytes->empty() ||
      bytes->size() > kMaxSignatureBytes)
    return Malformed("an entry whose pkfp, pol or sig does not decode");
  entry.key_fingerprint = *key_digest;
  entry.policy = *policy_digest;
  entry.signature = *std::move(bytes);
  return entry;
}

bool VerifyRsa(const PcrBank& bank, const PcrSignature& entry, const PublicKey& key) {
  const Bytes digest = BankHash(bank, {entry.policy.view()});
  const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new(key.evp(), nullptr));
  const bool fits = context != nullptr && EVP_PKEY_verify_init(context.get()) == 1 &&
                    EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_PADDING) == 1 &&
                    EVP_PKEY_CTX_set_signature_md(
                        context.get(), EVP_get_digestbyname(std::string(bank.name).c_str())) == 1 &&
                    EVP_PKEY_verify(context.get(), entry.signature.data(), entry.signature.size(),
                                    digest.data(), digest.size()) == 1;
  ERR_clear_error();
  return fits;
}

}  // namespace

Sha256Digest PcrPolicyDigest(const std::map<unsigned, Sha256Digest>& pcrs) {
  const PcrBank* bank = FindPcrBank("sha256");
  std::vector<PcrValue> values;
  values.reserve(pcrs.size());
  for (const auto& [index, value] : pcrs)
    values.push_back({.bank = bank, .index = index, .value = ToBytes(value.view())});
  return *Sha256Digest::FromBytes(PolicyPcrDigest(*bank, values));
}

Result<PcrSignatures> SignPcrPolicies(std::span<const PhasePolicy> phases, std::string_view subject,
                                      Signer& signer) {
  const PublicKey& key = signer.public_key();
  if (key.type() != KeyType::kRsa) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     "sign PCR policy: the key is not RSA, which is all that systemd verifies");
  }
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest fingerprint, key.Pkcs1Fingerprint());
  struct Entry {
    std::string_view bank;
    PcrSignature signature;
    Sha256Digest digest;
    std::string intent;
  };
  std::vector<Entry> entries;
  const auto add = [&](std::string_view bank, const Sha256Digest& policy, std::string intent,
                       std::vector<unsigned> pcrs = {kKernelImagePcr}) {
    entries.push_back({.bank = bank,
                       .signature = {.pcrs = std::move(pcrs),
                                     .key_fingerprint = fingerprint,
                                     .policy = policy,
                                     .signature = {}},
                       .digest = Sha256(policy.view()),
                       .intent = std::move(intent)});
  };
  for (const PhasePolicy& phase : phases) {
    const std::string intent = fmt::format("PCR policy of {} phase '{}'", subject, phase.phase);
    add("sha256", PcrPolicyDigest({{kKernelImagePcr, phase.pcr11}}), intent);
    if (!phase.companions.empty()) {
      std::map<unsigned, Sha256Digest> values = phase.companions;
      values[kKernelImagePcr] = phase.pcr11;
      std::vector<unsigned> pcrs;
      for (const auto& [pcr, value] : values) pcrs.push_back(pcr);
      add("sha256", PcrPolicyDigest(values), intent + " with what lies beside it", std::move(pcrs));
    }
    if (!phase.pcr11_sha384.has_value()) continue;
    const PcrBank* bank = FindPcrBank("sha384");
    const std::array<PcrValue, 1> value = {
        PcrValue{.bank = bank, .index = kKernelImagePcr, .value = ToBytes(phase.pcr11_sha384->view())}};
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest policy,
                             Sha256Digest::FromBytes(PolicyPcrDigest(*FindPcrBank("sha256"), value)));
    add(bank->name, policy, intent + " bank sha384");
  }
  std::vector<SigningRequest> requests;
  requests.reserve(entries.size());
  for (const Entry& entry : entries) {
    requests.push_back(
        {.scheme = SignatureScheme::kRsaPkcs1Sha256, .digest = entry.digest.view(), .intent = entry.intent});
  }
  auto made = signer.SignAll(requests);
  PcrSignatures signatures;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    SEALIFT_ASSIGN_OR_RETURN(entries[i].signature.signature, std::move(made[i]));
    signatures[std::string(entries[i].bank)].push_back(std::move(entries[i].signature));
  }
  return signatures;
}

std::string FormatPcrSignatures(const PcrSignatures& signatures) {
  ordered_json document = ordered_json::object();
  for (const auto& [bank, entries] : signatures) {
    ordered_json list = ordered_json::array();
    for (const PcrSignature& entry : entries) {
      ordered_json object;
      object["pcrs"] = entry.pcrs;
      object["pkfp"] = entry.key_fingerprint.hex();
      object["pol"] = entry.policy.hex();
      object["sig"] = Base64Encode(entry.signature);
      list.push_back(std::move(object));
    }
    document[bank] = std::move(list);
  }
  return document.dump() + "\n";
}

Result<PcrSignatures> ParsePcrSignatures(std::string_view text) {
  if (text.size() > kMaxTextBytes) return Malformed(fmt::format("{} bytes", text.size()));
  while (!text.empty() && text.back() == '\0') text.remove_suffix(1);
  const ordered_json document = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object() || document.size() > kMaxBanks) return Malformed("not an object of banks");
  PcrSignatures signatures;
  std::size_t count = 0;
  for (const auto& [bank, list] : document.items()) {
    if (!list.is_array()) return Malformed("a bank that is not a list");
    count += list.size();
    if (count > kMaxEntries) return Malformed("more than 1024 entries");
    std::vector<PcrSignature>& entries = signatures[bank];
    for (const ordered_json& object : list) {
      SEALIFT_ASSIGN_OR_RETURN(PcrSignature entry, ReadEntry(object));
      entries.push_back(std::move(entry));
    }
  }
  return signatures;
}

Result<VerifiedPcrPolicy> VerifyPcrPolicy(const PcrSignatures& signatures, const PublicKey& key,
                                          const Sha256Digest& pcr11) {
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest fingerprint, key.Pkcs1Fingerprint());
  const Sha256Digest policy = PcrPolicyDigest({{kKernelImagePcr, pcr11}});
  const auto bank = signatures.find("sha256");
  if (bank != signatures.end()) {
    for (const PcrSignature& entry : bank->second) {
      if (entry.pcrs != std::vector<unsigned>{kKernelImagePcr} || entry.key_fingerprint != fingerprint ||
          entry.policy != policy)
        continue;
      SEALIFT_RETURN_IF_ERROR(
          key.VerifyMessage(policy.view(), entry.signature, SignatureScheme::kRsaPkcs1Sha256));
      return VerifiedPcrPolicy{.policy = policy, .key_id = key.key_id()};
    }
  }
  return MakeError(Code::kNotFound, Reason::kPcrSignatureMissing,
                   fmt::format("verify PCR policy: no signature by this key for PCR 11 = {}", pcr11.hex()));
}

Status CheckPcrSignature(std::string_view bank, const PcrSignature& entry, const PublicKey& key) {
  const auto invalid = [&](std::string_view why) {
    return MakeError(Code::kUnauthenticated, Reason::kSignatureInvalid,
                     fmt::format("verify PCR policy of bank {}: {}", bank.substr(0, 32), why));
  };
  if (key.type() != KeyType::kRsa) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     "verify PCR policy: the key is not RSA, which is all that systemd verifies");
  }
  const PcrBank* known = FindPcrBank(bank);
  if (known == nullptr) return invalid("no such bank");
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest fingerprint, key.Pkcs1Fingerprint());
  if (entry.key_fingerprint != fingerprint) return invalid("it is for another key");
  if (key.VerifyMessage(entry.policy.view(), entry.signature, SignatureScheme::kRsaPkcs1Sha256).ok())
    return OkStatus();
  if (known->name != "sha256" && VerifyRsa(*known, entry, key)) return OkStatus();
  return invalid("the signature does not fit key and policy");
}

}  // namespace sealift::uki
