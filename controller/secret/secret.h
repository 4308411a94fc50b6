// Secrets that the controller keeps for machines that prove what they run, and who got which.
//
// Plain values and a store's interface; implementations are thread-safe, a write that returned OK survives a
// power cut, and every method may also fail with UNAVAILABLE/STORE_FAILED. No value is ever in here in the
// clear.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/ids.h"
#include "shared/base/status.h"

namespace sealift::controller {

inline constexpr std::size_t kMaxSecretBytes = 16u << 10;

struct SecretRecord {
  // 1 to 64 of [a-z0-9._-], led by a letter or digit.
  std::string name;
  // Of this value of it: 16 hex digits, another one each time it is put.
  std::string id;
  // Whose labels fit; empty: every node's. Ignored where `node` is given.
  std::string selector;
  std::optional<NodeId> node;
  // ReleaseRule, canonical.
  std::string releases;
  // Opens by the images' signatures alone, which by default means in the early boot.
  bool boot_only = false;
  std::string note;
  std::string created_by;
  UnixMillis created;
  std::optional<UnixMillis> revoked;
  // SealSecret's text; empty once revoked.
  std::string sealed;
  bool operator==(const SecretRecord&) const = default;
};

// A secret left the controller.
struct SecretDelivery {
  std::string name;
  std::string id;
  NodeId node;
  // What the quote proved.
  ReleaseId release;
  std::string channel;
  std::string version;
  // SHA-256 of the TPMS_ATTEST.
  Sha256Digest quote;
  UnixMillis at;
  bool operator==(const SecretDelivery&) const = default;
};

class SecretStore {
 public:
  virtual ~SecretStore() = default;
  // Takes the place of one with that name.
  virtual Status Put(const SecretRecord& secret) = 0;
  // Errors: NOT_FOUND/SECRET_UNKNOWN.
  virtual Result<SecretRecord> Get(const std::string& name) = 0;
  // Ordered by name, revoked ones too.
  virtual Result<std::vector<SecretRecord>> List() = 0;
  // Forgets the value. Again is fine. Errors: NOT_FOUND/SECRET_UNKNOWN.
  virtual Result<SecretRecord> Revoke(const std::string& name, UnixMillis at) = 0;
  // Append-only: the store refuses changes and removals.
  virtual Status RecordDelivery(const SecretDelivery& delivery) = 0;
  // Newest first.
  virtual Result<std::vector<SecretDelivery>> Deliveries(const std::string& name, std::size_t limit) = 0;
};

}  // namespace sealift::controller
