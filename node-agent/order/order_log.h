// The record of orders as a JSON file in the agent's state folder. Read as foreign: bounded, and what it says
// of an order in hand is proven again. Not thread-safe.
#pragma once

#include <filesystem>
#include <functional>

#include "node-agent/order/order_seams.h"

namespace sealift::agent {

inline constexpr std::string_view kOrderLogName = "orders.json";

class FileOrderLog final : public OrderLog {
 public:
  // `mounted`: whether the folder is on the state partition now; nothing is written elsewhere.
  FileOrderLog(std::filesystem::path file, std::function<bool()> mounted)
      : file_(std::move(file)), mounted_(std::move(mounted)) {}
  OrderRecord Load() override;
  bool Available() override { return mounted_(); }
  Status Save(const OrderRecord& record) override;

 private:
  const std::filesystem::path file_;
  const std::function<bool()> mounted_;
};

std::string SerializeOrderRecord(const OrderRecord& record);
// Errors: INVALID_ARGUMENT/MALFORMED.
Result<OrderRecord> ParseOrderRecord(std::string_view json);

// One outcome, as the early boot leaves it.
std::string SerializeOutcome(const OrderOutcome& outcome);
Result<OrderOutcome> ParseOutcome(std::string_view json);

}  // namespace sealift::agent
