#include "controller/api/admission_service.h"

#include <fmt/format.h>

#include <algorithm>

#include "controller/api/convert.h"
#include "shared/base/log.h"
#include "shared/wire/convert.h"

namespace sealift::controller {
namespace {

constexpr std::uint32_t kMaxPage = 1000;
constexpr std::size_t kMaxTokens = 1000;
constexpr std::uint32_t kDefaultRefusals = 100;
constexpr std::uint32_t kMaxRefusals = 10'000;
constexpr std::size_t kMaxCsvBytes = 4u << 20;
constexpr std::size_t kMaxNoteBytes = 512;
constexpr std::size_t kMaxIdBytes = 64;
constexpr std::uint32_t kMaxTokenUses = 10'000;
constexpr std::chrono::milliseconds kMinTokenLife = std::chrono::minutes(1);
constexpr std::chrono::milliseconds kMaxTokenLife = std::chrono::hours(24 * 30);

std::string NotAudited() { return {}; }

std::string HexOf(const std::string& bytes) {
  return HexEncode(AsBytes(std::string_view(bytes).substr(0, 64)));
}

Status Bad(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, what);
}

v1::InventoryEntry ToProto(const InventoryEntry& entry) {
  v1::InventoryEntry out;
  out.set_ek_digest(wire::ToWire(entry.ek.ek_digest));
  out.set_serial(entry.serial);
  out.mutable_labels()->insert(entry.ek.labels.begin(), entry.ek.labels.end());
  out.set_note(entry.ek.note);
  out.set_listed_by(entry.ek.admitted_by);
  out.set_listed_unix_ms(ToUnixMs(entry.ek.at));
  if (entry.node_id) out.set_node_id(entry.node_id->text());
  return out;
}

v1::JoinToken::State StateOf(const JoinToken& token, UnixMillis now) {
  if (token.revoked) return v1::JoinToken::REVOKED;
  if (token.expires <= now) return v1::JoinToken::EXPIRED;
  return token.used >= token.uses ? v1::JoinToken::USED_UP : v1::JoinToken::USABLE;
}

v1::JoinToken ToProto(const JoinToken& token, UnixMillis now) {
  v1::JoinToken out;
  out.set_id(token.id);
  out.set_state(StateOf(token, now));
  out.set_uses(token.uses);
  out.set_used(token.used);
  out.set_created_unix_ms(ToUnixMs(token.created));
  out.set_expires_unix_ms(ToUnixMs(token.expires));
  out.set_created_by(token.created_by);
  out.set_note(token.note);
  out.mutable_labels()->insert(token.labels.begin(), token.labels.end());
  return out;
}

v1::Refusal ToProto(const Refusal& refusal) {
  v1::Refusal out;
  out.set_ek_digest(wire::ToWire(refusal.ek_digest));
  if (refusal.node_id) out.set_node_id(refusal.node_id->text());
  out.set_reason(refusal.reason);
  out.set_message(refusal.message);
  out.set_origin(refusal.origin);
  out.set_count(refusal.count);
  out.set_first_unix_ms(ToUnixMs(refusal.first));
  out.set_last_unix_ms(ToUnixMs(refusal.last));
  return out;
}

Result<JoinToken> TokenFrom(const v1::CreateJoinTokenRequest& request, const Caller& caller, UnixMillis now) {
  if (request.uses() == 0 || request.uses() > kMaxTokenUses) {
    return Bad(fmt::format("create join token: it is good for 1 to {} machines", kMaxTokenUses));
  }
  const std::chrono::milliseconds life(request.lifetime_ms());
  if (life < kMinTokenLife || life > kMaxTokenLife) {
    return Bad("create join token: it lives one minute to 30 days");
  }
  SEALIFT_RETURN_IF_ERROR(CheckText("note", request.note(), kMaxNoteBytes));
  JoinToken token{.uses = request.uses(),
                  .created = now,
                  .expires = now + life,
                  .created_by = caller.operator_name,
                  .note = request.note(),
                  .labels = {request.labels().begin(), request.labels().end()}};
  SEALIFT_RETURN_IF_ERROR(CheckLabels(token.labels));
  return token;
}

}  // namespace

