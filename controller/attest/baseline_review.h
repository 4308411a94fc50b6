// How the baselines of hardware models stand to each other, for operators. Pure; thread-safe.
#pragma once

#include <string>
#include <vector>

#include "controller/attest/firmware.h"
#include "controller/fleet/baseline.h"

namespace sealift::controller {

// On the wire; do not renumber (proto Baseline.Standing).
enum class BaselineStanding { kApproved = 1, kConfirmed = 2, kProposed = 3, kOutlier = 4 };

struct ReviewedBaseline {
  BaselineRecord record;
  BaselineStanding standing = BaselineStanding::kProposed;
  // In words, the first event that differs from what the model should show: the newest approved baseline,
  // else what is confirmed, else what most machines show. Empty for that one itself.
  std::string difference;
};

// `records`: of whole models, those of a model together (BaselineStore::List).
std::vector<ReviewedBaseline> ReviewBaselines(std::vector<BaselineRecord> records);

}  // namespace sealift::controller
