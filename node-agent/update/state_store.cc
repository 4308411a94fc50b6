#include "node-agent/update/state_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string_view>

#include "shared/base/ids.h"

namespace sealift::agent {
namespace {

Status Malformed(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed, fmt::format("check update state: {}", what));
}

bool IsPrintable(std::string_view text, std::size_t max_bytes) {
  if (text.size() > max_bytes) return false;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 && c != '\n' && c != '\t') return false;
    if (byte == 0x7f) return false;
  }
  return true;
}

// Names of states at which a record without a version makes no sense.
bool NeedsVersion(UpdateState state) { return state != UpdateState::kIdle; }

}  // namespace

Status CheckRecord(const UpdateRecord& record) {
  if (!StoredStateFromNumber(static_cast<std::int64_t>(record.state)).ok()) return Malformed("unknown state");
  if (record.version.empty() ? NeedsVersion(record.state) : !IsValidVersion(record.version)) {
    return Malformed("version is not well formed");
  }
  if (!record.from_version.empty() && !IsValidVersion(record.from_version)) {
    return Malformed("version updated from is not well formed");
  }
  if (!IsPrintable(record.channel, kMaxChannelBytes)) return Malformed("channel is not well formed");
  if (!IsPrintable(record.boot_id, kMaxBootIdBytes)) return Malformed("boot id is not well formed");
  if (!IsPrintable(record.reason, kMaxReasonBytes)) return Malformed("reason is not well formed");
  if (!IsPrintable(record.message, kMaxMessageBytes)) return Malformed("message is not well formed");
  if (record.since_ms < 0) return Malformed("time of entry is negative");
  return OkStatus();
}

Status CheckFailure(const VersionFailure& failure) {
  if (!IsValidVersion(failure.version)) return Malformed("failed version is not well formed");
  if (!failure.while_running.empty() && !IsValidVersion(failure.while_running)) {
    return Malformed("version that ran at a failure is not well formed");
  }
  if (failure.reason.empty() || !IsPrintable(failure.reason, kMaxReasonBytes)) {
    return Malformed("reason of a failure is not well formed");
  }
  if (!IsPrintable(failure.message, kMaxMessageBytes))
    return Malformed("message of a failure is not well formed");
  return OkStatus();
}

Status CheckChange(const StateChange& change) {
  if (change.record) SEALIFT_RETURN_IF_ERROR(CheckRecord(*change.record));
  if (change.remember) SEALIFT_RETURN_IF_ERROR(CheckFailure(*change.remember));
  if (change.permitted_rollback && !change.permitted_rollback->empty() &&
      !IsValidVersion(*change.permitted_rollback)) {
    return Malformed("permitted version is not well formed");
  }
  if (change.blessed_boots && (change.blessed_boots->count > kMaxBlessedBoots ||
                               !IsPrintable(change.blessed_boots->boot_id, kMaxBootIdBytes))) {
    return Malformed("blessed boots are not well formed");
  }
  return OkStatus();
}

void ApplyChange(const StateChange& change, NodeState& state) {
  const auto forget = [&state](const std::string& version) {
    std::erase_if(state.failures, [&](const VersionFailure& failure) { return failure.version == version; });
  };
  state.fresh = false;
  if (change.record) state.record = *change.record;
  if (change.forget) forget(*change.forget);
  if (change.remember) {
    forget(change.remember->version);
    state.failures.push_back(*change.remember);
    if (std::ssize(state.failures) > kMaxFailures) state.failures.erase(state.failures.begin());
  }
  if (change.time_floor) state.time_floor = std::max(state.time_floor, *change.time_floor);
  if (change.permitted_rollback) state.permitted_rollback = *change.permitted_rollback;
  if (change.blessed_boots) state.blessed_boots = *change.blessed_boots;
}

}  // namespace sealift::agent