grpc::Status AdmissionServiceImpl::ListInventory(grpc::ServerContext* context,
                                                 const v1::ListInventoryRequest* request,
                                                 v1::ListInventoryResponse* response) {
  return parts_.runner.Run(
      *context, "/sealift.v1.AdmissionService/ListInventory", NotAudited, [&](const Caller&) -> Status {
        InventoryQuery query{.not_enrolled = request->not_enrolled()};
        query.limit = request->limit() == 0 ? kMaxPage : std::min(request->limit(), kMaxPage);
        if (!request->after_ek_digest().empty()) {
          SEALIFT_ASSIGN_OR_RETURN(query.after,
                                   wire::DigestFromWire("after_ek_digest", request->after_ek_digest()));
        }
        SEALIFT_ASSIGN_OR_RETURN(const auto entries, parts_.inventory.List(query));
        for (const InventoryEntry& entry : entries) *response->add_entries() = ToProto(entry);
        return OkStatus();
      });
}

grpc::Status AdmissionServiceImpl::ListJoinTokens(grpc::ServerContext* context,
                                                  const v1::ListJoinTokensRequest*,
                                                  v1::ListJoinTokensResponse* response) {
  return parts_.runner.Run(*context, "/sealift.v1.AdmissionService/ListJoinTokens", NotAudited,
                           [&](const Caller&) -> Status {
                             SEALIFT_ASSIGN_OR_RETURN(const auto tokens, parts_.join_tokens.List(kMaxTokens));
                             const UnixMillis now = parts_.clock.Now();
                             for (const JoinToken& token : tokens) {
                               *response->add_tokens() = ToProto(token, now);
                             }
                             return OkStatus();
                           });
}

grpc::Status AdmissionServiceImpl::ListRefusals(grpc::ServerContext* context,
                                                const v1::ListRefusalsRequest* request,
                                                v1::ListRefusalsResponse* response) {
  return parts_.runner.Run(
      *context, "/sealift.v1.AdmissionService/ListRefusals", NotAudited, [&](const Caller&) -> Status {
        std::optional<NodeId> node;
        if (!request->node_id().empty()) {
          SEALIFT_ASSIGN_OR_RETURN(node, NodeId::Parse(request->node_id()));
        }
        const std::uint32_t limit =
            request->limit() == 0 ? kDefaultRefusals : std::min(request->limit(), kMaxRefusals);
        SEALIFT_ASSIGN_OR_RETURN(const auto refusals, parts_.refusals.List(node, limit));
        for (const Refusal& refusal : refusals) *response->add_refusals() = ToProto(refusal);
        return OkStatus();
      });
}

grpc::Status AdmissionServiceImpl::ImportInventory(grpc::ServerContext* context,
                                                   const v1::ImportInventoryRequest* request,
                                                   v1::ImportInventoryResponse* response) {
  const auto text = [&] {
    return fmt::format("bytes={} added={} replaced={}", request->csv().size(), response->added(),
                       response->replaced());
  };
  return parts_.runner.Run(
      *context, "/sealift.v1.AdmissionService/ImportInventory", text, [&](const Caller& caller) -> Status {
        SEALIFT_RETURN_IF_ERROR(CheckText("csv", request->csv(), kMaxCsvBytes));
        SEALIFT_ASSIGN_OR_RETURN(std::vector<InventoryEntry> entries, ParseInventory(request->csv()));
        const UnixMillis now = parts_.clock.Now();
        for (InventoryEntry& entry : entries) {
          entry.ek.admitted_by = caller.operator_name;
          entry.ek.at = now;
        }
        SEALIFT_ASSIGN_OR_RETURN(const InventoryChange change, parts_.inventory.Import(entries));
        response->set_added(change.added);
        response->set_replaced(change.replaced);
        return OkStatus();
      });
}

