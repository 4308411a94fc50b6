// Status <-> grpc::Status. The reason id travels as sealift.v1.ErrorDetail in the binary details.
//
// A refusal at the access gate has no room for details (gRPC's auth processor returns code and message only),
// so its message starts with "REASON_ID: "; StatusFromGrpc reads both forms. Thread-safe functions.
#pragma once

#include <grpcpp/support/status.h>

#include "shared/base/status.h"

namespace sealift {

grpc::Status ToGrpcStatus(const Status& status);
// "REASON_ID: message" and no details: for places where gRPC drops details.
grpc::Status ToGrpcStatusInMessage(const Status& status);
// A transport error that carries no reason gets TIMEOUT, CANCELLED or PEER_UNREACHABLE from its code.
Status StatusFromGrpc(const grpc::Status& status);

}  // namespace sealift
