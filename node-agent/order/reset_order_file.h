// The reset order on its way from the running agent to the early unit of the next boot: a file on the ESP.
//
// The ESP is foreign: the file is worth what it verifies to, with what the measured image and the TPM know
// alone. No other file there leads to a reset. Not thread-safe.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "node-agent/esp/file_system.h"
#include "node-agent/order/order_seams.h"
#include "node-agent/tpm/counters.h"
#include "node-agent/volume/unlock.h"
#include "shared/base/clock.h"
#include "shared/crypto/public_key.h"

namespace sealift::agent {

inline constexpr std::string_view kResetOrderFolder = "EFI/sealift";
inline constexpr std::string_view kResetOrderFile = "EFI/sealift/order.dsse";
// Under the runtime folder: what the early unit made of it.
inline constexpr std::string_view kResetOutcomeName = "reset-outcome.json";

// Errors: those of FileSystem.
Status WriteResetOrder(FileSystem& esp, const std::string& envelope);
// Success where there is none.
Status RemoveResetOrder(FileSystem& esp);

// The early unit's half.
class EspResetOrders final : public ResetOrders {
 public:
  struct Parts {
    // The ESP, mounted read-only; asked once. Errors: what kept it from being mounted.
    std::function<Result<std::unique_ptr<FileSystem>>()> open_esp;
    TpmCounters& counters;
    // SHA-256 of the EK's SubjectPublicKeyInfo; asked only where there is an order.
    std::function<Result<Sha256Digest>()> ek_digest;
    PublicKey orders_root;
    // Never before the image's build time.
    const Clock& clock;
    std::filesystem::path runtime;
  };
  explicit EspResetOrders(Parts parts) : parts_(std::move(parts)) {}

  // The order's request digest, in hex. Never an error for what lies on the ESP; errors: the TPM's.
  Result<std::string> Pending() override;
  // Raises kOrderCounter and leaves word for the running agent.
  Status Consume(const std::string& id) override;

 private:
  // Leaves word where the order can be named.
  void Refuse(const std::string& envelope, const Status& why);
  Status Leave(const OrderOutcome& outcome);

  const Parts parts_;
};

}  // namespace sealift::agent
