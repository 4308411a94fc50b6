// The keys of one set, by role: what every part of the system that signs asks for.
//
//   SEALIFT_ASSIGN_OR_RETURN(auto ring, KeyRing::Open(keys_folder, {"release=pkcs11:token=..."}));
//   SEALIFT_ASSIGN_OR_RETURN(auto signer, ring->SignerFor("db"));
//
// A role has generations, side by side, perhaps in several tokens of its group. The one that signs is the one
// chosen ("ROLE=N"), else the oldest whose key a token given holds: what machines and programs hold already
// goes on being what they see until somebody decides. Of pk it is the one that PK.esl names, since machines
// take updates from the PK they hold.
//
// All that its signers do is recorded in one signing journal: the file given, or `journal` in the folder.
// Where a token given holds the set's `journal` key, checkpoints are signed; the last one when the ring goes.
//
// Thread-safe after Open. Signers hold what they need and may outlive the ring.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "hsm/inventory.h"
#include "hsm/journal.h"
#include "hsm/token.h"
#include "shared/crypto/certificate.h"
#include "shared/crypto/signer.h"

namespace sealift::hsm {

// By group; several tokens of one group hold generations of its roles.
using TokensByGroup = std::map<Group, std::vector<std::shared_ptr<Token>>>;

class KeyRing {
 public:
  // `token_args`: "[GROUP=]URI" each, as --token takes them, several for one group if need be; one without a
  // group serves all groups that no other names, with a warning. Every token named is opened now, so that a
  // wrong PIN shows at start; without any there is no journal either. `generations`: "ROLE=N" each.
  // Errors: INVALID_ARGUMENT; KEY_SET_INVALID; those of Token::Open and Journal::Open.
  static Result<std::unique_ptr<KeyRing>> Open(const std::filesystem::path& keys_folder,
                                               const std::vector<std::string>& token_args,
                                               const std::filesystem::path& journal = {},
                                               const std::vector<std::string>& generations = {});
  ~KeyRing();

  // The generation that signs. Without a token that holds one: the newest. Lives as long as the ring.
  // Errors: NOT_FOUND/HSM_KEY_MISSING when the set has no such role; KEY_SET_INVALID when there are several
  // pk and PK.esl cannot be read or names none of them; those of the tokens.
  Result<const InventoryKey*> KeyFor(std::string_view role);
  // Of that generation. Errors: NOT_FOUND/HSM_KEY_MISSING naming role, group and what to give;
  // INVALID_ARGUMENT for a role that cannot sign.
  Result<std::shared_ptr<Signer>> SignerFor(std::string_view role);
  // The generation that "ROLE=N" at Open chose; null where none was.
  const InventoryKey* ChosenFor(std::string_view role) const;
  // Whether `token` is one of those given for the group.
  bool Serves(Group group, const std::shared_ptr<Token>& token) const;
  // A certain generation.
  Result<std::shared_ptr<Signer>> SignerFor(const InventoryKey& key);
  // The token given that holds it. Errors: NOT_FOUND/HSM_KEY_MISSING.
  Result<std::shared_ptr<Token>> TokenFor(const InventoryKey& key);
  // The certificate that the set's folder holds: of "pk", "kek", "db", "extensions",
  // "node-ca", "operator-ca", "controller-tls". Checked against the inventory's fingerprint. Errors:
  // KEY_SET_INVALID; INVALID_ARGUMENT for a role without one.
  Result<Certificate> CertificateFor(const InventoryKey& key) const;
  // Of the generation that signs.
  Result<Certificate> CertificateFor(std::string_view role);
  // Of all generations, oldest first: what a verifier is to trust.
  Result<std::vector<Certificate>> CertificatesFor(std::string_view role) const;
  // The public half from the set's folder, checked against the inventory; needs no token.
  Result<PublicKey> PublicKeyFor(const InventoryKey& key) const;

  const Inventory& inventory() const { return inventory_; }
  const std::filesystem::path& folder() const { return folder_; }
  // Groups of which an opened token holds a private key: what this program can sign for, whatever names the
  // tokens were given under.
  Result<std::vector<Group>> HeldGroups();
  // Null without tokens.
  const std::shared_ptr<Journal>& journal() const { return journal_; }

 private:
  KeyRing(std::filesystem::path folder, Inventory inventory)
      : folder_(std::move(folder)), inventory_(std::move(inventory)) {}

  Status OpenJournal(const std::filesystem::path& path);
  // "ROLE=N". Errors: INVALID_ARGUMENT; NOT_FOUND/HSM_KEY_MISSING.
  Status Choose(std::string_view text);
  // The PK that PK.esl in the folder names. Errors: KEY_SET_INVALID.
  Result<const InventoryKey*> EnrolledPk() const;

  std::filesystem::path folder_;
  Inventory inventory_;
  std::shared_ptr<Journal> journal_;
  TokensByGroup tokens_;
  // By "ROLE=N".
  std::map<std::string, const InventoryKey*, std::less<>> asked_;
  std::mutex mutex_;
  // The generation that signs, by role, as far as it was asked for.
  std::map<std::string, const InventoryKey*, std::less<>> chosen_;
  std::map<Sha256Digest, std::shared_ptr<Signer>> signers_;
};

// "PK.pem" for "pk", "PK-2.pem" for its second generation; empty for a role without a certificate.
std::string CertificateFile(std::string_view role, std::uint32_t generation = 1);
// "public/db-1.pem".
std::string PublicKeyFile(std::string_view role, std::uint32_t generation);
// What "controller-tls.key.pem" refers to: the token, and the key in it by id. No PIN source: the program
// opens its tokens first, or the URI is given one.
TokenUri KeyUri(const TokenUri& token, const Sha256Digest& key_id);

// Opens "[GROUP=]URI" arguments. The same token for a group twice is refused. Errors as KeyRing::Open.
Result<TokensByGroup> OpenTokensByGroup(const std::vector<std::string>& token_args);
// The same, each group at most once.
Result<std::map<Group, std::shared_ptr<Token>>> OpenTokens(const std::vector<std::string>& token_args);

// Lets key references "pkcs11:token=...;id=..." (shared/crypto/key_reference.h) resolve to TokenSigners. A
// token that is open already needs no PIN source in the reference.
void RegisterPkcs11Resolver();

}  // namespace sealift::hsm
