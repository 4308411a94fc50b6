// The ceremony that adds a generation: new keys of some roles of a set, side by side with the old ones.
//
// The token that gets them is usually another one than the first, so that either can be lost. What has to be
// signed for both to be accepted is signed by keys that are trusted already; see docs/keys.md for the
// order in which machines and programs take it. Run by one person at a time: the set's folder is locked.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hsm/hierarchy.h"
#include "hsm/inventory.h"
#include "hsm/key_maker.h"
#include "hsm/key_ring.h"
#include "hsm/token.h"
#include "shared/base/clock.h"

namespace sealift::hsm {

struct GenerationOptions {
  // Empty: every role of the groups in `tokens`.
  std::vector<std::string> roles;
  // Where the new keys are born: a token for the group of each role.
  std::map<Group, std::shared_ptr<Token>> tokens;
  // 0: one more than the role has. Any other number than that one is refused.
  std::uint32_t generation = 0;
  // By role, instead of its own.
  std::map<std::string, KeyAlgorithm, std::less<>> algorithms;
  // Life of the new certificates and of the new TUF root, from now; not beyond the year 9999. A root that
  // lasts longer already is not made to end earlier.
  std::int64_t expiration_days = 365;
  UnixMillis now;
  // Sign with a certificate that has ended.
  bool allow_expired = false;
};

struct AddedGeneration {
  Inventory inventory;
  // "db-2".
  std::vector<std::string> keys;
  // Written or replaced, inside the set's folder.
  std::vector<std::string> files;
};

// Makes the keys and writes, N being the generation:
//
//   public/<role>-N.pem             public half of every key
//   PK|KEK|db|node-ca|operator-ca|controller-tls-N.pem (.der for firmware), controller-tls-N.key.pem,
//   tpm2-pcr-public-N.pem, journal-N.pub.pem
//   KEK|db.{esl,auth}               replaced: the full list, with the certificates of all generations
//   updates/KEK|db-N.{esl,auth}     the new certificate alone, to be appended by machines in user mode
//   earlier/<time>[-<n>]/*.esl      the lists that machines may hold while they take the updates one by one,
//                                   with the old PK and with the new one: the controller knows them by these
//   updates/PK-N.{esl,auth}         PK holds one certificate: this replaces it on machines in user mode
//   updates/pk-N/{PK.esl,PK.auth,KEK.auth}   what the folder's become when machines have taken it
//   tuf/V.root.json                 the next root: keys of all generations, thresholds kept, signed by old
//                                   root keys and by the new one (TUF 1.0 section 6.1)
//   inventory.json                  last
//
// Nothing that the inventory lists is overwritten. `ring` needs a journal, and the tokens of: pk for kek and
// pk, kek for db, tuf-root for TUF roles, node-ca for controller-tls. Its inventory is that of before.
// Needs InstallKeyProvider().
// Errors: INVALID_ARGUMENT; ALREADY_EXISTS/KEY_GENERATION_EXISTS; KEY_ALGORITHM_UNSUPPORTED; HSM_KEY_MISSING
// and SIGNER_CERTIFICATE_EXPIRED before anything was made; TIMESTAMP_NOT_NEWER; KEY_SET_INVALID; those of
// the tokens. After a failure the same call may be made again, as with InitialiseKeySet; once a file was
// written, keys are never destroyed.
Result<AddedGeneration> AddGeneration(KeyRing& ring, const GenerationOptions& options,
                                      const Progress& progress);

}  // namespace sealift::hsm
