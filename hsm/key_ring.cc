#include "hsm/key_ring.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <utility>

#include "hsm/token_signer.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/key_reference.h"
#include "shared/efi/signature_list.h"

namespace sealift::hsm {
namespace {

constexpr auto kCertificateFiles = std::to_array<std::pair<std::string_view, std::string_view>>({
    {"pk", "PK"},
    {"kek", "KEK"},
    {"db", "db"},
    {"extensions", "extensions"},
    {"node-ca", "node-ca"},
    {"operator-ca", "operator-ca"},
    {"controller-tls", "controller-tls"},
});

constexpr std::string_view kJournalRole = "journal";
constexpr std::string_view kPkRole = "pk";

Status NotThere(const InventoryKey& key) {
  return MakeError(
      Code::kNotFound, Reason::kHsmKeyMissing,
      fmt::format("use key '{}': no token of group '{}' was given; add --token {}=URI, the key was "
                  "made in {}",
                  key.role, GroupName(key.group), GroupName(key.group), key.token_uri));
}

Status BadChoice(std::string_view text, std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("choose generation '{}': {}", text, what));
}

Result<std::shared_ptr<Signer>> ResolveReference(std::string_view text) {
  SEALIFT_ASSIGN_OR_RETURN(const TokenUri uri, TokenUri::Parse(text));
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest id, Sha256Digest::FromBytes(uri.id));
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Token> token, Token::Open(uri));
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Signer> signer, TokenSigner::Open(std::move(token), id));
  return signer;
}

}  // namespace

std::string CertificateFile(std::string_view role, std::uint32_t generation) {
  for (const auto& [its_role, stem] : kCertificateFiles) {
    if (its_role != role) continue;
    return generation == 1 ? fmt::format("{}.pem", stem) : fmt::format("{}-{}.pem", stem, generation);
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
  SEALIFT_ASSIGN_OR_RETURN(const TokensByGroup all, OpenTokensByGroup(token_args));
  std::map<Group, std::shared_ptr<Token>> tokens;
  for (const auto& [group, of_group] : all) {
    if (of_group.size() > 1) {
      return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                       fmt::format("open tokens: two are given for group '{}'", GroupName(group)));
    }
    tokens.emplace(group, of_group.front());
  }
  return tokens;
}

Result<TokensByGroup> OpenTokensByGroup(const std::vector<std::string>& token_args) {
  TokensByGroup tokens;
  std::shared_ptr<Token> for_all;
  for (const std::string& text : token_args) {
    SEALIFT_ASSIGN_OR_RETURN(const TokenArgument argument, TokenArgument::Parse(text));
    std::optional<Group> group;
    if (!argument.group.empty()) {
      SEALIFT_ASSIGN_OR_RETURN(group, ParseGroup(argument.group));
    }
    SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Token> token, Token::Open(argument.uri));
    if (!group.has_value()) {
      if (for_all != nullptr) {
        return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                         "open tokens: two are given for all groups");
      }
      for_all = std::move(token);
      continue;
    }
    std::vector<std::shared_ptr<Token>>& of_group = tokens[*group];
    if (std::ranges::find(of_group, token) != of_group.end()) {
      return MakeError(
          Code::kInvalidArgument, Reason::kInvalidArgument,
          fmt::format("open tokens: '{}' is given twice for group '{}'", token->label(), argument.group));
    }
    of_group.push_back(std::move(token));
  }
  if (for_all != nullptr) {
    log::Warning("one token serves every key group: whoever holds its PIN holds them all",
                 {{"token", for_all->label()}});
    for (const Group group : AllGroups()) tokens.try_emplace(group, 1, for_all);
  }
  return tokens;
}

