// The effects of signed orders on a real machine.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "node-agent/esp/efi_variables.h"
#include "node-agent/esp/file_system.h"
#include "node-agent/order/epoch_book.h"
#include "node-agent/order/escrow_keeper.h"
#include "node-agent/order/order_seams.h"
#include "node-agent/tpm/counters.h"
#include "node-agent/update/update_engine.h"

namespace sealift::agent {

class AgentOrderActions final : public OrderActions {
 public:
  // Borrowed; all outlive it.
  struct Parts {
    UpdateEngine& engine;
    Rebooter& rebooter;
    FileSystem& esp;
    EfiVariables& variables;
    TpmCounters& counters;
    EscrowKeeper& escrow;
    EpochBook& epochs;
    // Where the early boot left its word.
    std::filesystem::path runtime;
    // Only encrypted volumes are made anew.
    bool volumes_encrypted = true;
  };
  explicit AgentOrderActions(Parts parts) : parts_(std::move(parts)) {}

  Status Check(const order::ChangeRequest& request) override;
  Result<bool> Perform(const order::ChangeRequest& request) override;
  Result<bool> HasEnded(const std::string& request_id) override;
  Status StageReset(const std::string& envelope) override;
  Status DropReset() override;
  std::optional<OrderOutcome> ResetOutcome() override;
  Status RequestReboot(const std::string& why) override;

 private:
  Status CheckEpochStep(std::uint64_t epoch);
  Status RaiseEpoch(std::uint64_t epoch);
  Result<BootInventory> BlessedInventory() const;

  const Parts parts_;
};

}  // namespace sealift::agent