grpc::Status AdmissionServiceImpl::WithdrawEk(grpc::ServerContext* context,
                                              const v1::WithdrawEkRequest* request, v1::WithdrawEkResponse*) {
  const auto text = [&] { return fmt::format("ek={}", HexOf(request->ek_digest())); };
  return parts_.runner.Run(
      *context, "/sealift.v1.AdmissionService/WithdrawEk", text, [&](const Caller&) -> Status {
        SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest,
                                 wire::DigestFromWire("ek_digest", request->ek_digest()));
        return parts_.inventory.Withdraw(digest);
      });
}

grpc::Status AdmissionServiceImpl::CreateJoinToken(grpc::ServerContext* context,
                                                   const v1::CreateJoinTokenRequest* request,
                                                   v1::CreateJoinTokenResponse* response) {
  const auto text = [&] {
    return fmt::format("id={} uses={} lifetime_ms={} note={}", response->token().id(), request->uses(),
                       request->lifetime_ms(), request->note().substr(0, kMaxNoteBytes));
  };
  return parts_.runner.Run(*context, "/sealift.v1.AdmissionService/CreateJoinToken", text,
                           [&](const Caller& caller) -> Status {
                             const UnixMillis now = parts_.clock.Now();
                             SEALIFT_ASSIGN_OR_RETURN(JoinToken token, TokenFrom(*request, caller, now));
                             const NewJoinToken made = MakeJoinToken();
                             token.id = made.id;
                             token.hash = made.hash;
                             SEALIFT_RETURN_IF_ERROR(parts_.join_tokens.Create(token));
                             *response->mutable_token() = ToProto(token, now);
                             response->set_secret(made.secret);
                             return OkStatus();
                           });
}

grpc::Status AdmissionServiceImpl::RevokeJoinToken(grpc::ServerContext* context,
                                                   const v1::RevokeJoinTokenRequest* request,
                                                   v1::JoinToken* response) {
  const auto text = [&] { return fmt::format("id={}", request->id().substr(0, kMaxIdBytes)); };
  return parts_.runner.Run(
      *context, "/sealift.v1.AdmissionService/RevokeJoinToken", text, [&](const Caller&) -> Status {
        SEALIFT_RETURN_IF_ERROR(CheckText("id", request->id(), kMaxIdBytes));
        SEALIFT_ASSIGN_OR_RETURN(const JoinToken token, parts_.join_tokens.Revoke(request->id()));
        *response = ToProto(token, parts_.clock.Now());
        return OkStatus();
      });
}

grpc::Status AdmissionServiceImpl::ReplaceEk(grpc::ServerContext* context,
                                             const v1::ReplaceEkRequest* request, v1::ReplaceEkResponse*) {
  const auto text = [&] {
    return fmt::format("id={} ek={} reason={}", request->node_id().substr(0, kMaxIdBytes),
                       HexOf(request->ek_digest()), request->reason().substr(0, kMaxNoteBytes));
  };
  return parts_.runner.Run(
      *context, "/sealift.v1.AdmissionService/ReplaceEk", text, [&](const Caller&) -> Status {
        SEALIFT_RETURN_IF_ERROR(CheckText("reason", request->reason(), kMaxNoteBytes));
        SEALIFT_ASSIGN_OR_RETURN(const NodeId id, NodeId::Parse(request->node_id()));
        SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest,
                                 wire::DigestFromWire("ek_digest", request->ek_digest()));
        SEALIFT_RETURN_IF_ERROR(parts_.inventory.ReplaceEk(id, digest, parts_.clock.Now()));
        log::Warning("endorsement key of a node replaced", {{"node", id.text()}, {"key", digest.hex()}});
        return OkStatus();
      });
}

}  // namespace sealift::controller
