#include "shared/wire/grpc_status.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "sealift/v1/common.pb.h"

namespace sealift {
namespace {

// gRPC puts message and details into headers: anything long would break the stream instead of explaining.
constexpr std::size_t kMaxMessageBytes = 2048;

std::string BoundedMessage(const Status& status) {
  std::string message = MessageOf(status);
  if (message.size() > kMaxMessageBytes) message = message.substr(0, kMaxMessageBytes) + "...";
  return message;
}

bool LooksLikeReasonId(std::string_view text) {
  return text.size() >= 3 && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
         });
}

std::string_view ReasonOfTransport(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return ReasonId(Reason::kTimeout);
    case grpc::StatusCode::CANCELLED:
      return ReasonId(Reason::kCancelled);
    case grpc::StatusCode::UNAVAILABLE:
      return ReasonId(Reason::kPeerUnreachable);
    default:
      return ReasonId(Reason::kInternal);
  }
}

}  // namespace

grpc::Status ToGrpcStatus(const Status& status) {
  if (status.ok()) return grpc::Status::OK;
  v1::ErrorDetail detail;
  detail.set_reason(ReasonIdOf(status));
  return {static_cast<grpc::StatusCode>(status.code()), BoundedMessage(status), detail.SerializeAsString()};
}

grpc::Status ToGrpcStatusInMessage(const Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.code()),
          fmt::format("{}: {}", ReasonIdOf(status), BoundedMessage(status))};
}

Status StatusFromGrpc(const grpc::Status& status) {
  if (status.ok()) return OkStatus();
  const auto code = static_cast<Code>(status.error_code());
  v1::ErrorDetail detail;
  if (const std::string details = status.error_details();
      !details.empty() && detail.ParseFromString(details) && LooksLikeReasonId(detail.reason())) {
    return FromWire(code, detail.reason(), status.error_message());
  }
  const std::string message = status.error_message();
  if (const std::size_t colon = message.find(": ");
      colon != std::string::npos && LooksLikeReasonId(std::string_view(message).substr(0, colon))) {
    return FromWire(code, message.substr(0, colon), message.substr(colon + 2));
  }
  return FromWire(code, ReasonOfTransport(status.error_code()), message);
}

}  // namespace sealift
