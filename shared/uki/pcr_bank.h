// PCR banks beyond SHA-256, and the policy digests that speak of them (TPM 2.0 part 1, section 19.7.7;
// part 3, TPM2_PolicyPCR).
//
// Thread-safe functions over plain values. SHA-1 exists for looking at what others made; nothing is built
// with it.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/crypto/openssl.h"

namespace sealift::uki {

struct PcrBank {
  // As systemd and tpm2-tools write it: "sha256".
  std::string_view name;
  // TPM_ALG_ID.
  std::uint16_t algorithm = 0;
  std::size_t digest_bytes = 0;
};

// "sha1", "sha256", "sha384", "sha512"; nullptr for others.
const PcrBank* FindPcrBank(std::string_view name);

// The bank's hash over the pieces in order.
Bytes BankHash(const PcrBank& bank, std::initializer_list<ByteView> pieces);

// The same in pieces. Belongs to one thread.
class BankHasher {
 public:
  explicit BankHasher(const PcrBank& bank);
  void Update(ByteView bytes);
  // Ends this hash; there is no next.
  Bytes Finish();

 private:
  EvpMdCtxPtr context_;
  std::size_t digest_bytes_;
};

// PCR 11 in a bank. `section_digests`: by the bank's hash, by name with the dot, in any order; extended in
// the order of the newest stub. `phases`: as PredictPcr11 takes them. Errors:
// INVALID_ARGUMENT/INVALID_ARGUMENT for a section that no stub measures or an empty phase word.
Result<Bytes> Pcr11InBank(const PcrBank& bank, const std::map<std::string, Bytes>& section_digests,
                          std::string_view phases);

struct PcrValue {
  const PcrBank* bank = nullptr;
  // 0 to 23.
  unsigned index = 0;
  Bytes value;
};

// The policy digest of a fresh session with that hash after TPM2_PolicyPCR over these values. One selection a
// bank, in the order in which banks first occur; values in it by index.
Bytes PolicyPcrDigest(const PcrBank& policy_hash, std::span<const PcrValue> values);

}  // namespace sealift::uki
