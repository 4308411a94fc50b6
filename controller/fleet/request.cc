#include "controller/fleet/request.h"

namespace sealift::controller {

std::string_view RequestStateName(RequestState state) {
  switch (state) {
    case RequestState::kOpen:
      return "open";
    case RequestState::kApproved:
      return "approved";
    case RequestState::kDelivered:
      return "delivered";
    case RequestState::kDone:
      return "done";
    case RequestState::kFailed:
      return "failed";
    case RequestState::kCancelled:
      return "cancelled";
    case RequestState::kExpired:
      return "expired";
  }
  return "unknown";
}

bool HasEnded(RequestState state) {
  return state != RequestState::kOpen && state != RequestState::kApproved &&
         state != RequestState::kDelivered;
}

std::string_view OutcomeStateName(OutcomeState state) {
  switch (state) {
    case OutcomeState::kAccepted:
      return "accepted";
    case OutcomeState::kDone:
      return "done";
    case OutcomeState::kRefused:
      return "refused";
    case OutcomeState::kFailed:
      return "failed";
    case OutcomeState::kUnspecified:
      break;
  }
  return "unknown";
}

RequestState StateAt(const RequestRecord& record, UnixMillis now) {
  const bool waits = record.state == RequestState::kOpen || record.state == RequestState::kApproved;
  return waits && now >= record.request.expires ? RequestState::kExpired : record.state;
}

}  // namespace sealift::controller
