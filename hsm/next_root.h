// The next version of a set's TUF root: the present one with more keys.
//
// Thread-safe: no state. TUF specification 1.0, section 6.1.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "shared/base/clock.h"
#include "shared/crypto/signer.h"
#include "shared/tuf/metadata.h"

namespace sealift::hsm {

// The newest "<n>.root.json" in `folder`, its chain proven from 1.root.json on. Errors:
// FAILED_PRECONDITION/KEY_SET_INVALID.
Result<tuf::Root> PresentRoot(const std::filesystem::path& folder);

struct NextRoot {
  std::uint32_t version = 0;
  std::string json;
};

// Follows the newest "<n>.root.json" in `folder`, whose chain is proven from 1.root.json on. Each role in
// `added` gets that key besides those it has; thresholds stay, and so does the end of a root that lasts
// longer than `expires`. Signed by those of `signers` that the present or the next root lists. What a client
// would refuse is not returned. Errors: KEY_SET_INVALID for roots that do not prove themselves;
// UNAUTHENTICATED/TUF_SIGNATURE_THRESHOLD when the signers are too few; those of the signers.
Result<NextRoot> MakeNextRoot(const std::filesystem::path& folder,
                              const std::map<tuf::Role, PublicKey>& added, UnixMillis expires,
                              const std::vector<std::shared_ptr<Signer>>& signers);

}  // namespace sealift::hsm
