// Looks for a reset order in the early boot: on the mounted ESP, or on one that it mounts for a moment.
#pragma once

#include <memory>

#include "node-agent/app/settings.h"
#include "node-agent/order/reset_order_file.h"
#include "node-agent/tpm/esys_tpm.h"

namespace sealift::agent {

// Null where the image names no orders-root: then nothing on the ESP can ever lead to a reset. Borrows all; a
// TpmDevice is shared.
std::unique_ptr<ResetOrders> MakeResetOrders(const Settings& settings,
                                             const std::shared_ptr<TpmDevice>& device, TpmCounters& counters,
                                             const Clock& clock);

}  // namespace sealift::agent
