#include "shared/crypto/node_certificate.h"

#include <fmt/format.h>

namespace sealift {
namespace {

constexpr std::string_view kNodeUriPrefix = "sealift:node:";

}  // namespace

Result<NodeId> NodeIdOf(const Certificate& leaf) {
  const std::vector<std::string> uris = leaf.uris();
  if (uris.size() == 1 && uris.front().starts_with(kNodeUriPrefix)) {
    return NodeId::Parse(std::string_view(uris.front()).substr(kNodeUriPrefix.size()));
  }
  return MakeError(Code::kInvalidArgument, Reason::kCertificateInvalid,
                   fmt::format("read the node certificate: {} URIs, not one node id", uris.size()));
}

}  // namespace sealift
