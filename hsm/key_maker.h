// Makes keys of a set in their tokens, so that a run which failed, or was killed, can be made again.
//
// Plan all, Mark, then Make one by one; Unmark when all is written, TakeBack when something failed. A key
// that an unfinished run left in a marked token (set_marker.h) is taken over instead of made.
//
// Used by one thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "hsm/hierarchy.h"
#include "hsm/inventory.h"
#include "hsm/journal.h"
#include "hsm/token.h"
#include "shared/crypto/signer.h"

namespace sealift::hsm {

// Told what is being done, one line each.
using Progress = std::function<void(const std::string& line)>;

struct MadeKey {
  InventoryKey entry;
  PublicKey public_key;
  // Null for a key that decrypts.
  std::shared_ptr<Signer> signer;
  std::shared_ptr<Token> token;
};

class KeyMaker {
 public:
  // `what` begins messages: "make key set 'demo'". `mark` names the marker: keys of an unfinished run are
  // only taken over under the same one. `progress` is borrowed.
  KeyMaker(std::string set, std::string what, std::string mark, const Progress& progress,
           Leaving leaving = Leaving::kNever)
      : set_(std::move(set)),
        what_(std::move(what)),
        mark_(std::move(mark)),
        progress_(progress),
        leaving_(leaving) {}

  // Makes nothing. `wanted`: nothing is the role's own, or RSA where the token has no EC.
  // Errors: KEY_ALGORITHM_UNSUPPORTED; HSM_MECHANISM_MISSING; ALREADY_EXISTS/HSM_KEY_EXISTS for a label that
  // is taken, unless by a key of this kind in a marked token.
  Status Plan(const Role& role, std::uint32_t generation, std::shared_ptr<Token> token,
              std::optional<KeyAlgorithm> wanted);
  Status Mark();
  // The next planned key, recorded in `journal`; null when all are made. Stays valid until this object goes.
  Result<const MadeKey*> MakeNext(Journal& journal);
  Status Unmark();
  // After a failure: keys that can be destroyed are, the others stay marked for the next run. Returns `why`,
  // with what became of them. `journal` may be null.
  Status TakeBack(const Status& why, Journal* journal);
  // After a failure that left files which speak of the keys: they stay, marked for the next run. Returns
  // `why`, saying so.
  Status Keep(const Status& why) const;

 private:
  struct PlannedKey {
    const Role* role;
    std::uint32_t generation;
    std::shared_ptr<Token> token;
    KeyAlgorithm algorithm;
    // What an unfinished run made.
    std::optional<PublicKey> left;
  };
  std::set<std::shared_ptr<Token>> Tokens() const;
  Result<std::optional<PublicKey>> FindLeft(const PlannedKey& plan, const std::string& label);
  // Of what was made or taken over from this plan's key; nothing where it does not exist yet.
  std::optional<Sha256Digest> KeyOf(std::size_t plan) const;

  const std::string set_;
  const std::string what_;
  const std::string mark_;
  const Progress& progress_;
  const Leaving leaving_;
  std::vector<PlannedKey> plans_;
  // As plans_, as far as made.
  std::vector<std::unique_ptr<MadeKey>> made_;
};

}  // namespace sealift::hsm
