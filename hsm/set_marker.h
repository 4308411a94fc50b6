// Marks a token while a key set is being made in it, so that a ceremony which failed, or was killed, can be
// run again under the same name.
//
// A private data object in the token, "sealift:<set>:unfinished": it goes where the keys go, and only who has
// the PIN can make one. Keys beside it belong to no finished set and are taken over; without it they are
// somebody's.
//
// Thread-safe: no state.
#pragma once

#include <string>
#include <string_view>

#include "hsm/session_pool.h"

namespace sealift::hsm {

Result<bool> HasSetMarker(SessionPool& pool, std::string_view set);
// False when the token keeps no data objects: then a key that stays after a failure stays for good.
// Errors: HSM_TOKEN_FULL and others of the token.
Result<bool> PlaceSetMarker(SessionPool& pool, std::string_view set);
// Succeeds also when there is none.
Status RemoveSetMarker(SessionPool& pool, std::string_view set);

}  // namespace sealift::hsm
