// Finds the slot of a token by what its URI says.
//
// Thread-safe. Slot numbers mean nothing outside one generation of a module: they are looked up again after
// each.
#pragma once

#include "hsm/module.h"
#include "hsm/token_uri.h"

namespace sealift::hsm {

struct FoundToken {
  CK_SLOT_ID slot = 0;
  // Label, serial, model and manufacturer as the token gives them: what it is known by, unlike its slot.
  TokenUri identity;
};

TokenUri IdentityOf(const CK_TOKEN_INFO& info);

// The one initialised token that fits label, serial, model and manufacturer, as far as they are given. The
// caller holds a Module::Use.
// Errors: NOT_FOUND/HSM_TOKEN_MISSING; INVALID_ARGUMENT/HSM_TOKEN_AMBIGUOUS listing the serial numbers; those
// of the module.
Result<FoundToken> FindToken(const Module& module, const TokenUri& uri);

}  // namespace sealift::hsm