Result<std::unique_ptr<KeyRing>> KeyRing::Open(const std::filesystem::path& keys_folder,
                                               const std::vector<std::string>& token_args,
                                               const std::filesystem::path& journal,
                                               const std::vector<std::string>& generations) {
  SEALIFT_ASSIGN_OR_RETURN(Inventory inventory, Inventory::Load(keys_folder));
  std::unique_ptr<KeyRing> ring(new KeyRing(keys_folder, std::move(inventory)));
  for (const std::string& text : generations) SEALIFT_RETURN_IF_ERROR(ring->Choose(text));
  SEALIFT_ASSIGN_OR_RETURN(ring->tokens_, OpenTokensByGroup(token_args));
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
  for (const auto& [group, of_group] : tokens_) {
    for (const auto& token : of_group) token->RecordIn(journal_);
  }
  if (inventory_.Newest(kJournalRole) == nullptr) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(const InventoryKey* key, KeyFor(kJournalRole));
  auto token = TokenFor(*key);
  if (!token.ok()) return ReasonOf(token.status()) == Reason::kHsmKeyMissing ? OkStatus() : token.status();
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Signer> signer,
                           TokenSigner::OpenForCheckpoints(*std::move(token), key->key_id));
  journal_->SetCheckpointSigner(std::move(signer));
  return OkStatus();
}

Status KeyRing::Choose(std::string_view text) {
  const auto split = text.find('=');
  if (split == std::string_view::npos) return BadChoice(text, "it is not ROLE=N");
  const std::string_view role = text.substr(0, split);
  const std::string_view number = text.substr(split + 1);
  std::uint32_t generation = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), generation);
  if (error != std::errc() || end != number.data() + number.size()) {
    return BadChoice(text, "its generation is no number");
  }
  if (FindRole(role) == nullptr) return BadChoice(text, "there is no such role");
  if (chosen_.find(role) != chosen_.end()) return BadChoice(text, "another is chosen already");
  for (const InventoryKey* key : inventory_.Generations(role)) {
    if (key->generation != generation) continue;
    chosen_.emplace(role, key);
    asked_.emplace(role, key);
    return OkStatus();
  }
  return MakeError(Code::kNotFound, Reason::kHsmKeyMissing,
                   fmt::format("choose generation '{}': the set '{}' has it not", text, inventory_.set));
}

Result<const InventoryKey*> KeyRing::EnrolledPk() const {
  const auto invalid = [&](std::string_view cause) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeySetInvalid,
                     fmt::format("tell the present pk from '{}': {}; --generation pk=N chooses one",
                                 (folder_ / "PK.esl").string(), cause));
  };
  const auto bytes = ReadFile(folder_ / "PK.esl", efi::kMaxSignatureListBytes);
  if (!bytes.ok()) return invalid(MessageOf(bytes.status()));
  const auto lists = efi::ParseSignatureLists(*bytes);
  if (!lists.ok()) return invalid(MessageOf(lists.status()));
  for (const efi::SignatureEntry* entry : efi::EntriesOfType(*lists, efi::kCertX509)) {
    const auto certificate = Certificate::FromDer(entry->data);
    if (!certificate.ok()) continue;
    for (const InventoryKey* key : inventory_.Generations(kPkRole)) {
      if (key->key_id == certificate->public_key().key_id()) return key;
    }
  }
  return invalid("it names none of this set");
}

Result<const InventoryKey*> KeyRing::KeyFor(std::string_view role) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto known = chosen_.find(role); known != chosen_.end()) return known->second;
  }
  std::vector<const InventoryKey*> generations = inventory_.Generations(role);
  if (generations.empty()) {
    return MakeError(Code::kNotFound, Reason::kHsmKeyMissing,
                     fmt::format("use key '{}': the set '{}' has no such role", role, inventory_.set));
  }
  std::ranges::sort(generations, {}, &InventoryKey::generation);
  const InventoryKey* found = nullptr;
  if (generations.size() > 1 && role == kPkRole) {
    SEALIFT_ASSIGN_OR_RETURN(found, EnrolledPk());
  }
  if (generations.size() == 1) found = generations.front();
  for (const InventoryKey* key : generations) {
    if (found != nullptr) break;
    const auto token = TokenFor(*key);
    if (token.ok()) found = key;
    if (!token.ok() && ReasonOf(token.status()) != Reason::kHsmKeyMissing) return token.status();
  }
  if (found == nullptr) found = generations.back();
  const std::lock_guard lock(mutex_);
  return chosen_.emplace(role, found).first->second;
}

