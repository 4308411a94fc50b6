#include "hsm/key_ring.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "hsm/token_signer.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/key_reference.h"

namespace sealift::hsm {
namespace {

constexpr auto kCertificateFiles = std::to_array<std::pair<std::string_view, std::string_view>>({
    {"pk", "PK.pem"},
    {"kek", "KEK.pem"},
    {"db", "db.pem"},
    {"node-ca", "node-ca.pem"},
    {"operator-ca", "operator-ca.pem"},
    {"controller-tls", "controller-tls.pem"},
});

constexpr std::string_view kJournalRole = "journal";

Status NotThere(const InventoryKey& key) {
  return MakeError(
      Code::kNotFound, Reason::kHsmKeyMissing,
      fmt::format("use key '{}': no token of group '{}' was given; add --token {}=URI, the key was "
                  "made in {}",
                  key.role, GroupName(key.group), GroupName(key.group), key.token_uri));
}

Result<std::shared_ptr<Signer>> ResolveReference(std::string_view text) {
  SEALIFT_ASSIGN_OR_RETURN(const TokenUri uri, TokenUri::Parse(text));
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest id, Sha256Digest::FromBytes(uri.id));
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Token> token, Token::Open(uri));
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Signer> signer, TokenSigner::Open(std::move(token), id));
  return signer;
}

}  // namespace

std::string_view CertificateFile(std::string_view role) {
  for (const auto& [its_role, file] : kCertificateFiles) {
    if (its_role == role) return file;
  }
  return {};
}

std::string PublicKeyFile(std::string_view role, std::uint32_t generation) {
  return fmt::format("public/{}.pem", KeyName(role, generation));
}

TokenUri KeyUri(const TokenUri& token, const Sha256Digest& key_id) {
  TokenUri uri = token.TokenOnly();
  uri.id = ToBytes(key_id.view());
  return uri;
}

Result<std::map<Group, std::shared_ptr<Token>>> OpenTokens(const std::vector<std::string>& token_args) {
  std::map<Group, std::shared_ptr<Token>> tokens;
  std::shared_ptr<Token> for_all;
  for (const std::string& text : token_args) {
    SEALIFT_ASSIGN_OR_RETURN(const TokenArgument argument, TokenArgument::Parse(text));
    std::optional<Group> group;
    if (!argument.group.empty()) {
      SEALIFT_ASSIGN_OR_RETURN(group, ParseGroup(argument.group));
    }
    if (group.has_value() ? tokens.count(*group) != 0 : for_all != nullptr) {
      return MakeError(
          Code::kInvalidArgument, Reason::kInvalidArgument,
          fmt::format("open tokens: two are given for {}",
                      group.has_value() ? fmt::format("group '{}'", argument.group) : "all groups"));
    }
    SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Token> token, Token::Open(argument.uri));
    (group.has_value() ? tokens[*group] : for_all) = std::move(token);
  }
  if (for_all != nullptr) {
    log::Warning("one token serves every key group: whoever holds its PIN holds them all",
                 {{"token", for_all->label()}});
    for (const Group group : AllGroups()) tokens.emplace(group, for_all);
  }
  return tokens;
}

Result<std::unique_ptr<KeyRing>> KeyRing::Open(const std::filesystem::path& keys_folder,
                                               const std::vector<std::string>& token_args,
                                               const std::filesystem::path& journal) {
  SEALIFT_ASSIGN_OR_RETURN(Inventory inventory, Inventory::Load(keys_folder));
  std::unique_ptr<KeyRing> ring(new KeyRing(keys_folder, std::move(inventory)));
  SEALIFT_ASSIGN_OR_RETURN(ring->tokens_, OpenTokens(token_args));
  if (!ring->tokens_.empty()) {
    SEALIFT_RETURN_IF_ERROR(ring->OpenJournal(journal.empty() ? keys_folder / kJournalFileName : journal));
  }
  return ring;
}

Status KeyRing::OpenJournal(const std::filesystem::path& path) {
  JournalOptions options;
  for (const InventoryKey* key : inventory_.Generations(kJournalRole)) {
    SEALIFT_ASSIGN_OR_RETURN(PublicKey public_key, PublicKeyFor(*key));
    options.trusted.push_back(std::move(public_key));
  }
  SEALIFT_ASSIGN_OR_RETURN(journal_, Journal::Open(path, std::move(options)));
  for (const InventoryKey& key : inventory_.keys) {
    journal_->NameKey(key.key_id, KeyName(key.role, key.generation));
  }
  for (const auto& [group, token] : tokens_) token->RecordIn(journal_);
  const InventoryKey* key = inventory_.Newest(kJournalRole);
  const auto token = key == nullptr ? tokens_.end() : tokens_.find(key->group);
  if (token == tokens_.end()) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(const bool held, token->second->keys().HoldsPrivateKey(key->key_id));
  if (!held) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Signer> signer,
                           TokenSigner::OpenForCheckpoints(token->second, key->key_id));
  journal_->SetCheckpointSigner(std::move(signer));
  return OkStatus();
}

