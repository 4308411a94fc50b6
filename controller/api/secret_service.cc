#include "controller/api/secret_service.h"

#include <fmt/format.h>

#include <algorithm>

#include "controller/api/convert.h"
#include "shared/wire/convert.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kMaxIdBytes = 64;
constexpr std::size_t kMaxSelectorBytes = 1024;
constexpr std::size_t kMaxReleasesBytes = 1024;
constexpr std::size_t kMaxNoteBytes = 512;
constexpr std::uint32_t kDefaultDeliveries = 20;
constexpr std::uint32_t kMaxDeliveries = 1000;

std::string NotAudited() { return {}; }

v1::Secret ToProto(const SecretRecord& record) {
  v1::Secret out;
  out.set_name(record.name);
  out.set_id(record.id);
  out.set_selector(record.selector);
  if (record.node) out.set_node_id(record.node->text());
  out.set_releases(record.releases);
  out.set_boot_only(record.boot_only);
  out.set_note(record.note);
  out.set_created_by(record.created_by);
  out.set_created_unix_ms(ToUnixMs(record.created));
  if (record.revoked) out.set_revoked_unix_ms(ToUnixMs(*record.revoked));
  return out;
}

v1::SecretDelivery ToProto(const SecretDelivery& delivery) {
  v1::SecretDelivery out;
  out.set_id(delivery.id);
  out.set_node_id(delivery.node.text());
  out.set_channel(delivery.channel);
  out.set_version(delivery.version);
  out.set_release_id(wire::ToWire(delivery.release.digest));
  out.set_quote_digest(wire::ToWire(delivery.quote));
  out.set_at_unix_ms(ToUnixMs(delivery.at));
  return out;
}

}  // namespace

Result<NodeId> SecretServiceImpl::NodeNamed(const std::string& id_or_prefix) {
  SEALIFT_RETURN_IF_ERROR(CheckText("node_id", id_or_prefix, kMaxIdBytes));
  SEALIFT_ASSIGN_OR_RETURN(const auto nodes, parts_.nodes.List({.id_prefix = id_or_prefix, .limit = 2}));
  if (nodes.empty()) {
    return MakeError(Code::kNotFound, Reason::kNodeUnknown, fmt::format("find node '{}'", id_or_prefix));
  }
  if (nodes.size() == 1) return nodes.front().id;
  return MakeError(Code::kInvalidArgument, Reason::kNodeIdAmbiguous,
                   fmt::format("find node '{}': {} and {} start so", id_or_prefix, nodes[0].id.text(),
                               nodes[1].id.text()));
}

grpc::Status SecretServiceImpl::ListSecrets(grpc::ServerContext* context, const v1::ListSecretsRequest*,
                                            v1::ListSecretsResponse* response) {
  return parts_.runner.Run(*context, "/sealift.v1.SecretService/ListSecrets", NotAudited,
                           [&](const Caller&) -> Status {
                             SEALIFT_ASSIGN_OR_RETURN(const auto secrets, parts_.secrets.List());
                             for (const SecretRecord& one : secrets) *response->add_secrets() = ToProto(one);
                             return OkStatus();
                           });
}

grpc::Status SecretServiceImpl::GetSecret(grpc::ServerContext* context, const v1::GetSecretRequest* request,
                                          v1::GetSecretResponse* response) {
  return parts_.runner.Run(
      *context, "/sealift.v1.SecretService/GetSecret", NotAudited, [&](const Caller&) -> Status {
        SEALIFT_RETURN_IF_ERROR(CheckText("name", request->name(), kMaxIdBytes));
        SEALIFT_ASSIGN_OR_RETURN(const SecretRecord record, parts_.secrets.Get(request->name()));
        *response->mutable_secret() = ToProto(record);
        const std::uint32_t limit =
            request->limit() == 0 ? kDefaultDeliveries : std::min(request->limit(), kMaxDeliveries);
        SEALIFT_ASSIGN_OR_RETURN(const auto deliveries, parts_.secrets.Deliveries(request->name(), limit));
        for (const SecretDelivery& one : deliveries) *response->add_deliveries() = ToProto(one);
        return OkStatus();
      });
}

grpc::Status SecretServiceImpl::PutSecret(grpc::ServerContext* context, const v1::PutSecretRequest* request,
                                          v1::Secret* response) {
  const auto told = [&] {
    return fmt::format(
        "secret {} for {} releases {}{}", request->name(),
        request->node_id().empty() ? "'" + request->selector() + "'" : "node " + request->node_id(),
        request->releases(), request->boot_only() ? " boot-only" : "");
  };
  return parts_.runner.Run(
      *context, "/sealift.v1.SecretService/PutSecret", told, [&](const Caller& caller) -> Status {
        SEALIFT_RETURN_IF_ERROR(CheckText("selector", request->selector(), kMaxSelectorBytes));
        SEALIFT_RETURN_IF_ERROR(CheckText("releases", request->releases(), kMaxReleasesBytes));
        SEALIFT_RETURN_IF_ERROR(CheckText("note", request->note(), kMaxNoteBytes));
        SecretRecord record{.name = request->name(),
                            .id = {},
                            .selector = request->selector(),
                            .node = std::nullopt,
                            .releases = request->releases(),
                            .boot_only = request->boot_only(),
                            .note = request->note(),
                            .created_by = caller.operator_name};
        if (!request->node_id().empty()) {
          SEALIFT_ASSIGN_OR_RETURN(record.node, NodeNamed(request->node_id()));
        }
        const SecretBytes value(AsBytes(request->value()));
        SEALIFT_ASSIGN_OR_RETURN(record, parts_.desk.Put(std::move(record), value));
        *response = ToProto(record);
        return OkStatus();
      });
}

grpc::Status SecretServiceImpl::RevokeSecret(grpc::ServerContext* context,
                                             const v1::RevokeSecretRequest* request, v1::Secret* response) {
  const auto told = [&] { return fmt::format("secret {}", request->name()); };
  return parts_.runner.Run(
      *context, "/sealift.v1.SecretService/RevokeSecret", told, [&](const Caller&) -> Status {
        SEALIFT_RETURN_IF_ERROR(CheckText("name", request->name(), kMaxIdBytes));
        SEALIFT_ASSIGN_OR_RETURN(const SecretRecord record,
                                 parts_.secrets.Revoke(request->name(), parts_.clock.Now()));
        *response = ToProto(record);
        return OkStatus();
      });
}

}  // namespace sealift::controller
