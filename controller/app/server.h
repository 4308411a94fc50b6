// The controller, put together: stores, keys, services, listeners, background tasks. Knows every room, holds
// no logic.
#pragma once

#include <memory>
#include <string>

#include "controller/api/ports.h"
#include "controller/app/config.h"
#include "controller/app/online_keys.h"
#include "shared/base/clock.h"
#include "shared/base/status.h"

namespace sealift::controller {

// Addresses in use, port 0 resolved.
struct ServerAddresses {
  std::string fleet;
  std::string enrolment;
  // Empty when off.
  std::string metrics;
};

// Not thread-safe; start and stop from one thread.
class ControllerServer {
 public:
  // Listens when it returns. Borrows `clock`. `attestor` and `expectations`: null for the real ones (tests
  // without a TPM give theirs). Errors: those of the stores, of TufRepository::Open, of the TLS credentials;
  // UNAVAILABLE/LISTEN_FAILED.
  struct Overrides {
    NodeAttestor* attestor = nullptr;
  };
  static Result<std::unique_ptr<ControllerServer>> Start(const ControllerConfig& config, OnlineKeys keys,
                                                         Clock& clock, Overrides overrides);
  // Stops if Stop was not called.
  ~ControllerServer();

  const ServerAddresses& addresses() const;
  // Takes no new call, lets those under way finish for the configured time, then ends them.
  void Stop();

 private:
  struct Parts;
  explicit ControllerServer(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace sealift::controller
