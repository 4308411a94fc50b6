// `sealift-agent bootentry`.
#pragma once

#include <string>

#include "node-agent/app/settings.h"

namespace sealift::agent {

// Shows the entries, or chooses one for the next boot where `select` is "active", "passive" or "recovery". As
// text or JSON. Errors: those of ReadBootChoice and SelectOnce.
Result<std::string> RunBootEntry(const Settings& settings, const std::string& select, bool json);

}  // namespace sealift::agent
