// A statement of a key hierarchy that an auditor can check without a token and without a network.
//
// A DSSE envelope (payload type kStatementType) whose payload lists every key of a set with its public half,
// its certificate, what its token says about it, and how often the signing journal saw it used; and, in
// words, what each claim rests on. Signed by the set's `journal` key where its token was opened.
// docs/journal.md.
//
// Thread-safe functions.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hsm/journal_verify.h"
#include "hsm/key_ring.h"

namespace sealift::hsm {

inline constexpr char kStatementType[] = "application/vnd.sealift.key-hierarchy+json";
inline constexpr std::size_t kMaxStatementBytes = 4u << 20;

// One key, as inventory and, where it was asked, its token tell it.
struct KeyAccount {
  const InventoryKey* key = nullptr;
  // Nothing: the token of its group was not given.
  std::optional<bool> in_token;
  // Empty unless in_token.
  KeyCustody custody;
  // From the journals given; nothing without any.
  std::optional<JournalUses> uses;
  std::uint64_t tls_handshakes = 0;

  bool born_in_token() const { return in_token == true ? custody.born_in_token() : key->born_in_token; }
};

// In the inventory's order; borrows the inventory. Errors: those of the tokens.
Result<std::vector<KeyAccount>> AccountForKeys(const Inventory& inventory, const TokensByGroup& tokens,
                                               const std::vector<JournalReport>& journals);

// `signer` may be null: an unsigned statement. Errors: KEY_SET_INVALID for public files that do not fit the
// inventory; those of the signer.
Result<std::string> MakeStatement(const KeyRing& ring, const std::vector<KeyAccount>& keys,
                                  const std::vector<JournalReport>& journals, UnixMillis now, Signer* signer);

struct CheckedStatement {
  std::string set;
  UnixMillis made;
  std::size_t keys = 0;
  std::size_t certificates = 0;
  // Whether `key` signed it.
  bool signed_by_key = false;
  // "claim: what it rests on", as the statement has them.
  std::vector<std::string> claims;
};

// Key ids against public halves, roles against groups, certificates against keys and issuers, and the
// signature when `key` is given. Errors: INVALID_ARGUMENT/MALFORMED; FAILED_PRECONDITION/KEY_SET_INVALID
// naming the first contradiction; UNAUTHENTICATED/SIGNATURE_INVALID.
Result<CheckedStatement> CheckStatement(std::string_view envelope, const std::optional<PublicKey>& key);

}  // namespace sealift::hsm