KeyRing::~KeyRing() {
  if (journal_ == nullptr) return;
  if (const auto checkpoint = journal_->Checkpoint(); !checkpoint.ok()) {
    log::Warning("the signing journal was left without a checkpoint",
                 {{"reason", ReasonIdOf(checkpoint.status())}, {"error", MessageOf(checkpoint.status())}});
  }
}

Result<std::shared_ptr<Signer>> KeyRing::SignerFor(std::string_view role) {
  const InventoryKey* key = inventory_.Newest(role);
  if (key != nullptr) return SignerFor(*key);
  return MakeError(Code::kNotFound, Reason::kHsmKeyMissing,
                   fmt::format("use key '{}': the set '{}' has no such role", role, inventory_.set));
}

Result<std::shared_ptr<Signer>> KeyRing::SignerFor(const InventoryKey& key) {
  if (FindRole(key.role)->use != KeyUse::kSign) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("use key '{}': it decrypts and never signs", key.role));
  }
  const auto token = tokens_.find(key.group);
  if (token == tokens_.end()) return NotThere(key);
  {
    const std::lock_guard lock(mutex_);
    if (const auto known = signers_.find(key.key_id); known != signers_.end()) return known->second;
  }
  auto signer = TokenSigner::Open(token->second, key.key_id);
  if (!signer.ok()) {
    return Annotate(signer.status(),
                    fmt::format("use key '{}' of group '{}'", key.role, GroupName(key.group)));
  }
  const std::lock_guard lock(mutex_);
  return signers_.emplace(key.key_id, *std::move(signer)).first->second;
}

Result<Certificate> KeyRing::CertificateFor(std::string_view role) const {
  const InventoryKey* key = inventory_.Newest(role);
  const std::string_view file = CertificateFile(role);
  if (key == nullptr || file.empty()) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("read certificate of '{}': the role has none", role));
  }
  SEALIFT_ASSIGN_OR_RETURN(const std::string pem, ReadTextFile(folder_ / file, kMaxCertificateBytes));
  SEALIFT_ASSIGN_OR_RETURN(Certificate certificate, Certificate::FromPem(pem));
  if (certificate.fingerprint() == key->certificate_fingerprint &&
      certificate.public_key().key_id() == key->key_id) {
    return certificate;
  }
  return MakeError(Code::kFailedPrecondition, Reason::kKeySetInvalid,
                   fmt::format("read certificate of '{}': '{}' is not the one the inventory lists", role,
                               (folder_ / file).string()));
}

Result<PublicKey> KeyRing::PublicKeyFor(const InventoryKey& key) const {
  const auto file = folder_ / PublicKeyFile(key.role, key.generation);
  SEALIFT_ASSIGN_OR_RETURN(const std::string pem, ReadTextFile(file, kMaxCertificateBytes));
  SEALIFT_ASSIGN_OR_RETURN(PublicKey public_key, PublicKey::FromPem(pem));
  if (public_key.key_id() == key.key_id) return public_key;
  return MakeError(Code::kFailedPrecondition, Reason::kKeySetInvalid,
                   fmt::format("read public key '{}': it is not the one the inventory lists", file.string()));
}

Result<std::vector<Group>> KeyRing::HeldGroups() {
  std::set<std::shared_ptr<Token>> distinct;
  for (const auto& [group, token] : tokens_) distinct.insert(token);
  std::set<Group> held;
  for (const auto& token : distinct) {
    SEALIFT_ASSIGN_OR_RETURN(const auto stored, token->keys().List());
    for (const InventoryKey& key : inventory_.keys) {
      const bool here = std::any_of(stored.begin(), stored.end(), [&](const StoredKey& one) {
        return std::ranges::equal(one.id, key.key_id.bytes);
      });
      if (here) held.insert(key.group);
    }
  }
  return std::vector<Group>(held.begin(), held.end());
}

void RegisterPkcs11Resolver() {
  struct Known {
    std::mutex mutex;
    std::map<std::string, std::shared_ptr<Signer>, std::less<>> signers;
  };
  RegisterKeyResolver(
      "pkcs11", [known = std::make_shared<Known>()](std::string_view uri) -> Result<std::shared_ptr<Signer>> {
        // gRPC reads its key anew for every channel; the token is asked once.
        const std::lock_guard lock(known->mutex);
        if (const auto found = known->signers.find(uri); found != known->signers.end()) return found->second;
        SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Signer> signer, ResolveReference(uri));
        known->signers.emplace(std::string(uri), signer);
        return signer;
      });
}

}  // namespace sealift::hsm
