#include "controller/attest/baseline_review.h"

#include <algorithm>
#include <span>
#include <tuple>

namespace sealift::controller {
namespace {

// Larger is nearer to what the model should show.
auto Claim(const BaselineRecord& record) {
  return std::tuple(record.approved_now(), record.approved, record.confirmed, record.nodes);
}

void ReviewModel(std::span<BaselineRecord> records, std::vector<ReviewedBaseline>& reviewed) {
  const auto wanted = std::ranges::max_element(
      records, [](const BaselineRecord& a, const BaselineRecord& b) { return Claim(a) < Claim(b); });
  const bool settled = wanted->approved_now() || wanted->confirmed;
  const Baseline reference = wanted->baseline;
  for (BaselineRecord& record : records) {
    ReviewedBaseline& one = reviewed.emplace_back();
    if (record.approved_now()) {
      one.standing = BaselineStanding::kApproved;
    } else if (record.confirmed) {
      one.standing = BaselineStanding::kConfirmed;
    } else {
      one.standing = settled ? BaselineStanding::kOutlier : BaselineStanding::kProposed;
    }
    if (record.baseline.id != reference.id) one.difference = FirstDifference(reference, record.baseline);
    one.record = std::move(record);
  }
}

}  // namespace

std::vector<ReviewedBaseline> ReviewBaselines(std::vector<BaselineRecord> records) {
  std::vector<ReviewedBaseline> reviewed;
  for (auto begin = records.begin(); begin != records.end();) {
    const HardwareModel model = begin->baseline.model;
    const auto end = std::find_if(
        begin, records.end(), [&](const BaselineRecord& record) { return record.baseline.model != model; });
    ReviewModel({begin, end}, reviewed);
    begin = end;
  }
  return reviewed;
}

}  // namespace sealift::controller