const InventoryKey* KeyRing::ChosenFor(std::string_view role) const {
  const auto found = asked_.find(role);
  return found == asked_.end() ? nullptr : found->second;
}

bool KeyRing::Serves(Group group, const std::shared_ptr<Token>& token) const {
  const auto tokens = tokens_.find(group);
  return tokens != tokens_.end() && std::ranges::find(tokens->second, token) != tokens->second.end();
}

Result<std::shared_ptr<Token>> KeyRing::TokenFor(const InventoryKey& key) {
  const auto tokens = tokens_.find(key.group);
  if (tokens == tokens_.end()) return NotThere(key);
  for (const std::shared_ptr<Token>& token : tokens->second) {
    SEALIFT_ASSIGN_OR_RETURN(const bool held, token->keys().HoldsPrivateKey(key.key_id));
    if (held) return token;
  }
  return MakeError(Code::kNotFound, Reason::kHsmKeyMissing,
                   fmt::format("use key '{}' generation {} of group '{}': no token given holds it; it was "
                               "made in {}",
                               key.role, key.generation, GroupName(key.group), key.token_uri));
}

KeyRing::~KeyRing() {
  if (journal_ == nullptr) return;
  if (const auto checkpoint = journal_->Checkpoint(); !checkpoint.ok()) {
    log::Warning("the signing journal was left without a checkpoint",
                 {{"reason", ReasonIdOf(checkpoint.status())}, {"error", MessageOf(checkpoint.status())}});
  }
}

Result<std::shared_ptr<Signer>> KeyRing::SignerFor(std::string_view role) {
  SEALIFT_ASSIGN_OR_RETURN(const InventoryKey* key, KeyFor(role));
  return SignerFor(*key);
}

Result<std::shared_ptr<Signer>> KeyRing::SignerFor(const InventoryKey& key) {
  if (FindRole(key.role)->use != KeyUse::kSign) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("use key '{}': it decrypts and never signs", key.role));
  }
  {
    const std::lock_guard lock(mutex_);
    if (const auto known = signers_.find(key.key_id); known != signers_.end()) return known->second;
  }
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Token> token, TokenFor(key));
  auto signer = TokenSigner::Open(std::move(token), key.key_id);
  if (!signer.ok()) {
    return Annotate(signer.status(),
                    fmt::format("use key '{}' of group '{}'", key.role, GroupName(key.group)));
  }
  const std::lock_guard lock(mutex_);
  return signers_.emplace(key.key_id, *std::move(signer)).first->second;
}

Result<Certificate> KeyRing::CertificateFor(std::string_view role) {
  const auto key = KeyFor(role);
  if (key.ok()) return CertificateFor(**key);
  if (ReasonOf(key.status()) != Reason::kHsmKeyMissing) return key.status();
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("read certificate of '{}': the role has none", role));
}

Result<std::vector<Certificate>> KeyRing::CertificatesFor(std::string_view role) const {
  std::vector<Certificate> certificates;
  for (const InventoryKey* key : inventory_.Generations(role)) {
    SEALIFT_ASSIGN_OR_RETURN(Certificate certificate, CertificateFor(*key));
    certificates.push_back(std::move(certificate));
  }
  return certificates;
}

Result<Certificate> KeyRing::CertificateFor(const InventoryKey& key) const {
  const std::string file = CertificateFile(key.role, key.generation);
  if (file.empty()) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("read certificate of '{}': the role has none", key.role));
  }
  SEALIFT_ASSIGN_OR_RETURN(const std::string pem, ReadTextFile(folder_ / file, kMaxCertificateBytes));
  SEALIFT_ASSIGN_OR_RETURN(Certificate certificate, Certificate::FromPem(pem));
  if (certificate.fingerprint() == key.certificate_fingerprint &&
      certificate.public_key().key_id() == key.key_id) {
    return certificate;
  }
  return MakeError(Code::kFailedPrecondition, Reason::kKeySetInvalid,
                   fmt::format("read certificate of '{}': '{}' is not the one the inventory lists", key.role,
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
  for (const auto& [group, of_group] : tokens_) distinct.insert(of_group.begin(), of_group.end());
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
