// Brings this machine's recovery keys to the controller, and replaces them when ordered: the new one is
// acknowledged before the old one is removed.
//
// Keys are made by the early boot (node-agent/volume/unlock.h): the replacement of a key begins with a mark
// in the state folder, the next boot adds new keys beside the old ones. What was acknowledged is remembered
// in a file there; whoever loses it sends the same keys again, which is harmless. Not thread-safe.
#pragma once

#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/escrow/escrow.h"

namespace sealift::agent {

inline constexpr std::string_view kEscrowBookName = "escrow.json";

// The machine's recovery keys, as the early boot found or made them.
class RecoveryKeys {
 public:
  virtual ~RecoveryKeys() = default;
  // Those that the early boot has proven; none where no volume is encrypted. Errors:
  // FAILED_PRECONDITION/EPOCH_UNUSABLE when it left no word that can be read.
  virtual Result<std::vector<escrow::EscrowedKey>> List() = 0;
  // Removes every recovery slot of the volume but this one.
  virtual Status DropOthers(const std::string& volume, std::uint32_t keep_slot) = 0;
};

class EscrowKeeper {
 public:
  // The controller's acknowledgement: SHA-256 of what it has stored.
  using Send = std::function<Result<Sha256Digest>(const escrow::EscrowedKey&)>;

  struct Places {
    // In the state folder.
    std::filesystem::path book;
    // Asks the next boot for new keys.
    std::filesystem::path replace_mark;
    std::function<bool()> mounted;
  };
  EscrowKeeper(Places places, RecoveryKeys& keys) : places_(std::move(places)), keys_(keys) {}

  // Sends what is not acknowledged, one call each; then removes what was replaced. Errors: those of List; the
  // first of the calls'; try again later. DATA_LOSS/ESCROW_MALFORMED when the controller acknowledges
  // something else.
  Status Step(const Send& send);
  // Every key is acknowledged and none waits for its removal.
  bool settled() const { return settled_; }

  // For order `id`: true when its replacement has ended. Errors: NOT_FOUND/RECOVERY_KEY_UNKNOWN when there is
  // nothing to replace; FAILED_PRECONDITION/STATE_MISSING; those of List.
  Result<bool> Replace(const std::string& id);
  // Whether the last replacement has ended; one that began later includes those before. Errors:
  // FAILED_PRECONDITION/RECOVERY_KEY_UNKNOWN when none is known of; UNAVAILABLE/STATE_MISSING.
  Result<bool> HasReplaced();

 private:
  struct Book {
    std::set<std::string> acknowledged;
    // Digests of keys that are to be removed.
    std::set<std::string> replacing;
    std::set<std::string> dropped;
    // The order that asked for it.
    std::string order;
    bool operator==(const Book&) const = default;
  };
  void Load();
  Status Save();
  Status Bring(const escrow::EscrowedKey& key, const Send& send);
  Status DropReplaced(const std::vector<escrow::EscrowedKey>& keys);

  const Places places_;
  RecoveryKeys& keys_;
  Book book_;
  bool loaded_ = false;
  bool settled_ = false;
};

}  // namespace sealift::agent
